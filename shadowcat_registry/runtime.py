"""A registry that follows its manifest: the door, for whoever owns one and whoever asks about it.

A watch says that the file may have changed, one worker reloads (`reload_worker`), each reload comes to a
verdict (`reload`), and `outcomes` is what follows from that. The last good generation keeps serving whatever
the file looks like. Subscribers run in the worker's thread (at the start, in the caller's), hooks and
factories in one beside it that can be given up, and none under a lock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, overload

from . import forks
from .announce import Announcer, Cause
from .catalog import Catalog
from .closing import HangingClose
from .conditions import conditions
from .errors import RegistryForkedError, RuntimeClosedError
from .events import Subscriber
from .health_monitor import HealthMonitor
from .last_good import LastGood
from .load import ManifestLoader
from .manifest import Manifest
from .metadata import RevisionInfo, serving_default
from .outcomes import Outcomes
from .preview import PlanReport
from .progress import Progress, place_of
from .reconcile import Report, holders_of
from .registry import StorageProviderRegistry
from .reload import Reloader
from .reload_worker import ReloadWorker
from .standing import Standing
from .status import HistoryEntry, Outcome, Status, Step
from .watch import Watch, WatchMode

if TYPE_CHECKING:
    from .control import ControlServer


_LOOK_AGAIN_SECONDS: Final = 0.1
"""How often to look for a generation that code has made: nobody is told of those."""

_LEAST_CLOSE_SECONDS: Final = 0.5
"""What the storages have for closing, however long the rest took."""
_HANG_UP_SECONDS: Final = 1.0
"""What those who ask over the control socket have for taking their answers."""

_logger = logging.getLogger(__name__)


class Runtime:
    """Keeps `registry` on what the manifest at `path` says. Made by `open_registry`, which starts it.

    In a forked child it is `stopped`: nothing follows the file there. Open the registry anew.

    Without a `path` there is nothing to follow; it only gives the registry an owner and an end. Unless
    `eager`, no storage is opened before it is used, not even the default. With `control`, operators can ask
    the process over a socket (see `control`); where there can be none, the log says why. `watch_mode` and
    `poll_interval_seconds` hold whatever the manifest says under `reload`; None: what it says.
    `last_good`: whether the last good manifest is kept in the state directory, and also used, where the one
    at `path` cannot be.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        registry: StorageProviderRegistry | None = None,
        catalog: Catalog | None = None,
        environ: Mapping[str, str] | None = None,
        eager: bool = True,
        watch: bool = True,
        watch_mode: WatchMode | None = None,
        poll_interval_seconds: float | None = None,
        control: bool = False,
        last_good: Literal["ignore", "keep", "use"] = "ignore",
    ) -> None:
        self.path = None if path is None else Path(os.path.abspath(path))  # noqa: PTH100 - keeps links
        self.registry = registry or StorageProviderRegistry(
            base_directory=self.path.parent if self.path is not None else None
        )
        self._stopping = threading.Event()  # set under the condition, so that who waits there sees it
        self._closer: threading.Thread | None = None
        self._cancel_retired: Callable[[], None] | None = None
        self._forked = False
        forks.in_child(self, Runtime._start_anew)

        self._progress = Progress(self._returned)
        self._standing = Standing(self._progress)
        self._worker = ReloadWorker(self._standing, self._stopping, self._reload, self._tend)
        self._announcer = Announcer(self.path, self.registry, self._standing, self._progress)

        self._loader: ManifestLoader | None = None
        self._reloader: Reloader | None = None
        self._watch: Watch | None = None
        self._watch_mode, self._poll_interval_seconds = watch_mode, poll_interval_seconds
        self._last_good: LastGood | None = None
        self._uses_last_good = last_good == "use"
        self._health_monitor = HealthMonitor(self.registry) if eager else None
        self._control: ControlServer | None = None
        if self.path is not None:
            catalog = catalog or Catalog()
            self._loader = ManifestLoader(self.path, catalog, environ=environ, cancelled=self._stopping)
            self._reloader = Reloader(
                self.path, self._loader, self.registry, catalog, self._progress, self._stopping, eager=eager
            )
            if watch:
                self._watch = Watch(self._files, self._tick, listings=self._loader.listings)
            if last_good != "ignore":
                self._last_good = LastGood(self.path, environ)
            if control:
                # Here, not where it starts: it is slow to import, and has to hear the first event.
                from .control import ControlServer

                self._control = ControlServer(self, self.path)
        self._outcomes = Outcomes(
            self.registry,
            self._standing,
            self._announcer,
            self._worker.retry,
            self._last_good,
            self._watch,
            self._follow,
            self._look_after_health,
        )

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Load and apply the manifest, then follow it. On an error nothing is left running.

        Raises:
            ManifestNotFoundError, ManifestError: the manifest cannot be applied, with all findings.
            RuntimeClosedError: it was closed, before or meanwhile.
            RuntimeError: it was started before.
        """
        with self._standing.changed:
            if self._stopping.is_set():
                raise RuntimeClosedError
            worker = self._worker.begin()
        began, standing = monotonic(), self._standing
        try:
            report = self._load_first()
        except BaseException:
            with standing.changed:
                self._worker.begin_again()
            self._give_plugins_up()
            raise
        self._cancel_retired = self.registry.on_retired(self._worker.note_left)
        with standing.changed:
            is_closed = self._stopping.is_set()
            is_good = standing.started_from is None
            if not is_closed:
                standing.set_state("ok" if is_good else "degraded")
                digest = standing.manifest.digest if standing.manifest is not None else None
                standing.record("started", began, report.generation, standing.findings, digest)
        if is_closed:
            self._cancel_retired()
            raise RuntimeClosedError
        self._announcer.publish("started", report)
        if not is_good:
            self._announcer.publish("degraded", None, findings=standing.findings)
        self._outcomes.keep_if_good()
        try:
            worker.start()
            if self._watch is not None:
                self._watch.start()
                if self._stopping.is_set():  # a subscriber has closed it, before there was a watch to stop
                    self._watch.stop()
            self._look_after_health()
            self._start_control()
        except RuntimeError:  # no thread to be had
            self.close()
            raise

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Stop following, close every storage, and say `stopped`, as the last event.

        Foreign code that is still running after `timeout_seconds` is named in the log and left alone;
        what it was reloading is not committed any more. May be called from a subscriber, a hook or a
        factory. Idempotent: a second call waits for the first, unless that would wait for itself.
        """
        current = threading.current_thread()
        if self._forked:  # what runs here is the parent's; what the child has opened itself is not
            self.registry.close(timeout_seconds)
            return
        standing = self._standing
        with standing.changed:
            if self._stopping.is_set():
                if current not in (self._closer, self._worker.thread) and not self._progress.runs_here():
                    standing.changed.wait_for(lambda: standing.state == "stopped", timeout_seconds)
                return
            self._stopping.set()
            self._closer = current
            started = standing.state != "stopped"
            standing.changed.notify_all()
        deadline = monotonic() + timeout_seconds
        if self._watch is not None:
            self._watch.stop(timeout_seconds)
        worker = self._worker.thread
        is_own = worker is current or self._progress.runs_here()
        if worker is not None and not is_own and worker.is_alive():
            worker.join(max(0.0, deadline - monotonic()))
            if worker.is_alive():
                what = self._progress.phase() or f"a subscriber, at {place_of(worker)}"
                _logger.warning("after %g s a reload still runs and is left: %s", timeout_seconds, what)
        if self._health_monitor is not None:
            self._health_monitor.stop(max(_LEAST_CLOSE_SECONDS, deadline - monotonic()))
        if self._cancel_retired is not None:
            self._cancel_retired()
        self.registry.close(max(_LEAST_CLOSE_SECONDS, deadline - monotonic()))
        self._give_plugins_up()
        with standing.changed:
            standing.set_state("stopped")
            standing.changed.notify_all()
        if started:
            self._announcer.publish("stopped", None)
        if self._last_good is not None:
            self._last_good.close(_HANG_UP_SECONDS)
        if self._control is not None:
            self._control.stop(_HANG_UP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ what users ask

    @overload
    def reload(self, *, wait: Literal[True] = True, timeout_seconds: float | None = None) -> Outcome: ...
    @overload
    def reload(self, *, wait: Literal[False]) -> None: ...
    def reload(self, *, wait: bool = True, timeout_seconds: float | None = None) -> Outcome | None:
        """Read the manifest now, and return what came of it: of a reload that began after this call. Unless
        `wait`, only ask for it.

        Raises:
            RuntimeClosedError: the runtime was closed, or never started, or has no manifest.
            RegistryForkedError: this is a forked child of the process that follows the manifest.
            TimeoutError: there is no outcome yet; the reload goes on.
            RuntimeError: it is to wait, in a subscriber, a hook or a factory: it would wait for itself.
        """
        if not wait:
            self._ask(explicit=True)
            return None
        worker, standing = self._worker, self._standing
        is_starting = worker.is_starting and standing.state != "stopped"
        if is_starting or threading.current_thread() is worker.thread or self._progress.runs_here():
            raise RuntimeError("reload() waits for the thread that it was called in; use reload(wait=False)")
        ticket = self._ask(explicit=True)
        with standing.changed:
            done = standing.changed.wait_for(
                lambda: worker.done >= ticket or standing.state == "stopped", timeout_seconds
            )
            if worker.done >= ticket and standing.last_reload is not None:
                return standing.last_reload
            if done:
                raise RuntimeClosedError
        raise TimeoutError(f"the reload has no outcome after {timeout_seconds} s")

    def plan(self) -> PlanReport:
        """What a reload would do now, and what is in its way. Reads the manifest, and changes nothing.

        Raises:
            RuntimeClosedError: the runtime was closed, or never started, or has no manifest.
            RegistryForkedError: this is a forked child of the process that follows the manifest.
        """
        if self._forked:
            raise RegistryForkedError(f"the runtime of {self.path}")
        with self._standing.changed:
            running, state = self._standing.manifest, self._standing.state
        if self._reloader is None or running is None or state == "stopped":
            raise RuntimeClosedError
        return self._reloader.preview(running)

    def history(self) -> tuple[HistoryEntry, ...]:
        """The last fifty commits, refusals and retirements, the oldest first."""
        return self._announcer.journal.entries()

    @property
    def is_following(self) -> bool:
        """Whether its threads live, so that a change of the manifest will be applied."""
        worker, watch = self._worker.thread, self._watch
        lives = worker is not None and worker.is_alive() and not self._stopping.is_set()
        return lives and (watch is None or watch.status().is_running)

    @property
    def manifest(self) -> Manifest | None:
        """What is running; None before the start, and where there is no file to follow."""
        with self._standing.changed:
            return self._standing.manifest

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(event)` with every event from now on; returns what ends that."""
        return self._announcer.subscribers.add(subscriber)

    def wait_for(self, generation: int, timeout_seconds: float | None = None) -> bool:
        """Wait until the registry has come to this generation; False: it has not, in this time, or before
        the runtime was closed."""
        deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
        changed = self._standing.changed
        with changed:
            while not (is_there := self.registry.snapshot().generation >= generation):
                rest = _LOOK_AGAIN_SECONDS if deadline is None else deadline - monotonic()
                if rest <= 0 or self._stopping.is_set():
                    break
                changed.wait(min(rest, _LOOK_AGAIN_SECONDS))
        return is_there

    def status(self) -> Status:
        """Everything that an operator asks first; never waits for a reload."""
        standing = self._standing
        with standing.changed:
            state, manifest, since = standing.state, standing.manifest, standing.state_since
            last_reload, findings = standing.last_reload, standing.findings
            retiring_since = dict(standing.retiring_since)
            retry_in_seconds = self._worker.retry.remaining_seconds()
            reloads = dict(standing.reloads)
        snapshot = self.registry.snapshot()
        providers = tuple(self.registry.list_providers())
        closes = self.registry.hanging()
        hanging_since = [close.given_up_at for close in closes]
        if (first := self._progress.hanging_since()) is not None:
            hanging_since.append(first)
        hanging = (*self._progress.hanging(), *map(_as_step, closes))
        retiring = [info.name for info in providers if info.state == "retiring"]
        held = holders_of(self.registry, [info.name for info in providers if info.instance_count])
        return Status(
            state=state,
            manifest=str(self.path) if self.path is not None else None,
            generation=snapshot.generation,
            digest=manifest.digest if manifest is not None else None,
            default=serving_default(snapshot.default, snapshot),
            last_reload=last_reload,
            providers=providers,
            holders={name: tuple(holders) for name, holders in held.items() if holders},
            findings=findings,
            watch=self._watch.status() if self._watch is not None else None,
            control=str(control.path) if (control := self._control) and control.path else None,
            phase=self._progress.phase(),
            hanging=hanging,
            conditions=conditions(
                state,
                since,
                findings,
                {name: retiring_since.get(name) for name in retiring},
                hanging,
                min(hanging_since, default=None),
                providers,
            ),
            revisions={info.name: tuple(self._revisions(info.name)) for info in providers},
            retry_in_seconds=retry_in_seconds,
            reloads=reloads,
            last_good=self._last_good.status() if self._last_good is not None else None,
            plugins=self._loader.plugins(manifest) if self._loader is not None and manifest else (),
        )

    # ------------------------------------------------------------------ inside

    def _load_first(self) -> Report:
        if self._reloader is None:
            return Report.nothing(self.registry.snapshot().generation)
        accepted = self._reloader.load_first(self._last_good if self._uses_last_good else None)
        self._outcomes.note_start(accepted)
        return accepted.report

    def _reload(self, cause: Cause, explicit: bool) -> None:
        if self._reloader is not None:
            self._outcomes.reload(self._reloader, cause, explicit=explicit)

    def _give_plugins_up(self) -> None:
        """Nothing runs here any more; whoever opens the registry anew imports them anew."""
        if self._loader is not None:
            self._loader.keep(None)

    def _tend(self, left: tuple[str, ...]) -> None:
        """What nobody tells is looked for; of what has left, others are told."""
        self.registry.sweep()
        self._outcomes.look_for_free()
        if left:
            with self._standing.changed:
                self._standing.note_retired(left)
            self._announcer.publish("retired", None, removed=left)
        if self._loader is not None:
            self._loader.tidy(self._old_revisions)

    def _old_revisions(self) -> Hashable:
        """Those that are still in use: by the code that they were opened with."""
        found = [(name, it.number) for name in self.registry for it in self._revisions(name) if it.superseded]
        return frozenset(found)

    def _follow(self, manifest: Manifest) -> None:
        """In the way that it asks for, where code has not said how."""
        if self._watch is not None:
            asked, interval = manifest.reload, self._poll_interval_seconds
            self._watch.configure(
                mode=self._watch_mode or asked.mode,
                poll_interval_seconds=asked.poll_interval_seconds if interval is None else interval,
            )

    def _start_control(self) -> None:
        if self._control is None:
            return
        try:
            self._control.start()
        except OSError as error:  # no reason not to run
            _logger.warning("there is no control socket: %s", error.strerror or error)

    def _look_after_health(self) -> None:
        if self._health_monitor is not None:
            self._health_monitor.look()

    def _revisions(self, name: str) -> Sequence[RevisionInfo]:
        with suppress(LookupError):  # it may have left since it was listed
            return self.registry.revisions(name)
        return ()

    def _files(self) -> tuple[Path, ...]:
        manifest = self.manifest
        running = manifest.files if manifest is not None else ()
        # Those that a rejected manifest asks for too: to mend one of them is to mend the manifest.
        return running if self._loader is None else tuple(dict.fromkeys([*running, *self._loader.files()]))

    def _tick(self) -> None:
        with suppress(RuntimeClosedError):
            self._ask(explicit=False)

    def _returned(self) -> None:
        self._worker.note_returned()

    def _start_anew(self) -> None:
        """In a forked child: the threads are the parent's, and so is whatever they were doing."""
        self._forked = True
        self._standing.start_anew()

    def _ask(self, *, explicit: bool) -> int:
        if self._forked:
            raise RegistryForkedError(f"the runtime of {self.path}")
        with self._standing.changed:
            if self._stopping.is_set() or self._standing.state == "stopped" or self.path is None:
                raise RuntimeClosedError
            return self._worker.ask(explicit=explicit)


def _as_step(close: HangingClose) -> Step:
    what = f"closing the storage of provider {close.provider!r}, revision {close.revision},"
    return Step(what, close.provider, close.age_seconds, place_of(close.thread))
