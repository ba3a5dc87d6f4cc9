"""Whether a plugin can be imported at all, tried out in a process of its own first.

What no `except` catches ends only that process: an exit, a crash, a loop without an end. It gets the verified
bytes over a pipe, never a path, and answers with what the types say of themselves. It is there for plugins
that are broken, and confines none that is hostile: one that leaves its process group goes on running.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from ..errors import PluginError, PluginRule
from ..metadata import ProviderCapability
from . import shape
from .blame import Shown
from .modules import places_of
from .records import TypeReport, VerifiedSource

if TYPE_CHECKING:
    from .entry_points import Installed

_BOOT: Final = (
    "import json,sys\n"
    "order=json.loads(sys.stdin.buffer.readline())\n"
    "sys.path[:]=order['path']\n"
    "from shadowcat_registry.plugins.probe_child import main\n"
    "main(order)"
)
BEGUN: Final = b"begun\n"
_STARTING_SECONDS: Final = 30.0
"""What the process has until it begins with the plugin; more where its output is not seen before its end, on
Windows, and a timeout is longer than that."""
_ENDING_SECONDS: Final = 2.0
"""What it has to say that the time of the plugin is over."""
_STEP_SECONDS: Final = 0.05
_MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_KEPT: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TEMP", "TMP"),
        *(
            "SYSTEMROOT",
            "WINDIR",
            "SYSTEMDRIVE",
            "COMSPEC",
            "PATHEXT",
            "USERPROFILE",
            "APPDATA",
            "LOCALAPPDATA",
        ),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
    }
)
"""Of the environment, what a process needs to begin and to find its libraries. The rest is the operator's:
a plugin reads it when it opens a storage, not when it is imported."""
_frame: Final = re.compile(r'^  File "(.+)", line (\d+) in ', re.MULTILINE)


def _never() -> bool:
    return False


def probe(
    source: VerifiedSource, *, timeout_seconds: float = 10.0, is_over: Callable[[], bool] = _never
) -> tuple[TypeReport, ...]:
    """Import a plugin in a process of its own; returns what its types say of themselves.

    The process has this interpreter and `sys.path`, the working directory, and of the environment only what
    every process needs: nothing that could be a secret. What the plugin writes to its outputs is thrown away.
    Whatever the process has started in its group is killed at the end, at the latest when `is_over()`, which
    is asked again and again.

    Raises:
        PluginError: what `modules.load` raises; rule `probe` where it did not come so far: its import ended
            or crashed the process, or had no end after `timeout_seconds`, or left something running.
    """
    order = {
        "plugin": source.name,
        "source": {
            "path": str(source.path),
            "is_package": source.is_package,
            "files": {name: base64.b64encode(data).decode() for name, data in source.files.items()},
            "sha256": source.sha256,
            "trust": source.trust,
        },
    }
    return ask(source.name, order, places_of(source).get, timeout_seconds, is_over)


def probe_installed(
    installed: Installed, *, timeout_seconds: float = 10.0, is_over: Callable[[], bool] = _never
) -> tuple[TypeReport, ...]:
    """The same for a distribution: what its entry points lead to."""
    order = {"plugin": installed.name, "requirement": installed.requirement}
    return ask(installed.name, order, installed.shown, timeout_seconds, is_over)


def ask(
    plugin: str,
    order: Mapping[str, Any],
    shown: Shown,
    timeout_seconds: float,
    is_over: Callable[[], bool] = _never,
) -> tuple[TypeReport, ...]:
    """Have an order carried out by `probe_child`; as `probe`. `shown` is that of `blame.line_of`."""
    order = {**order, "path": _search_path(), "timeout_seconds": timeout_seconds}
    output, status = _run(plugin, json.dumps(order).encode() + b"\n", timeout_seconds, is_over)
    answer = _answer_in(output)
    if answer is None:
        raise _failure(plugin, output.decode(errors="replace"), status, shown, timeout_seconds)
    if "error" in answer:
        raise _error(plugin, answer["error"])
    reports = _reports(plugin, answer.get("reports"))
    shape.check_schemas(plugin, reports)
    return reports


def _search_path() -> list[str]:
    """As it is here, and where this package is: it may have been imported by other means."""
    here = str(Path(__file__).parents[2])
    path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]  # noqa: PTH100 - links stay
    return path if here in path else [*path, here]


def _run(
    plugin: str, order: bytes, timeout_seconds: float, is_over: Callable[[], bool]
) -> tuple[bytes, int | None]:
    """What the process has written, and how it ended; None: it did not, in time."""
    if not sys.executable:
        raise PluginError(plugin, "probe", "nobody knows where the interpreter is", _TURN_OFF)
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and a program of our own
            [sys.executable, "-I", "-B", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name.upper() in _KEPT},
            start_new_session=True,
        )
    except OSError as error:
        reason = f"its probe could not be started: {error.strerror or type(error).__name__}"
        raise PluginError(plugin, "probe", reason) from error
    try:
        return _listen(process, order, timeout_seconds, is_over)
    finally:
        _kill(process)


def _listen(
    process: subprocess.Popen[bytes], order: bytes, timeout_seconds: float, is_over: Callable[[], bool]
) -> tuple[bytes, int | None]:
    deadline = time.monotonic() + max(_STARTING_SECONDS, timeout_seconds + _ENDING_SECONDS)
    has_begun = has_ended = False
    unsent: bytes | None = order
    while True:
        try:
            output, _ = process.communicate(unsent, timeout=_STEP_SECONDS)
            return output, process.returncode
        except subprocess.TimeoutExpired as late:
            unsent = None  # it is under way
            output = late.output or b""
        # What the plugin has started may hold the pipe open, beyond the end of the process.
        if has_ended:
            _kill(process)
            return output, process.returncode
        if _answer_in(output) is not None or len(output) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            return output, None
        if is_over():
            return output, None
        has_ended = _has_ended(process)  # all that it has written is there the next time
        if not has_begun and output.startswith(BEGUN):
            has_begun = True
            deadline = time.monotonic() + timeout_seconds + _ENDING_SECONDS


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without taking note of it: until then, its number is nobody else's, nor is that of its group."""
    if not hasattr(os, "waitid"):  # Windows, and macOS before Python 3.13: the timeout is the end
        return False
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and all of its group. Idempotent."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _answer_in(output: bytes) -> dict[str, Any] | None:
    for line in reversed(output.splitlines(keepends=True)):
        if line.startswith(b"{") and line.endswith(b"\n"):
            with suppress(ValueError, RecursionError):
                answer = json.loads(line)
                return answer if isinstance(answer, dict) else None
    return None


def _failure(plugin: str, text: str, status: int | None, shown: Shown, timeout_seconds: float) -> PluginError:
    """`text` is what `faulthandler` has written at the end of the process, if it has."""
    lines = ((shown(file), line) for file, line in _frame.findall(text))
    place = next((f", at {file}:{line}" for file, line in lines if file is not None), "")
    if status is None or "\nTimeout (" in text:
        reason = f"its import had not ended after {timeout_seconds:g} s{place}"
    elif status < 0 or "Fatal Python error" in text:
        reason = f"its import crashed the process ({_signal_name(status)}){place}"
    else:
        reason = f"its import ended the process (exit code {status})"
    return PluginError(plugin, "probe", reason, "let the import have no effects; work in `create`")


def _signal_name(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"exit code {status}"


_TURN_OFF: Final = "set `plugins.probe: false`, if you trust it to end"


def _error(plugin: str, told: object) -> PluginError:
    match told:
        case [str(rule), str(reason), str() | None as remedy] if rule in get_args(PluginRule):
            return PluginError(plugin, rule, reason, remedy)  # type: ignore[arg-type]
    return _unintelligible(plugin)


def _reports(plugin: str, told: object) -> tuple[TypeReport, ...]:
    try:
        return tuple(_report(item) for item in told)  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError):
        raise _unintelligible(plugin) from None


def _report(told: Mapping[str, Any]) -> TypeReport:
    name, display_name, version, description = (told[it] for it in shape.TEXTS)
    schema = told["schema"]
    if not {type(name), type(display_name), type(version), type(description)} == {str}:
        raise TypeError
    if not isinstance(schema, dict | None):
        raise TypeError
    capabilities = frozenset(map(ProviderCapability, told["capabilities"]))
    return TypeReport(name, display_name, version, description, capabilities, schema)


def _unintelligible(plugin: str) -> PluginError:
    return PluginError(plugin, "probe", "its probe gave an answer that nobody understands")


def describe(reports: Sequence[TypeReport]) -> list[dict[str, Any]]:
    """As the process answers, for `_reports`."""
    return [
        {
            "name": report.name,
            "display_name": report.display_name,
            "version": report.version,
            "description": report.description,
            "capabilities": sorted(report.capabilities),
            "schema": report.schema,
        }
        for report in reports
    ]
