"""A registry that follows its manifest: tick → read → manifest → plan → reconcile.

One worker thread does every reload; it is told that something may have changed, never what. The last
good generation keeps serving whatever the file looks like. Subscribers run in the worker thread (at the
start, in the caller's), hooks and factories in one beside it that can be given up, and none under a lock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, overload

from . import forks
from .backoff import Backoff
from .catalog import Catalog
from .conditions import conditions
from .errors import Finding, ManifestError, ManifestNotFoundError, RegistryForkedError, RuntimeClosedError
from .events import Event, EventName, Subscriber, Subscribers
from .health_monitor import HealthMonitor
from .journal import Journal
from .last_good import KeptManifest, LastGood, NothingKeptError
from .load import ManifestLoader
from .manifest import Manifest
from .marks import Mark
from .metadata import Holder, RevisionInfo, format_time
from .preview import PlanReport
from .progress import OverdueError, Progress, place_of
from .reconcile import Report, preview_reload, reconcile
from .registry import StorageProviderRegistry
from .status import HistoryEntry, Outcome, Result, RuntimeState, Status
from .watch import Watch, WatchMode

if TYPE_CHECKING:
    from .control import ControlServer


_SECOND_LOOK_SECONDS: Final = 1.0
"""How long a wrong file has to stay the same before it is reported: it may still be in the making."""
_LONGEST_DOUBT_SECONDS: Final = 5.0
"""A file that is wrong in ever new ways is reported after this."""
_LOOK_AGAIN_SECONDS: Final = 0.1
"""How often to look for a generation that code has made: nobody is told of those."""

_SWEEP_SECONDS: Final = 1.0
"""How often to look for handles that were dropped unclosed: the collector can tell nobody."""
_LEAST_CLOSE_SECONDS: Final = 0.5
"""What the storages have for closing, however long the rest took."""
_HANG_UP_SECONDS: Final = 1.0
"""What those who ask over the control socket have for taking their answers."""

_logger = logging.getLogger(__name__)
_event_logger = logging.getLogger(f"{__package__}.events")


@dataclass(slots=True)
class _Requests:
    """What the worker is asked for; guarded by the runtime's condition."""

    asked: int = 0
    done: int = 0
    explicit: bool = False
    """Somebody waits for a verdict: a wrong file is not looked at twice."""
    retry: Backoff = field(default_factory=Backoff)
    """Of what was refused for a reason that may pass by itself."""
    left: list[str] = field(default_factory=list)
    """Retiring providers that have gone since."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a reload changed nothing."""

    state: Literal["degraded", "rejected"]
    findings: tuple[Finding, ...]
    digest: str | None
    """Of the manifest that was refused, where it could be read."""
    retryable: bool
    """It may be accepted later, as it is."""

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The providers that are not to be in use."""
        return tuple(str(finding.pointer[1]) for finding in self.findings if finding.code == "SC708")


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A wrong file that may be in the making. Times are those of `monotonic()`."""

    findings: tuple[Finding, ...]
    until: float
    """If it is the same by then, it is meant."""
    at_most_until: float


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
        self._catalog = catalog or Catalog()
        self._loader = (
            None if self.path is None else ManifestLoader(self.path, self._catalog, environ=environ)
        )
        self._eager = eager
        self._subscribers = Subscribers()
        # Guards the fields below and `_requests`; nothing foreign is called under it.
        self._changed = threading.Condition()
        self._requests = _Requests()
        self._stopping = threading.Event()  # set under the condition, so that who waits there sees it
        self._closer: threading.Thread | None = None
        self._state: RuntimeState = "stopped"
        self._state_since: datetime | None = None
        self._retiring_since: dict[str, datetime] = {}
        self._journal = Journal()
        self._progress = Progress(self._returned)
        self._cause = "start"  # only the worker's, once it runs
        self._waits_for: tuple[str, ...] = ()  # dito
        self._manifest: Manifest | None = None
        self._findings: tuple[Finding, ...] = ()
        self._last_reload: Outcome | None = None
        self._reloads: dict[Result, int] = {}
        self._doubt: _Doubt | None = None  # only the worker's
        self._cancel_retired: Callable[[], None] | None = None
        self._worker: threading.Thread | None = None
        self._forked = False
        forks.in_child(self, Runtime._start_anew)
        self._watch: Watch | None = None
        if watch and self.path is not None:
            self._watch = Watch(
                self._files,
                self._tick,
                listings=self._loader.listings if self._loader is not None else dict,
            )
        self._watch_mode, self._poll_interval_seconds = watch_mode, poll_interval_seconds
        self._last_good: LastGood | None = None
        if last_good != "ignore" and self.path is not None:
            self._last_good = LastGood(self.path, environ)
        self._uses_last_good = last_good == "use"
        self._started_from: KeptManifest | None = None
        """What serves until there is a good manifest."""
        self._health_monitor = HealthMonitor(self.registry) if eager else None
        self._control: ControlServer | None = None
        if control and self.path is not None:
            # Here, not where it starts: it is slow to import, and has to hear the first event.
            from .control import ControlServer

            self._control = ControlServer(self, self.path)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Load and apply the manifest, then follow it. On an error nothing is left running.

        Raises:
            ManifestNotFoundError, ManifestError: the manifest cannot be applied, with all findings.
            RuntimeClosedError: it was closed, before or meanwhile.
            RuntimeError: it was started before.
        """
        with self._changed:
            if self._stopping.is_set():
                raise RuntimeClosedError
            if self._worker is not None:
                raise RuntimeError("this runtime was started already; make a new one")
            self._worker = threading.Thread(target=self._work, name="shadowcat-reload", daemon=True)
        began = monotonic()
        try:
            report = self._apply_first()
        except BaseException:
            with self._changed:
                self._worker = None
            raise
        self._cancel_retired = self.registry.on_retired(self._left)
        with self._changed:
            is_closed = self._stopping.is_set()
            if not is_closed:
                self._set_state("ok" if self._started_from is None else "degraded")
                digest = self._manifest.digest if self._manifest is not None else None
                self._record("started", began, report.generation, self._findings, digest)
        if is_closed:
            self._cancel_retired()
            raise RuntimeClosedError
        self._publish("started", report)
        if self._started_from is not None:
            self._publish("degraded", None, findings=self._findings)
        self._keep_if_good()
        try:
            self._worker.start()
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
        with self._changed:
            if self._stopping.is_set():
                if current not in (self._closer, self._worker) and not self._progress.runs_here():
                    self._changed.wait_for(lambda: self._state == "stopped", timeout_seconds)
                return
            self._stopping.set()
            self._closer = current
            started = self._state != "stopped"
            self._changed.notify_all()
        deadline = monotonic() + timeout_seconds
        if self._watch is not None:
            self._watch.stop(timeout_seconds)
        worker = self._worker
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
        with self._changed:
            self._set_state("stopped")
            self._changed.notify_all()
        if started:
            self._publish("stopped", None)
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
        worker = self._worker
        is_starting = worker is not None and worker.ident is None and self._state != "stopped"
        if is_starting or threading.current_thread() is worker or self._progress.runs_here():
            raise RuntimeError("reload() waits for the thread that it was called in; use reload(wait=False)")
        ticket = self._ask(explicit=True)
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._requests.done >= ticket or self._state == "stopped", timeout_seconds
            )
            if self._requests.done >= ticket and self._last_reload is not None:
                return self._last_reload
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
        with self._changed:
            running, state = self._manifest, self._state
        if self._loader is None or running is None or state == "stopped":
            raise RuntimeClosedError
        try:
            return preview_reload(self.registry, self._loader.load(), running)
        except ManifestNotFoundError as error:
            refused = ManifestError([self._missing(error)])
        except ManifestError as error:
            refused = error
        findings, digest = refused.findings, refused.digest
        generation = self.registry.snapshot().generation
        return PlanReport(str(self.path), generation, running.digest, digest, findings=findings)

    def history(self) -> tuple[HistoryEntry, ...]:
        """The last fifty commits, refusals and retirements, the oldest first."""
        return self._journal.entries()

    @property
    def is_following(self) -> bool:
        """Whether its threads live, so that a change of the manifest will be applied."""
        worker, watch = self._worker, self._watch
        lives = worker is not None and worker.is_alive() and not self._stopping.is_set()
        return lives and (watch is None or watch.status().is_running)

    @property
    def manifest(self) -> Manifest | None:
        """What is running; None before the start, and where there is no file to follow."""
        with self._changed:
            return self._manifest

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(event)` with every event from now on; returns what ends that."""
        return self._subscribers.add(subscriber)

    def wait_for(self, generation: int, timeout_seconds: float | None = None) -> bool:
        """Wait until the registry has come to this generation; False: it has not, in this time, or before
        the runtime was closed."""
        deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
        with self._changed:
            while not (is_there := self.registry.snapshot().generation >= generation):
                rest = _LOOK_AGAIN_SECONDS if deadline is None else deadline - monotonic()
                if rest <= 0 or self._stopping.is_set():
                    break
                self._changed.wait(min(rest, _LOOK_AGAIN_SECONDS))
        return is_there

    def status(self) -> Status:
        """Everything that an operator asks first; never waits for a reload."""
        with self._changed:
            state, manifest, since = self._state, self._manifest, self._state_since
            last_reload, findings = self._last_reload, self._findings
            retiring_since = dict(self._retiring_since)
            retry_in_seconds = self._requests.retry.remaining_seconds()
            reloads = dict(self._reloads)
        snapshot = self.registry.snapshot()
        providers = tuple(self.registry.list_providers())
        retiring = [info.name for info in providers if info.state == "retiring"]
        held = {info.name: tuple(self._holders(info.name)) for info in providers if info.instance_count}
        return Status(
            state=state,
            manifest=str(self.path) if self.path is not None else None,
            generation=snapshot.generation,
            digest=manifest.digest if manifest is not None else None,
            default=snapshot.default,
            last_reload=last_reload,
            providers=providers,
            holders={name: holders for name, holders in held.items() if holders},
            findings=findings,
            watch=self._watch.status() if self._watch is not None else None,
            control=str(control.path) if (control := self._control) and control.path else None,
            phase=self._progress.phase(),
            hanging=self._progress.hanging(),
            conditions=conditions(
                state,
                since,
                findings,
                {name: retiring_since.get(name) for name in retiring},
                self._progress,
                providers,
            ),
            revisions={info.name: tuple(self._revisions(info.name)) for info in providers},
            retry_in_seconds=retry_in_seconds,
            reloads=reloads,
            last_good=self._last_good.status() if self._last_good is not None else None,
        )

    # ------------------------------------------------------------------ inside

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

    def _holders(self, name: str) -> Sequence[Holder]:
        with suppress(LookupError):  # it may have left since it was listed
            return self.registry.holders(name)
        return ()

    def _revisions(self, name: str) -> Sequence[RevisionInfo]:
        with suppress(LookupError):  # as above
            return self.registry.revisions(name)
        return ()

    def _files(self) -> tuple[Path, ...]:
        with self._changed:
            manifest = self._manifest
        running = manifest.files if manifest is not None else ()
        # Those that a rejected manifest asks for too: to mend one of them is to mend the manifest.
        return running if self._loader is None else tuple(dict.fromkeys([*running, *self._loader.files()]))

    def _tick(self) -> None:
        with suppress(RuntimeClosedError):
            self._ask(explicit=False)

    def _returned(self) -> None:
        """A step that a reload had given up has come back: what was refused for it may succeed now."""
        with self._changed:
            self._requests.retry.hurry()
            self._changed.notify_all()

    def _left(self, name: str) -> None:
        with self._changed:
            self._requests.left.append(name)
            self._requests.retry.hurry()  # perhaps that was what a reload waited for
            self._changed.notify_all()

    def _start_anew(self) -> None:
        """In a forked child: the threads are the parent's, and so is whatever they were doing."""
        self._changed = threading.Condition()
        self._forked, self._state = True, "stopped"

    def _ask(self, *, explicit: bool) -> int:
        if self._forked:
            raise RegistryForkedError(f"the runtime of {self.path}")
        with self._changed:
            if self._stopping.is_set() or self._state == "stopped" or self.path is None:
                raise RuntimeClosedError
            self._requests.asked += 1
            self._requests.explicit |= explicit
            self._changed.notify_all()
            return self._requests.asked

    def _work(self) -> None:
        requests = self._requests
        while True:
            with self._changed:
                retry_in_seconds = requests.retry.remaining_seconds()
                self._changed.wait_for(
                    lambda: (
                        self._stopping.is_set()
                        or requests.left
                        or requests.asked > requests.done
                        or requests.retry.remaining_seconds() == 0
                    ),
                    _SWEEP_SECONDS if retry_in_seconds is None else min(retry_in_seconds, _SWEEP_SECONDS),
                )
                left, requests.left = requests.left, []
                ticket, explicit = requests.asked, requests.explicit
                stopping = self._stopping.is_set()
                asked, retry = ticket > requests.done, requests.retry.remaining_seconds() == 0
                due = (asked or retry) and not stopping
                self._cause = "request" if explicit else "file" if asked else "retry"
                requests.explicit = False
            try:
                self.registry.sweep()
                self._look_for_free()
                if left:
                    with self._changed:
                        for name in left:
                            self._retiring_since.pop(name, None)
                    self._publish("retired", None, removed=tuple(left))
                if due:
                    self._reload(explicit=explicit)
            except RuntimeClosedError:  # in the middle of it: nobody gets an outcome
                continue
            except BaseException:  # nothing that foreign code raises ends the worker
                _logger.exception("following the manifest failed, and goes on")
            if due:
                with self._changed:
                    requests.done = ticket
                    self._changed.notify_all()
            if stopping:
                return

    def _apply_first(self) -> Report:
        if self._loader is None:
            return Report.nothing(self.registry.snapshot().generation)
        try:
            manifest = self._loader.load()
            report = self._reconcile_first(manifest)
        except (ManifestNotFoundError, ManifestError) as error:
            if self._last_good is None or not self._uses_last_good:
                raise
            manifest, report = self._apply_last_good(self._loader, self._last_good, error)
        self._manifest = manifest
        self._follow(manifest)
        for finding in manifest.warnings:
            _logger.warning("%s", finding)
        return report

    def _reconcile_first(self, manifest: Manifest) -> Report:
        try:
            report = self._reconcile(manifest, None)
        finally:
            self._progress.close()
        if report.findings:
            raise ManifestError(report.findings)
        return report

    def _follow(self, manifest: Manifest) -> None:
        """In the way that it asks for, where code has not said how."""
        if self._watch is not None:
            asked, interval = manifest.reload, self._poll_interval_seconds
            self._watch.configure(
                mode=self._watch_mode or asked.mode,
                poll_interval_seconds=asked.poll_interval_seconds if interval is None else interval,
            )

    def _apply_last_good(
        self, loader: ManifestLoader, last_good: LastGood, error: ManifestNotFoundError | ManifestError
    ) -> tuple[Manifest, Report]:
        """In the place of a manifest that cannot be used. Raises `error`, if this cannot be used either."""
        start = Mark.at_start(str(self.path))
        findings = (
            error.findings if isinstance(error, ManifestError) else (Finding("SC117", str(error), start),)
        )
        try:
            kept = last_good.read()
            manifest = loader.load_kept(kept.texts)
            report = self._reconcile_first(manifest)
        except NothingKeptError as reason:
            _logger.error("cannot start from the last good manifest either: %s", reason)
            raise error from None
        except ManifestError as other:
            _logger.error("cannot start from the last good manifest either: %s", other.findings[0])
            raise error from None
        message = (
            f"started from the last good manifest, kept {format_time(kept.at)}, "
            "since the one that is there cannot be used"
        )
        hint = "mend the file: this process follows it"
        self._started_from = kept
        self._findings = (Finding("SC710", message, start, hint=hint, severity="warning"), *findings)
        return manifest, report

    def _keep_if_good(self) -> None:
        """Whatever serves now, unless it is what was kept."""
        with self._changed:
            manifest = self._manifest if self._started_from is None else None
        if self._last_good is not None and manifest is not None:
            self._last_good.keep(manifest)

    def _reconcile(self, manifest: Manifest, running: Manifest | None) -> Report:
        return reconcile(
            self.registry,
            self._catalog,
            manifest,
            running=running,
            eager=self._eager,
            cancelled=self._stopping,
            progress=self._progress,
        )

    def _load(self, loader: ManifestLoader, running: Manifest) -> Manifest:
        """Checks of types are foreign code too.

        Raises:
            ManifestNotFoundError, ManifestError, OverdueError: there is none.
        """
        self._progress.enter("load")
        timeout_seconds = running.reload.step_timeout_seconds
        load = partial(loader.load, require_end_marker=running.reload.require_end_marker)
        return self._progress.run("loading the manifest", None, load, timeout_seconds)

    def _missing(self, error: ManifestNotFoundError) -> Finding:
        return Finding("SC117", f"{error}; what runs is kept", Mark.at_start(str(self.path)))

    def _reload(self, *, explicit: bool) -> None:
        """One reload, from reading to events.

        Raises:
            RuntimeClosedError: the runtime was closed before there was an outcome; nothing was changed.
        """
        self._progress.take_spent()  # with what the subscribers of the one before took
        began = monotonic()
        manifest: Manifest | None = None
        report: Report | None = None
        running = self._manifest
        path, loader = self.path, self._loader
        if path is None or loader is None or running is None:
            return
        absent = False
        digest: str | None = None
        start = Mark.at_start(str(path))
        try:
            manifest = self._load(loader, running)
            digest = manifest.digest
            report = self._reconcile(manifest, running)
            findings = report.findings
        except ManifestNotFoundError as error:
            absent = True
            findings = (self._missing(error),)
        except ManifestError as error:
            absent = any(finding.code == "SC103" for finding in error.findings)
            findings, digest = error.findings, error.digest
        except OverdueError as error:
            message = f"loading the manifest: {error}; what runs is kept"
            findings = (Finding("SC705", message, start),)
        except RuntimeClosedError:
            raise
        except BaseException as error:
            _logger.exception("a reload failed")
            message = f"the reload failed with {type(error).__name__}, see the log; what runs is kept"
            findings = (Finding("SC901", message, start),)
        finally:
            self._progress.enter(None)
            self._progress.close()
        generation = self.registry.snapshot().generation
        # What hangs is not called twice to make sure.
        is_overdue = any(finding.code == "SC705" for finding in findings)
        if findings and not explicit and not is_overdue and self._is_in_the_making(findings):
            _logger.debug("the manifest %s is wrong, and may be in the making: a second look is due", path)
            return
        self._doubt = None
        if findings or manifest is None or report is None:
            retryable = report.retryable if report is not None else is_overdue
            outcome = _Refusal("degraded" if absent else "rejected", findings, digest, retryable)
            self._refuse(outcome, began, generation)
            return
        with self._changed:
            self._check_running()
            recovered = self._state != "ok"
            self._set_state("ok")
            self._findings, self._manifest, self._started_from = (), manifest, None
            self._requests.retry.stop()
            self._waits_for = ()
            self._note_retiring(report.retiring)
            result: Result = "committed" if report.plan else "unchanged"
            self._record(result, began, report.generation, (), manifest.digest)
        if manifest.reload != running.reload:
            self._follow(manifest)
        if report.plan:
            self._look_after_health()
            self._publish("committed", report)
        elif recovered:
            self._publish("recovered", report)
        else:
            _logger.debug("the manifest %s says what is running", path)
        if manifest.digest != running.digest or recovered:
            self._keep_if_good()
        for finding in manifest.warnings:
            if finding not in running.warnings:
                _logger.warning("%s", finding)

    def _is_in_the_making(self, findings: tuple[Finding, ...]) -> bool:
        """Whether a wrong file is to be looked at again before it is reported."""
        if self._watch is None or findings == self._findings:
            return False
        now, doubt = monotonic(), self._doubt
        if doubt is not None and doubt.findings == findings:
            return now < doubt.until  # this look was not the second one, that is still to come
        at_most_until = now + _LONGEST_DOUBT_SECONDS if doubt is None else doubt.at_most_until
        if now >= at_most_until:
            return False
        self._doubt = _Doubt(findings, now + _SECOND_LOOK_SECONDS, at_most_until)
        self._watch.poke(_SECOND_LOOK_SECONDS)
        return True

    def _refuse(self, refusal: _Refusal, began: float, generation: int) -> None:
        state, findings = refusal.state, refusal.findings
        self._waits_for = refusal.waits_for if refusal.retryable else ()
        with self._changed:
            self._check_running()
            if self._started_from is not None:  # what runs is older than what was good: until that is mended
                state, findings = "degraded", (self._findings[0], *findings)
            said = self._state == state and self._findings == findings
            self._set_state(state)
            self._findings = findings
            self._record(state, began, generation, findings, refusal.digest)
            if refusal.retryable:
                is_overdue = any(finding.code == "SC705" for finding in findings)
                self._requests.retry.after_failure(refusal.digest, patiently=is_overdue)
            else:
                self._requests.retry.stop()
        if not said:
            self._publish(state, None, findings=findings, digest=refusal.digest)

    def _look_for_free(self) -> None:
        """Nobody tells when a provider that is to stay as it is has no leases any more."""
        if not self._waits_for or any(self._holders(name) for name in self._waits_for):
            return
        self._waits_for = ()
        with self._changed:
            self._requests.retry.hurry()

    def _set_state(self, state: RuntimeState) -> None:
        """Under the lock."""
        if state != self._state:
            self._state, self._state_since = state, datetime.now(UTC)

    def _note_retiring(self, names: Sequence[str]) -> None:
        """Under the lock: those that came back have been waiting no longer."""
        now, snapshot = datetime.now(UTC), self.registry.snapshot()
        known = {**dict.fromkeys(names, now), **self._retiring_since}
        self._retiring_since = {
            name: since
            for name, since in known.items()
            if (provider := snapshot.get(name)) is not None and provider.state == "retiring"
        }

    def _check_running(self) -> None:
        """Under the lock: who was closed says no more."""
        if self._state == "stopped":
            raise RuntimeClosedError

    def _record(
        self,
        result: Result,
        began: float,
        generation: int,
        findings: tuple[Finding, ...],
        digest: str | None,
    ) -> None:
        """Under the lock."""
        self._reloads[result] = self._reloads.get(result, 0) + 1
        self._last_reload = Outcome(
            result=result,
            at=datetime.now(UTC),
            generation=generation,
            digest=digest,
            duration_seconds=monotonic() - began,
            findings=findings,
            phase_seconds=self._progress.take_spent(),
        )

    def _publish(
        self,
        name: EventName,
        report: Report | None,
        *,
        removed: tuple[str, ...] = (),
        findings: tuple[Finding, ...] = (),
        digest: str | None = None,
    ) -> None:
        """`digest` is that of a manifest that was refused, where it could be read; all others are running."""
        snapshot = self.registry.snapshot()
        with self._changed:
            running = self._manifest.digest if self._manifest is not None else None
            self._changed.notify_all()
        event = Event(
            event=name,
            at=datetime.now(UTC),
            generation=report.generation if report is not None else snapshot.generation,
            digest=running,
            added=report.added if report is not None else (),
            updated=report.updated if report is not None else (),
            removed=report.removed if report is not None else removed,
            retiring=report.retiring if report is not None else (),
            default=snapshot.default,
            findings=findings,
        )
        _log(event, self.path)
        self._progress.enter("notify")  # whoever has subscribed is waited for
        path = str(self.path) if self.path is not None else None
        self._journal.record(event, path, digest if findings else running, self._cause_of(name))
        try:
            self._subscribers.publish(event)
        finally:
            self._progress.enter(None)

    def _cause_of(self, name: EventName) -> str:
        return {"started": "start", "retired": "release", "stopped": "close"}.get(name, self._cause)


def _log(event: Event, path: Path | None) -> None:
    level = logging.WARNING if event.event in ("rejected", "degraded") else logging.INFO
    _event_logger.log(level, "%s: %s", path or "no manifest", event)
