"""A registry that follows its manifest: tick → read → manifest → plan → reconcile.

One worker thread does every reload; it is told that something may have changed, never what. The last
good generation keeps serving whatever the file looks like. Subscribers, hooks and factories run in the
worker thread (at the start, in the caller's), never under a lock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from . import forks
from .catalog import Catalog
from .errors import Finding, ManifestError, ManifestNotFoundError, RegistryForkedError, RuntimeClosedError
from .events import WIRE_VERSION, Event, EventName, Subscriber, Subscribers
from .load import ManifestLoader
from .manifest import Manifest
from .marks import Mark
from .metadata import Holder, ProviderInfo, format_time
from .reconcile import Report, reconcile
from .registry import StorageProviderRegistry
from .watch import Watch, WatchMode, WatchStatus

if TYPE_CHECKING:
    from .control import ControlServer

RuntimeState = Literal["ok", "rejected", "degraded", "stopped"]
Result = Literal["started", "committed", "unchanged", "rejected", "degraded"]

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reload came to.

    `unchanged`: the file says what is running. `rejected`: it is wrong, nothing was changed.
    `degraded`: there is no manifest to read.
    """

    result: Result
    at: datetime
    generation: int
    digest: str | None
    """Of the manifest that was read, where one could be."""
    duration_seconds: float
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "result": self.result,
            "at": format_time(self.at),
            "generation": self.generation,
            "digest": self.digest,
            "duration_seconds": round(self.duration_seconds, 6),
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Status:
    """How the runtime stands. `findings` are what is wrong with the file now; what runs is not affected."""

    state: RuntimeState
    manifest: str | None
    generation: int
    digest: str | None
    """Of the manifest that is running."""
    default: str | None
    last_reload: Outcome | None
    providers: tuple[ProviderInfo, ...]
    holders: Mapping[str, tuple[Holder, ...]]
    """Who has leases, by provider."""
    findings: tuple[Finding, ...]
    watch: WatchStatus | None
    control: str | None = None
    """The path of the control socket."""

    def as_json(self) -> dict[str, Any]:
        return {
            "version": WIRE_VERSION,
            "state": self.state,
            "manifest": self.manifest,
            "generation": self.generation,
            "digest": self.digest,
            "default": self.default,
            "last_reload": self.last_reload.as_json() if self.last_reload else None,
            "providers": [provider.as_json() for provider in self.providers],
            "holders": {name: [holder.as_json() for holder in held] for name, held in self.holders.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "watch": self.watch.as_json() if self.watch else None,
            "control": self.control,
        }


@dataclass(slots=True)
class _Requests:
    """What the worker is asked for; guarded by the runtime's condition."""

    asked: int = 0
    done: int = 0
    explicit: bool = False
    """Somebody waits for a verdict: a wrong file is not looked at twice."""
    left: list[str] = field(default_factory=list)
    """Retiring providers that have gone since."""


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
    the process over a socket (see `control`); where there can be none, the log says why.
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
        watch_mode: WatchMode = "auto",
        poll_interval_seconds: float = 1.0,
        control: bool = False,
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
        self._manifest: Manifest | None = None
        self._findings: tuple[Finding, ...] = ()
        self._last_reload: Outcome | None = None
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
                poll_interval_seconds=poll_interval_seconds,
                mode=watch_mode,
            )
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
                self._state = "ok"
                self._record("started", began, report.generation, ())
        if is_closed:
            self._cancel_retired()
            raise RuntimeClosedError
        self._publish("started", report)
        try:
            self._worker.start()
            if self._watch is not None:
                self._watch.start()
                if self._stopping.is_set():  # a subscriber has closed it, before there was a watch to stop
                    self._watch.stop()
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
                if current not in (self._closer, self._worker):
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
        if worker is not None and worker is not current and worker.is_alive():
            worker.join(max(0.0, deadline - monotonic()))
            if worker.is_alive():
                _logger.warning("a reload still runs foreign code after %g s and is left", timeout_seconds)
        if self._cancel_retired is not None:
            self._cancel_retired()
        self.registry.close(max(_LEAST_CLOSE_SECONDS, deadline - monotonic()))
        with self._changed:
            self._state = "stopped"
            self._changed.notify_all()
        if started:
            self._publish("stopped", None)
        if self._control is not None:
            self._control.stop(_HANG_UP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ what users ask

    def reload(self, *, timeout_seconds: float | None = None) -> Outcome:
        """Read the manifest now, and return what came of it: of a reload that began after this call.

        Raises:
            RuntimeClosedError: the runtime was closed, or never started, or has no manifest.
            RegistryForkedError: this is a forked child of the process that follows the manifest.
            TimeoutError: there is no outcome yet; the reload goes on.
            RuntimeError: called from a subscriber, a hook or a factory: it would wait for itself.
        """
        worker = self._worker
        is_starting = worker is not None and worker.ident is None and self._state != "stopped"
        if is_starting or threading.current_thread() is worker:
            raise RuntimeError("reload() waits for the thread that it was called in; use request_reload()")
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

    def request_reload(self) -> None:
        """Ask for a reload, and do not wait for it.

        Raises:
            RuntimeClosedError: as `reload`.
        """
        self._ask(explicit=True)

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
            state, manifest = self._state, self._manifest
            last_reload, findings = self._last_reload, self._findings
        snapshot = self.registry.snapshot()
        providers = tuple(self.registry.list_providers())
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
        )

    # ------------------------------------------------------------------ inside

    def _start_control(self) -> None:
        if self._control is None:
            return
        try:
            self._control.start()
        except OSError as error:  # no reason not to run
            _logger.warning("there is no control socket: %s", error.strerror or error)

    def _holders(self, name: str) -> Sequence[Holder]:
        with suppress(LookupError):  # it may have left since it was listed
            return self.registry.holders(name)
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

    def _left(self, name: str) -> None:
        with self._changed:
            self._requests.left.append(name)
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
                self._changed.wait_for(
                    lambda: self._stopping.is_set() or requests.left or requests.asked > requests.done,
                    _SWEEP_SECONDS,
                )
                left, requests.left = requests.left, []
                ticket, explicit = requests.asked, requests.explicit
                stopping = self._stopping.is_set()
                due = ticket > requests.done and not stopping
                requests.explicit = False
            try:
                self.registry.sweep()
                if left:
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
        manifest = self._loader.load()
        report = self._reconcile(manifest, None)
        if report.findings:
            raise ManifestError(report.findings)
        self._manifest = manifest
        for finding in manifest.warnings:
            _logger.warning("%s", finding)
        return report

    def _reconcile(self, manifest: Manifest, applied_default: str | None) -> Report:
        return reconcile(
            self.registry,
            self._catalog,
            manifest,
            applied_default=applied_default,
            eager=self._eager,
            cancelled=self._stopping,
        )

    def _reload(self, *, explicit: bool) -> None:
        """One reload, from reading to events.

        Raises:
            RuntimeClosedError: the runtime was closed before there was an outcome; nothing was changed.
        """
        began = monotonic()
        manifest: Manifest | None = None
        report: Report | None = None
        running = self._manifest
        path, loader = self.path, self._loader
        if path is None or loader is None or running is None:
            return
        absent = False
        try:
            manifest = loader.load()
            report = self._reconcile(manifest, running.default)
            findings = report.findings
        except ManifestNotFoundError as error:
            absent = True
            findings = (Finding("SC117", f"{error}; what runs is kept", Mark.at_start(str(path))),)
        except ManifestError as error:
            absent = any(finding.code == "SC103" for finding in error.findings)
            findings = error.findings
        except RuntimeClosedError:
            raise
        except BaseException as error:
            _logger.exception("a reload failed")
            message = f"the reload failed with {type(error).__name__}, see the log; what runs is kept"
            findings = (Finding("SC901", message, Mark.at_start(str(path))),)
        generation = self.registry.snapshot().generation
        if findings and not explicit and self._is_in_the_making(findings):
            _logger.debug("the manifest %s is wrong, and may be in the making: a second look is due", path)
            return
        self._doubt = None
        if findings or manifest is None or report is None:
            self._refuse("degraded" if absent else "rejected", began, generation, findings)
            return
        with self._changed:
            self._check_running()
            recovered = self._state != "ok"
            self._state, self._findings, self._manifest = "ok", (), manifest
            self._record("committed" if report.plan else "unchanged", began, report.generation, ())
        if report.plan:
            self._publish("committed", report)
        elif recovered:
            self._publish("recovered", report)
        else:
            _logger.debug("the manifest %s says what is running", path)
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

    def _refuse(
        self,
        state: Literal["degraded", "rejected"],
        began: float,
        generation: int,
        findings: tuple[Finding, ...],
    ) -> None:
        with self._changed:
            self._check_running()
            said = self._state == state and self._findings == findings
            self._state, self._findings = state, findings
            self._record(state, began, generation, findings)
        if not said:
            self._publish(state, None, findings=findings)

    def _check_running(self) -> None:
        """Under the lock: who was closed says no more."""
        if self._state == "stopped":
            raise RuntimeClosedError

    def _record(self, result: Result, began: float, generation: int, findings: tuple[Finding, ...]) -> None:
        """Under the lock."""
        self._last_reload = Outcome(
            result=result,
            at=datetime.now(UTC),
            generation=generation,
            digest=self._manifest.digest if self._manifest is not None and not findings else None,
            duration_seconds=monotonic() - began,
            findings=findings,
        )

    def _publish(
        self,
        name: EventName,
        report: Report | None,
        *,
        removed: tuple[str, ...] = (),
        findings: tuple[Finding, ...] = (),
    ) -> None:
        snapshot = self.registry.snapshot()
        with self._changed:
            digest = self._manifest.digest if self._manifest is not None else None
            self._changed.notify_all()
        event = Event(
            event=name,
            at=datetime.now(UTC),
            generation=report.generation if report is not None else snapshot.generation,
            digest=digest,
            added=report.added if report is not None else (),
            updated=report.updated if report is not None else (),
            removed=report.removed if report is not None else removed,
            retiring=report.retiring if report is not None else (),
            default=snapshot.default,
            findings=findings,
        )
        _log(event, self.path)
        self._subscribers.publish(event)


def _log(event: Event, path: Path | None) -> None:
    level = logging.WARNING if event.event in ("rejected", "degraded") else logging.INFO
    _event_logger.log(level, "%s: %s", path or "no manifest", event)
