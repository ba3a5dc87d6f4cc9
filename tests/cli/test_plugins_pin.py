"""`plugins pin` as its users run it."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from select import select

import pytest

from shadowcat_registry.plugins.held import CAN_HOLD

from .conftest import Command, environment

pytestmark = pytest.mark.skipif(not CAN_HOLD, reason="who may write a manifest cannot be told on this system")

MANIFEST = """\
# ours
version: 1
plugins:
  sources:
    - path: plugins/glacier.py   # cold
    - directory: more
      trust: ownership           # by now
providers:
  filesystem: {type: filesystem, config: {directory: "./canary-7a1f"}}
"""
CODE = b"PROVIDERS = ()\n"
DIGEST = sha256(CODE).hexdigest()
PINNED = MANIFEST.replace("# cold\n", f"# cold\n      sha256: {DIGEST}\n")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "glacier.py").write_bytes(CODE)
    (tmp_path / "more" / "arctic").mkdir(parents=True)
    (tmp_path / "more" / "arctic" / "__init__.py").write_bytes(CODE)
    (tmp_path / "more" / "notes.txt").write_bytes(CODE)
    path = tmp_path / "registry.yaml"
    path.write_text(MANIFEST)
    path.chmod(0o640)
    return path


class TestPin:
    def test_it_shows_the_difference_and_writes_it(self, command: Command, manifest: Path) -> None:
        before = manifest.stat()
        done = command("plugins", "pin", "--yes")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().splitlines() == [
            "--- registry.yaml",
            "+++ registry.yaml",
            "@@ -3,5 +3,6 @@",
            " plugins:",
            "   sources:",
            "     - path: plugins/glacier.py   # cold",
            f"+      sha256: {DIGEST}",
            "     - directory: more",
            "       trust: ownership           # by now",
            "registry.yaml: written",
        ]
        assert manifest.read_text() == PINNED
        assert stat.S_IMODE(manifest.stat().st_mode) == 0o640
        assert manifest.stat().st_ino != before.st_ino  # whole, never in place
        assert [path.name for path in manifest.parent.glob(".*")] == []

    def test_once_more_there_is_nothing_to_do(self, command: Command, manifest: Path) -> None:
        command("plugins", "pin", "--yes")
        inode = manifest.stat().st_ino
        done = command("plugins", "pin", "--yes")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.endswith(b"nothing to write\n")
        assert manifest.stat().st_ino == inode

    def test_what_has_changed_gets_its_new_digest(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "plugins" / "glacier.py").write_bytes(b"# one more line\n")
        manifest.write_text(PINNED)
        done = command("plugins", "pin", "--yes")
        new = sha256(b"# one more line\n").hexdigest()
        assert f"-      sha256: {DIGEST}\n+      sha256: {new}\n" in done.stdout.decode()
        assert manifest.read_text() == PINNED.replace(DIGEST, new)

    def test_a_directory_that_is_named_is_pinned_though_it_was_owned(
        self, command: Command, manifest: Path
    ) -> None:
        assert command("plugins", "pin", "--yes", "more").returncode == 0
        lines = f"{sha256(CODE).hexdigest()}  __init__.py\n"
        digest = sha256(lines.encode()).hexdigest()
        assert manifest.read_text() == MANIFEST.replace(
            "trust: ownership           # by now\n",
            f"trust: pinned           # by now\n      sha256:\n        arctic: {digest}\n",
        )

    def test_a_dry_run_writes_nothing(self, command: Command, manifest: Path) -> None:
        done = command("plugins", "pin", "--dry-run")
        assert (done.returncode, done.stderr) == (0, b"")
        assert f"+      sha256: {DIGEST}" in done.stdout.decode().splitlines()
        assert manifest.read_text() == MANIFEST

    def test_it_is_an_object_for_programs(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        done = command("plugins", "pin", "--dry-run", "--json")
        answer = json.loads(done.stdout)
        assert answer.pop("diff")[:2] == ["--- registry.yaml", "+++ registry.yaml"]
        assert answer == {
            "version": 1,
            "manifest": "registry.yaml",
            "changed": True,
            "dry_run": True,
            "pins": [{"path": str(tmp_path / "plugins" / "glacier.py"), "before": None, "sha256": DIGEST}],
        }

    @pytest.mark.parametrize("placeholder", ["", " TODO", f" {DIGEST.upper()}", " 12"])
    def test_what_was_no_digest_is_one_now(self, command: Command, manifest: Path, placeholder: str) -> None:
        manifest.write_text(PINNED.replace(f" {DIGEST}", placeholder))
        assert command("plugins", "pin", "--yes").returncode == 0
        assert manifest.read_text() == PINNED

    def test_a_byte_order_mark_and_the_ends_of_lines_stay(self, command: Command, manifest: Path) -> None:
        def as_windows_has_it(text: str) -> bytes:
            return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()

        manifest.write_bytes(as_windows_has_it(MANIFEST))
        assert command("plugins", "pin", "--yes").returncode == 0
        assert manifest.read_bytes() == as_windows_has_it(PINNED)

    def test_where_no_plugin_is_named_there_is_nothing_to_do(self, command: Command, manifest: Path) -> None:
        manifest.write_text("version: 1\nproviders:\n  filesystem: {type: filesystem}\n")
        done = command("plugins", "pin", "--yes")
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"nothing to pin" in done.stderr

    def test_nothing_is_shown_of_what_is_no_section_of_plugins(
        self, command: Command, manifest: Path
    ) -> None:
        manifest.write_text(
            "{version: 1, providers: {f: {type: filesystem, config: {directory: canary-7a1f}}},"
            " plugins: {sources: [{path: plugins/glacier.py}]}}  # canary-7a1f"
        )
        done = command("plugins", "pin", "--yes")
        assert done.returncode == 0
        assert f"+… plugins: {{sources: [{{path: plugins/glacier.py, sha256: {DIGEST}}}]}} …" in (
            done.stdout.decode().splitlines()
        )
        assert b"canary" not in done.stdout + done.stderr
        assert manifest.read_text().count("canary-7a1f") == 2


class TestWrongUse:
    def test_where_nobody_can_be_asked_something_has_to_be_said(
        self, process: Command, manifest: Path
    ) -> None:
        done = process("plugins", "pin")
        assert done.returncode == 2
        assert b"--yes" in done.stderr
        assert manifest.read_text() == MANIFEST

    def test_what_the_manifest_does_not_name_cannot_be_pinned(self, command: Command, manifest: Path) -> None:
        done = command("plugins", "pin", "--yes", "plugins")
        assert done.returncode == 2
        assert b"does not name" in done.stderr


class TestRefusals:
    """Exit code 1, the reason, and the manifest as it was."""

    @pytest.fixture(autouse=True)
    def _as_it_was(self, manifest: Path) -> Iterator[None]:
        yield
        assert manifest.read_text() == self.text
        assert list(manifest.parent.glob(".*")) == []

    text = MANIFEST

    def refused(self, done: subprocess.CompletedProcess[bytes], reason: str) -> None:
        assert done.returncode == 1
        assert reason in done.stderr.decode()
        assert b"Traceback" not in done.stderr

    def test_a_plugin_that_is_not_there(self, command: Command, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "plugins" / "glacier.py").unlink()
        self.refused(command("plugins", "pin", "--yes"), "plugins/glacier.py does not exist")

    def test_a_manifest_that_is_wrong_elsewhere(self, command: Command, manifest: Path) -> None:
        self.text = MANIFEST.replace("./canary-7a1f", "") + "reload: {mode: never}\n"
        manifest.write_text(self.text)
        self.refused(command("plugins", "pin", "--yes"), "error[SC2")

    def test_one_that_others_may_write(self, command: Command, manifest: Path) -> None:
        manifest.chmod(0o664)
        done = command("plugins", "pin", "--yes")
        self.refused(done, "may write")
        assert f"chmod go-w {manifest}" in done.stderr.decode()

    def test_one_that_was_changed_meanwhile(
        self, command: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.text = MANIFEST + "# and more\n"
        sync = os.fsync

        def edit(descriptor: int) -> None:
            manifest.write_text(self.text)
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", edit)
        self.refused(command("plugins", "pin", "--yes"), "was changed in the meantime")

    def test_a_full_disk(self, command: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        self.refused(command("plugins", "pin", "--yes"), "No space left on device")

    def test_a_layout_without_a_place_for_it(self, command: Command, manifest: Path) -> None:
        self.text = MANIFEST.replace(
            "version: 1", "version: 1\ndefaults: {config: {filesystem: {directory: &it plugins/glacier.py}}}"
        ).replace("path: plugins/glacier.py", "path: *it")
        manifest.write_text(self.text)
        done = command("plugins", "pin", "--yes")
        self.refused(done, "registry.yaml:6:7: there is no place for a digest in what is written")
        assert DIGEST in done.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal")
class TestAsking:
    def answered(self, tmp_path: Path, answer: bytes) -> tuple[int, str]:
        """What comes of it on a terminal."""
        import pty

        controller, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "shadowcat_registry", "plugins", "pin"],
            cwd=tmp_path,
            env=environment(),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(0),
        ) as running:
            os.close(terminal)
            said = b""
            try:
                with suppress(OSError):  # of Linux, once the other side is closed
                    while True:
                        # A Ctrl-C that comes just before Python begins to read is noticed with the next key:
                        # whoever sees nothing happen presses it again.
                        is_asked = b"[y/N]" in said
                        ready, _, _ = select([controller], [], [], 0.5 if is_asked else 30.0)
                        if ready:
                            chunk = os.read(controller, 4096)
                            if not chunk:
                                break
                            said += chunk
                        if b"[y/N]" in said and not (is_asked and ready):
                            os.write(controller, answer)
                return running.wait(30), said.decode()
            finally:
                running.kill()  # nothing, unless something is wrong here
                os.close(controller)

    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 130), (b"\x03", 130), (b"\x04", 130)])
    def test_only_yes_writes(self, manifest: Path, tmp_path: Path, answer: bytes, code: int) -> None:
        ended, said = self.answered(tmp_path, answer)
        assert f"+      sha256: {DIGEST}" in said
        assert "Write this to registry.yaml? [y/N]" in said
        assert "Traceback" not in said
        assert ended == code
        assert manifest.read_text() == (PINNED if code == 0 else MANIFEST)


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
