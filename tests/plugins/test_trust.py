"""Whose bytes are read: every file and directory that an attacker could put in the way."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import held, owned, refusals
from shadowcat_registry.plugins.trust import check_owned_manifest, read_owned, read_pinned

from .places import (
    ATTACKS,
    CAN_MOUNT,
    EVIL,
    GOOD,
    ROOT_ATTACKS,
    STRANGER,
    Arrange,
    as_user,
    carry_out,
    look,
    mend,
    needs_posix,
    needs_root,
    only_refusal,
    public_directory,
)

pytestmark = needs_posix

PIN = sha256(GOOD).hexdigest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of plugins, with one more above it that is ours."""
    directory = tmp_path / "opt" / "plugins"
    directory.mkdir(parents=True)
    for path in (directory, directory.parent):
        path.chmod(0o755)
    return directory


@pytest.fixture
def file(directory: Path) -> Path:
    path = directory / "glacier.py"
    path.write_bytes(GOOD)
    path.chmod(0o644)
    return path


def refused(path: Path) -> PluginError:
    with pytest.raises(PluginError) as caught:
        read_owned(path)
    return caught.value


def matrix(attacks: list[tuple[str, str, Arrange, bool]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("rule", "arrange", "leaves_plugin"), [it[1:] for it in attacks], ids=[it[0] for it in attacks]
    )


class Attacked:
    def check(self, directory: Path, file: Path, rule: str, arrange: Arrange, *, leaves_plugin: bool) -> None:
        arrange(file, directory)
        error = only_refusal(look(directory))
        assert error.rule == rule
        assert error.path is not None
        assert error.path in error.reason
        assert str(error).count("\n") == 0
        assert refused(file).rule == rule, "the same for one file"
        after = mend(directory)
        assert after.refusals == ()
        assert [it.name for it in after.sources] == (["glacier"] if leaves_plugin else [])


class TestTheAttackMatrix(Attacked):
    @matrix(ATTACKS)
    def test_is_refused_and_its_remedy_mends_it(
        self, directory: Path, file: Path, rule: str, arrange: Arrange, leaves_plugin: bool
    ) -> None:
        self.check(directory, file, rule, arrange, leaves_plugin=leaves_plugin)

    @needs_root
    @matrix(ROOT_ATTACKS)
    def test_of_others_is_refused_and_its_remedy_mends_it(
        self, directory: Path, file: Path, rule: str, arrange: Arrange, leaves_plugin: bool
    ) -> None:
        self.check(directory, file, rule, arrange, leaves_plugin=leaves_plugin)


class TestAnOwnedFile:
    def test_is_read(self, file: Path) -> None:
        assert read_owned(file) == GOOD

    def test_may_be_empty(self, file: Path) -> None:
        file.write_bytes(b"")
        assert read_owned(file) == b""

    def test_is_a_mebibyte_at_most(self, file: Path) -> None:
        file.write_bytes(b"#" * held.MAX_BYTES)
        assert len(read_owned(file)) == held.MAX_BYTES
        file.write_bytes(b"#" * (held.MAX_BYTES + 1))
        assert refused(file).rule == "size"

    def test_that_is_huge_is_refused_without_reading_it(self, file: Path) -> None:
        os.truncate(file, 1 << 40)
        assert refused(file).rule == "size"

    def test_that_does_not_exist_is_missing(self, directory: Path) -> None:
        error = refused(directory / "none" / "glacier.py")
        assert (error.rule, error.path) == ("missing", str(directory / "none"))
        assert refused(directory / "glacier.py").rule == "missing"

    def test_beneath_a_file_does_not_exist(self, file: Path) -> None:
        assert refused(file / "glacier.py").rule == "not-a-file"

    @pytest.mark.parametrize("path", ["/", "/proc/self/mem", "/dev/zero", "/dev/tty", "/nul\0"])
    def test_is_no_part_of_the_system(self, path: str) -> None:
        error = refused(Path(path))
        assert "rm " not in (error.remedy or "")

    def test_has_an_absolute_path(self) -> None:
        with pytest.raises(ValueError, match="not an absolute path"):
            read_owned(Path("glacier.py"))

    def test_may_be_named_over_dots(self, file: Path) -> None:
        assert read_owned(file.parent / ".." / file.parent.name / "glacier.py") == GOOD

    def test_is_not_reached_over_a_link_and_a_remedy_names_the_real_path(
        self, file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "current").symlink_to("opt")
        error = refused(tmp_path / "current" / "plugins" / "glacier.py")
        assert (error.rule, error.path) == ("symlink", str(tmp_path / "current"))
        assert error.remedy == f"name it by its real path: {file}"
        assert read_owned(file) == GOOD

    def test_may_be_beneath_a_sticky_directory_that_everybody_may_write(self, file: Path) -> None:
        file.parent.parent.chmod(0o1777)
        assert read_owned(file) == GOOD

    def test_in_a_directory_for_everybody_is_not_mended_by_closing_that(self) -> None:
        error = refused(Path("/tmp/glacier.py"))
        assert (error.rule, error.path) == ("writable", "/tmp")
        assert "chmod" not in (error.remedy or "")

    @needs_root
    def test_is_that_of_the_effective_user_or_of_root(self) -> None:
        with public_directory() as directory:
            for name, owner in (("ours.py", STRANGER), ("roots.py", 0), ("others.py", STRANGER + 1)):
                (directory / name).write_bytes(GOOD)
                os.chown(directory / name, owner, -1)
            with as_user(STRANGER):
                assert read_owned(directory / "ours.py") == GOOD
                assert read_owned(directory / "roots.py") == GOOD
                assert refused(directory / "others.py").rule == "owner"
            assert refused(directory / "ours.py").rule == "owner", "root does not run what others may change"

    @needs_root
    def test_that_may_not_be_read_is_unreadable(self) -> None:
        with public_directory() as directory:
            file = directory / "glacier.py"
            file.write_bytes(GOOD)
            file.chmod(0o600)
            with as_user(STRANGER):
                error = refused(file)
                assert error.rule == "unreadable"
            carry_out(error.remedy)
            with as_user(STRANGER):
                assert read_owned(file) == GOOD
            directory.chmod(0o700)
            with as_user(STRANGER):
                error = refused(file)
                assert (error.rule, error.path) == ("unreadable", str(file))

    def test_that_grows_while_it_is_read_is_read_again(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads: list[int] = []

        def read(descriptor: int, size: int) -> bytes:
            data = os.read(descriptor, size)
            if not reads:
                with file.open("ab") as more:
                    more.write(b"# more\n")
            reads.append(size)
            return data

        monkeypatch.setattr(held, "_read", read)
        assert read_owned(file) == GOOD + b"# more\n"

    def test_that_goes_on_growing_is_refused(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(descriptor: int, size: int) -> bytes:
            data = os.read(descriptor, size)
            if not data:
                with file.open("ab") as more:
                    more.write(b"#")
            return data

        monkeypatch.setattr(held, "_read", read)
        assert refused(file).rule == "changed"

    @pytest.mark.parametrize("clock", ["goes on", "stands still"])
    def test_of_the_same_size_that_is_written_while_it_is_read_is_read_again(
        self, file: Path, clock: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if clock == "stands still":  # two writes in one tick of it: only the content tells
            monkeypatch.setattr(owned, "signature_of", lambda _: ())
        else:
            os.utime(file, (1, 1))
        reads: list[int] = []

        def read(descriptor: int, size: int) -> bytes:
            data = os.read(descriptor, size)
            if not data and not reads:
                reads.append(size)
                file.write_bytes(EVIL)
            return data

        monkeypatch.setattr(held, "_read", read)
        assert read_owned(file) == EVIL

    @pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
    def test_on_which_somebody_holds_a_lease_does_not_make_it_wait(self, file: Path) -> None:
        program = (
            "import fcntl, os, signal, sys; signal.signal(signal.SIGIO, signal.SIG_IGN);"
            f"f = os.open({str(file)!r}, os.O_RDWR); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK);"
            "print('held', flush=True); sys.stdin.read()"
        )
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert refused(file).rule == "changed"
            holder.communicate()

    @pytest.mark.parametrize("call", ["open", "fstat", "lseek"])
    def test_on_a_file_system_that_fails_is_unreadable(
        self, file: Path, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> object:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        failing = SimpleNamespace(**{**vars(os), call: fail})
        with monkeypatch.context() as patch:
            patch.setattr(held, "os", failing)
            patch.setattr(owned, "os", failing)
            error = refused(file)
            assert error.rule == "unreadable"
            assert os.strerror(errno.ESTALE) in error.reason
            assert only_refusal(look(file.parent)).rule == "unreadable"

    def test_is_refused_where_a_directory_cannot_be_held_open(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "CAN_HOLD", False)
        error = refused(file)
        assert (error.rule, error.remedy) == ("owner", f"pin it: {refusals.PIN_COMMAND}")

    def test_is_read_where_no_descriptor_holds_without_opening(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "_HELD", 0)
        assert read_owned(file) == GOOD
        os.mkfifo(file.with_name("fifo.py"))
        assert refused(file.with_name("fifo.py")).rule == "not-a-file"
        (file.parent / "link.py").symlink_to(file)
        assert refused(file.parent / "link.py").rule == "symlink"

    def test_is_read_where_there_is_no_proc(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held, "_REOPEN", "/nowhere/{}")
        assert read_owned(file) == GOOD


class TestAPinnedFile:
    def test_is_read_whatever_its_owner_its_modes_and_the_links(self, file: Path, tmp_path: Path) -> None:
        file.chmod(0o4777)
        file.parent.chmod(0o1777)
        file.parent.parent.chmod(0o777)
        (tmp_path / "other").hardlink_to(file)
        (tmp_path / "link.py").symlink_to("current/glacier.py")
        (tmp_path / "current").symlink_to("opt/plugins")
        assert read_pinned(tmp_path / "link.py", PIN) == GOOD

    def test_of_other_bytes_is_refused_and_says_which(self, file: Path) -> None:
        file.write_bytes(EVIL)
        with pytest.raises(PluginError) as caught:
            read_pinned(file, PIN)
        assert caught.value.rule == "sha256"
        assert sha256(EVIL).hexdigest() in caught.value.reason
        assert PIN in caught.value.reason

    def test_with_a_pin_in_upper_case_is_refused_with_the_right_one(self, file: Path) -> None:
        with pytest.raises(PluginError) as caught:
            read_pinned(file, PIN.upper())
        assert (caught.value.rule, caught.value.remedy) == ("sha256", f"write {PIN}")

    @pytest.mark.parametrize("pin", ["", PIN[:-1], PIN + "0", "g" * 64, PIN + "\n", f"sha256:{PIN}"])
    def test_has_a_pin_of_64_digits(self, file: Path, pin: str) -> None:
        with pytest.raises(PluginError, match="not 64 hexadecimal digits"):
            read_pinned(file, pin)

    @pytest.mark.parametrize(
        "target", ["/dev/zero", "/dev/tty", "/proc/self/mem", "/", "fifo", "nowhere", "loop"]
    )
    def test_is_a_regular_file_and_nothing_is_waited_for(self, tmp_path: Path, target: str) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "glacier.py").symlink_to(target)
        with pytest.raises(PluginError) as caught:
            read_pinned(tmp_path / "glacier.py", PIN)
        assert caught.value.rule in ("not-a-file", "missing", "unreadable")

    def test_is_a_mebibyte_at_most(self, file: Path) -> None:
        os.truncate(file, held.MAX_BYTES + 1)
        with pytest.raises(PluginError, match=r"size"):
            read_pinned(file, PIN)

    def test_is_read_where_a_directory_cannot_be_held_open(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "CAN_HOLD", False)
        assert read_pinned(file, PIN) == GOOD
        with pytest.raises(PluginError, match="missing"):
            read_pinned(file.parent / "none" / "x.py", PIN)
        with pytest.raises(PluginError, match="not a directory"):
            read_pinned(file / "x.py", PIN)

    def test_that_is_being_replaced_gets_another_look(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_bytes(EVIL)
        reads: list[int] = []

        def read(descriptor: int, size: int) -> bytes:
            data = os.read(descriptor, size)
            if not data and not reads:
                reads.append(size)
                file.write_bytes(GOOD)
            return data

        monkeypatch.setattr(held, "_read", read)
        assert read_pinned(file, PIN) == GOOD


class TestARemedy:
    @pytest.mark.parametrize(
        "name", ["a b", "it's", "new\nline", "tab\t'quote", "\udcff", "-rf", "$(id)", "ä"]
    )
    def test_can_be_pasted_whatever_is_in_the_path(self, tmp_path: Path, name: str) -> None:
        directory = tmp_path / name / "plugins"
        directory.mkdir(parents=True)
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "glacier.py").chmod(0o666)
        error = only_refusal(look(directory))
        assert str(error).isprintable()
        assert (error.remedy or "").isprintable()
        carry_out(error.remedy)
        assert [it.name for it in look(directory).sources] == ["glacier"]

    @needs_root
    def test_does_not_take_a_home_from_its_owner(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "home" / "alice"
        (home / "plugins").mkdir(parents=True)
        os.chown(home, STRANGER, -1)
        monkeypatch.setattr(refusals, "_HOMES", {home.parent})
        error = refused(home / "plugins" / "glacier.py")
        assert (error.rule, error.path) == ("owner", str(home))
        assert "chown" not in (error.remedy or "")


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux keeps them")
class TestAnAccessList:
    def test_that_lets_somebody_write_is_found_and_the_remedy_closes_it(
        self, directory: Path, file: Path
    ) -> None:
        user, named, group, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
        entries = [(user, 6, -1), (named, 6, STRANGER), (group, 4, -1), (mask, 6, -1), (other, 4, -1)]
        packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            os.setxattr(file, "system.posix_acl_access", packed)
        except OSError:
            pytest.skip("no access lists on this file system")
        assert only_refusal(look(directory)).rule == "writable"
        assert [it.name for it in mend(directory).sources] == ["glacier"]


def manifest_refused(path: Path) -> PluginError:
    with pytest.raises(PluginError) as caught:
        check_owned_manifest(path)
    return caught.value


class TestTheManifestWithPins:
    """Whoever may write it says what runs."""

    @pytest.fixture
    def manifest(self, directory: Path) -> Path:
        path = directory / "registry.yaml"
        path.write_text("version: 1\n")
        path.chmod(0o644)
        return path

    def test_is_ours_alone(self, manifest: Path) -> None:
        check_owned_manifest(manifest)
        check_owned_manifest(manifest.parent / ".." / manifest.parent.name / manifest.name)

    def test_may_be_larger_than_a_plugin(self, manifest: Path) -> None:
        os.truncate(manifest, 2 * held.MAX_BYTES)
        check_owned_manifest(manifest)

    @pytest.mark.parametrize(
        ("rule", "arrange"),
        [it[1:3] for it in ATTACKS if it[3]],
        ids=[it[0] for it in ATTACKS if it[3]],
    )
    def test_is_refused_where_a_plugin_would_be(
        self, manifest: Path, directory: Path, rule: str, arrange: Arrange
    ) -> None:
        arrange(manifest, directory)
        error = manifest_refused(manifest)
        assert error.rule == rule
        assert str(directory.parent) in (error.path or "")

    @needs_root
    def test_is_not_a_strangers(self, manifest: Path) -> None:
        os.chown(manifest, STRANGER, -1)
        error = manifest_refused(manifest)
        assert error.rule == "owner"
        carry_out(error.remedy)
        check_owned_manifest(manifest)

    def test_over_a_link_is_named_by_its_real_path(self, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "registry.yaml").symlink_to(manifest)
        error = manifest_refused(tmp_path / "registry.yaml")
        assert error.remedy == f"name it by its real path: {manifest}"

    def test_that_is_missing_or_no_file_is_refused(self, manifest: Path) -> None:
        assert manifest_refused(manifest.with_name("none.yaml")).rule == "missing"
        for path in (manifest.parent, Path("/"), manifest / ".."):
            assert manifest_refused(path).rule == "not-a-file"
        with pytest.raises(ValueError, match="not an absolute path"):
            check_owned_manifest(Path("registry.yaml"))

    def test_is_not_asked_about_where_nobody_can_tell(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(held, "CAN_HOLD", False)
        manifest.chmod(0o666)
        check_owned_manifest(manifest)


CHECK = """
import sys
from pathlib import Path
from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins.trust import {0}
for path in sys.argv[1:]:
    try:
        {0}(Path(path))
        print("fine")
    except PluginError as error:
        print(error.rule)
"""


needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="mounts need Linux and its mount namespaces")


def verdicts(tmp_path: Path, check: str, mounts: str, *paths: Path) -> list[str]:
    """Of `check` on each path, in a mount namespace of its own, which ends with the process."""
    script = f'set -e; {mounts}; exec {sys.executable} -c "$CHECK" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *map(str, paths)],
        cwd=tmp_path,
        env={**os.environ, "CHECK": CHECK.format(check)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout.split()


@needs_root
@needs_mounts
class TestAMountInADirectoryForEverybody:
    def test_is_not_believed_whose_it_says_it_is(self, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        for name in ("mounted", "plain"):
            (shared / name).mkdir(parents=True)
        shared.chmod(0o1777)
        (shared / "plain" / "glacier.py").write_bytes(GOOD)
        mounts = "mount -t tmpfs -o mode=755 tmpfs shared/mounted; echo > shared/mounted/glacier.py"
        paths = [shared / "mounted" / "glacier.py", shared / "plain" / "glacier.py"]
        assert verdicts(tmp_path, "read_owned", mounts, *paths) == ["owner", "fine"]

    def test_is_where_it_belongs_in_one_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "mounted").mkdir()
        mounts = "mount -t tmpfs -o mode=755 tmpfs mounted; echo > mounted/glacier.py"
        assert verdicts(tmp_path, "read_owned", mounts, tmp_path / "mounted" / "glacier.py") == ["fine"]


@needs_root
@needs_mounts
class TestTheManifestOnAMount:
    def verdicts(self, tmp_path: Path, mounts: str, *paths: Path) -> list[str]:
        return verdicts(tmp_path, "check_owned_manifest", mounts, *paths)

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        """A ConfigMap, as it is mounted: links, for everybody to write if it were not for the mount."""
        config = tmp_path / "config"
        (config / "..1").mkdir(parents=True)
        (config / "..1" / "registry.yaml").write_text("version: 1\n")
        (config / "..1" / "registry.yaml").chmod(0o666)
        (config / "..data").symlink_to("..1")
        (config / "registry.yaml").symlink_to("..data/registry.yaml")
        (config / "absolute.yaml").symlink_to(config / "..data" / ".." / "..data" / "registry.yaml")
        (config / "out.yaml").symlink_to(tmp_path / "elsewhere.yaml")
        (config / "loop.yaml").symlink_to("loop.yaml")
        config.chmod(0o1777)
        return config

    def test_that_is_read_only_may_be_links_and_anybodys(self, tmp_path: Path, config: Path) -> None:
        for path in (config / "..1", config / "..1" / "registry.yaml"):
            os.chown(path, STRANGER, -1)
        (config / "..1").chmod(0o777)
        mounts = "mount --bind config config; mount -o remount,bind,ro config"
        paths = [config / "registry.yaml", config / "absolute.yaml"]
        assert self.verdicts(tmp_path, mounts, *paths) == ["fine", "fine"]

    def test_that_can_be_written_may_not(self, tmp_path: Path, config: Path) -> None:
        paths = [config / "registry.yaml", config / "..1" / "registry.yaml"]
        assert self.verdicts(tmp_path, "mount --bind config config", *paths) == ["symlink", "writable"]

    def test_that_is_read_only_may_not_lead_to_where_others_write(self, tmp_path: Path, config: Path) -> None:
        (tmp_path / "elsewhere.yaml").write_text("version: 1\n")
        (tmp_path / "elsewhere.yaml").chmod(0o666)
        mounts = "mount --bind config config; mount -o remount,bind,ro config"
        paths = [config / "out.yaml", config / "loop.yaml"]
        assert self.verdicts(tmp_path, mounts, *paths) == ["writable", "symlink"]

    def test_of_one_file_may_be_anybodys(self, tmp_path: Path, config: Path) -> None:
        (tmp_path / "registry.yaml").touch()
        os.chown(config / "..1" / "registry.yaml", STRANGER, -1)
        source = config / "..1" / "registry.yaml"
        mounts = f"mount --bind {source} registry.yaml; mount -o remount,bind,ro registry.yaml"
        assert self.verdicts(tmp_path, mounts, tmp_path / "registry.yaml") == ["fine"]

    def test_below_a_directory_of_others_may_not(self, tmp_path: Path, config: Path) -> None:
        # The mount itself could be moved aside with the directory that it is in.
        tmp_path.chmod(0o777)
        mounts = "mount --bind config config; mount -o remount,bind,ro config"
        assert self.verdicts(tmp_path, mounts, config / "registry.yaml") == ["writable"]
