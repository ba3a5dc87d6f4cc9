"""The rows of the matrix in `test_faults` in which the process is killed in the middle of a reload.

There is nobody left to ask: what counts is what the next process finds. It starts on the manifest as it is
then, every frame that was acknowledged is on its tape, and the tape can be gone on with.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.runtime import Runtime

from .fakes import Factory

ROOT = Path(__file__).parents[1]

CHILD = """
import sys, threading
from tests.fakes import Factory
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.runtime import Runtime

path, phase = sys.argv[1:]
armed = threading.Event()

def stop(*_):
    if armed.is_set():
        print("there", flush=True)
        threading.Event().wait()

class Offer:
    apply = staticmethod(stop)
    discard = staticmethod(lambda: None)

other = Factory("other")
runtime = Runtime(path, catalog=Catalog([Factory("fake"), other]), watch=False)
if phase == "load":
    other.on_validate = stop
elif phase == "hook":
    runtime.registry.add_init_hook(stop)
elif phase == "open":
    other.on_create = stop
elif phase == "apply":
    other.on_reconfigure = lambda *_: Offer
elif phase == "close":
    other.on_close = stop
else:
    runtime.subscribe(stop)
runtime.start()
runtime.registry.open_storage("x").close()
recorder = runtime.registry.open_storage("tapes").record("s-1", tape_id="tape")
for n in range(100):
    recorder.append("client_to_server", b'{"n":%d}' % n)
print("ready", flush=True)
sys.stdin.readline()
armed.set()
runtime.reload()
"""

CHANGES: dict[str, dict[str, Any]] = {
    "add": {"a": {}, "b": {}, "new": {}},
    "update": {"a": {"n": 1}, "b": {}},
    "remove": {"a": {}},
    "default": {"a": {}, "b": {}},
}


def _write(path: Path, fakes: dict[str, Any], x: Any, default: str = "a") -> None:
    entries = {name: {"type": "fake", "config": config} for name, config in fakes.items()}
    entries |= {"tapes": {"type": "filesystem"}, "x": {"type": "other", "config": x}}
    document = {"version": 1, "defaults": {"provider": default}, "providers": entries}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document), encoding="utf-8")
    new.replace(path)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("phase", ["load", "hook", "open", "apply", "close", "notify"])
def test_a_process_that_is_killed_leaves_a_whole_state(tmp_path: Path, phase: str, change: str) -> None:
    path = tmp_path / "registry.yaml"
    _write(path, {"a": {}, "b": {}}, {})
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), phase],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        fakes, default = CHANGES[change], "b" if change == "default" else "a"
        if phase == "hook" and change != "add":
            fakes = {**fakes, "hooked": {}}
        _write(path, fakes, {"n": 1}, default)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    catalog = Catalog([Factory("fake"), Factory("other")])
    with Runtime(path, catalog=catalog, watch=False) as runtime:
        runtime.start()
        snapshot = runtime.registry.snapshot()
        assert list(snapshot) == [*fakes, "tapes", "x"]
        assert snapshot.default == default
        with runtime.registry.open_storage("tapes") as storage:
            assert len(list(storage.read("tape"))) == 101, "a line for the tape, and one for each frame"
            recorder, _ = storage.resume("tape")
            recorder.append("client_to_server", b'{"n":100}')
            recorder.finalize()
            assert len(list(storage.read("tape"))) > 101
        assert runtime.reload().result == "unchanged"
    assert {entry.name for entry in tmp_path.iterdir()} == {"registry.yaml", "tapes"}
