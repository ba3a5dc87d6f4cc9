"""A plugin tried out in a process of its own: what no `except` catches, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import modules
from shadowcat_registry.plugins.probe import probe

from . import made


def refusal(text: str, timeout_seconds: float = 20.0) -> PluginError:
    with pytest.raises(PluginError) as caught:
        probe(made.file(text), timeout_seconds=timeout_seconds)
    return caught.value


PID = "import os, pathlib\npathlib.Path({path!r}).write_text(str(os.getpid()))\n"
QUICK = 0.3
EXPORT = made.factory()


class TestFine:
    def test_it_tells_of_the_types_what_a_load_here_tells(self) -> None:
        source = made.package({"__init__.py": "from .ice import PROVIDERS", "ice.py": made.GLACIER})
        reports = probe(source)
        assert reports == modules.load(source, probed=reports).reports
        assert (reports[0].name, reports[0].version) == ("glacier", "1.2.0")

    def test_it_has_the_path_and_the_directory_of_this_process_and_no_secret(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "a_library_of_mine.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TOKEN", "1234")
        monkeypatch.setenv("PYTHONSTARTUP", "x")
        text = f"import os, a_library_of_mine\nassert os.getcwd() == {str(tmp_path)!r}\n"
        text += "assert not {'TOKEN', 'PYTHONSTARTUP'} & set(os.environ), 'a secret'\n"
        # What it prints leads nowhere, there is nothing to read, and what it wants at the exit is not done.
        text += "import atexit, sys, time\natexit.register(time.sleep, 1000)\nprint('x' * 3_000_000)\n"
        text += "print('x' * 3_000_000, file=sys.stderr)\nassert sys.stdin.read() == ''\n"
        probe(made.file(text + EXPORT))
        assert sorted(tmp_path.iterdir()) == [tmp_path / "a_library_of_mine.py"], "nothing is written"


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("import os\nos._exit(0)", "its import ended the process (exit code 0)"),
            (
                "\nimport faulthandler\nfaulthandler._sigsegv()",
                "crashed the process (SIGSEGV), at glacier.py:3",
            ),
            ("\nwhile True: pass", f"had not ended after {QUICK} s, at glacier.py:2"),
            ("\n1 / 0", "glacier.py:2: ZeroDivisionError"),
            (made.factory("def config_schema(self): return {'type': 'x'}"), "the schema of `glacier`"),
        ],
    )
    def test_what_no_except_catches_and_what_one_does(self, text: str, reason: str) -> None:
        error = refusal(text, QUICK if "while" in text else 20.0)
        assert reason in error.reason
        assert error.plugin == "glacier"

    @pytest.mark.ci
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("import ctypes\nctypes.string_at(0)", "crashed the process (SIGSEGV), at glacier.py:2"),
            ("import os\n\nos.abort()", "crashed the process (SIGABRT), at glacier.py:3"),
            ("import os\nos.kill(os.getpid(), 9)", "crashed the process (SIGKILL)"),
            ("import signal\nsignal.raise_signal(2)", "(SIGINT)"),
            ("import os\nos.closerange(0, 100)\n" + EXPORT, "its import ended the process"),
            ("import os\nos.write(3, b'\\n{\"reports\": [{}]}\\n')\nos._exit(0)", "that nobody understands"),
            ("import os\nos.write(3, b'\\n[' * 9999 + b'\\n')\nos._exit(0)", "ended the process"),
            ("raise SystemExit", "glacier.py:1: SystemExit"),
            ("def f(): f()\nf()", "glacier.py:1: RecursionError"),
            ("import builtins\nbuiltins.open = 3\n" + EXPORT, "its import changed open in `builtins`"),
            ("import threading\nthreading.Timer(99, print).start()\n" + EXPORT, "left the thread"),
            (
                "import threading, time\ndef f(): time.sleep(99)\n"
                "threading.Thread(target=f, daemon=True).start()\n" + EXPORT,
                "its import left a thread running, with what begins at glacier.py:2",
            ),
            (
                "import _thread, time\n_thread.start_new_thread(time.sleep, (99,))\n" + EXPORT,
                "left a thread running that has no name",
            ),
            ("import subprocess\nsubprocess.Popen(['sleep', '99'])\n" + EXPORT, "left a process running"),
            ("import os, time\nif not os.fork(): time.sleep(99)\n" + EXPORT, "left a process running"),
            # What it has started is out of reach, and holds the pipe.
            ("import os, time\nif not os.fork(): os.setsid(); time.sleep(2)\nos._exit(3)", "(exit code 3)"),
        ],
    )  # fmt: skip
    def test_more_of_it(self, text: str, reason: str) -> None:
        assert reason in refusal(text).reason

    @pytest.mark.ci
    @pytest.mark.parametrize(
        "text",
        [
            "import time\ntime.sleep(99)",
            "while True: print('x' * 1_000_000)",
            made.factory("def config_schema(self): return [0 for _ in iter(int, 1)]"),
            "import signal, os\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\nwhile True: pass",
            "import faulthandler\nfaulthandler.cancel_dump_traceback_later()\nwhile True: pass",
            "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        ],
    )
    def test_what_has_no_end_is_ended(self, text: str) -> None:
        assert f"had not ended after {QUICK} s" in refusal(text, QUICK).reason

    @pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes")
    def test_what_it_has_started_ends_with_it(self, tmp_path: Path) -> None:
        """Also where the process itself has ended, and nobody has waited for the other."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        text = f"""
            import os, time
            if os.fork():
                os._exit(0)
            pipe = os.open({str(path)!r}, os.O_WRONLY)
            time.sleep(99)
        """
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert "ended the process (exit code 0)" in refusal(text).reason
            os.set_blocking(reader, True)
            assert os.read(reader, 1) == b"", "whoever had it open to write is gone"
        finally:
            os.close(reader)

    def test_without_an_interpreter_it_says_how_to_go_without_a_probe(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "")
        assert "plugins.probe: false" in str(refusal(EXPORT))
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        assert "could not be started: No such file" in refusal(EXPORT).reason

    def test_a_ctrl_c_meanwhile_ends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "pid"

        communicate: Any = subprocess.Popen.communicate

        def interrupted(process: subprocess.Popen[bytes], *arguments: object, **more: object) -> object:
            if path.exists() and path.read_text():
                raise KeyboardInterrupt
            return communicate(process, *arguments, **more)

        monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe(made.file(PID.format(path=str(path)) + "while True: pass"))
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)  # this process has waited for it
