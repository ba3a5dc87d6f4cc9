"""The program of a probe: it imports a plugin, and says what came of it, on what was its standard output.

It runs in a process of its own that is thrown away, and tells the process that asked what no exception does:
where a loop is that does not end, and where a crash was (`faulthandler`).
"""

from __future__ import annotations

import _thread
import base64
import faulthandler
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..errors import PluginError
from . import modules
from .probe import BEGUN, describe
from .records import TypeReport, VerifiedSource

_GRACE_SECONDS: Final = 0.2
"""What a thread that is ending has for that."""
_started_alone: Final[list[str]] = []
"""Threads that were started without the module `threading`, which knows all others."""


def main(order: Mapping[str, Any]) -> None:
    out = _set_apart()
    os.write(out, BEGUN)
    _note_threads_without_name()
    faulthandler.enable(file=out)
    faulthandler.dump_traceback_later(order["timeout_seconds"], exit=True, file=out)
    answer: dict[str, Any]
    try:
        reports = _carry_out(order)
        _check_nothing_runs(order["plugin"])
        answer = {"reports": describe(reports)}
    except PluginError as error:
        answer = {"error": [error.rule, error.reason, error.remedy]}
    faulthandler.cancel_dump_traceback_later()
    with os.fdopen(out, "wb") as file:
        file.write(b"\n" + json.dumps(answer).encode() + b"\n")
    os._exit(0)  # without whatever the plugin wants to be done at the exit


def _note_threads_without_name() -> None:
    """From now on. `threading` has a reference of its own to what is replaced here."""
    start = _thread.start_new_thread

    def noted(*arguments: Any) -> int:
        _started_alone.append("one")
        return start(*arguments)

    vars(_thread).update(start_new_thread=noted, start_new=noted)


def _set_apart() -> int:
    """Where the answer goes, after which the three standard descriptors lead nowhere."""
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # of two processes that take all memory, the one to be killed (Linux)
        Path("/proc/self/oom_score_adj").write_text("1000")
    return out


def _carry_out(order: Mapping[str, Any]) -> tuple[TypeReport, ...]:
    if "requirement" in order:
        from . import entry_points  # takes as long to load as all the rest

        return entry_points.load(entry_points.find(order["requirement"]), with_schemas=False).reports
    told = order["source"]
    source = VerifiedSource(
        name=order["plugin"],
        path=Path(told["path"]),
        is_package=told["is_package"],
        files={name: base64.b64decode(data) for name, data in told["files"].items()},
        sha256=told["sha256"],
        trust=told["trust"],
    )
    return modules.load(source, with_schemas=False).reports


def _check_nothing_runs(plugin: str) -> None:
    """Beyond the threads of the plugin's own code, which `load` refuses: what would not let a process end, or
    outlives it."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(_GRACE_SECONDS)
            if thread.is_alive():
                raise PluginError(plugin, "import", f"its import left the thread {thread.name} running")
    if _started_alone:
        time.sleep(_GRACE_SECONDS)  # they have no name, and nothing to be waited for: they are only counted
        if _thread._count() > threading.active_count() - 1:  # noqa: SLF001 - nothing else counts them
            raise PluginError(plugin, "import", "its import left a thread running that has no name")
    if hasattr(os, "waitpid"):
        with suppress(ChildProcessError):
            if os.waitpid(-1, getattr(os, "WNOHANG", 0))[0] == 0:
                raise PluginError(plugin, "import", "its import left a process running")
