"""The program of a probe: it imports a plugin, and says what came of it, on what was its standard output.

It runs in a process of its own that is thrown away, and tells the process that asked what no exception does:
where a loop is that does not end, and where a crash was (`faulthandler`).
"""

from __future__ import annotations

import base64
import faulthandler
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import PluginError
from . import modules
from .probe import BEGUN, describe
from .records import TypeReport, VerifiedSource


def main(order: Mapping[str, Any]) -> None:
    out = _set_apart()
    os.write(out, BEGUN)
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
            thread.join(0.2)
            if thread.is_alive():
                raise PluginError(plugin, "import", f"its import left the thread {thread.name} running")
    if hasattr(os, "waitpid"):
        with suppress(ChildProcessError):
            if os.waitpid(-1, getattr(os, "WNOHANG", 0))[0] == 0:
                raise PluginError(plugin, "import", "its import left a process running")
