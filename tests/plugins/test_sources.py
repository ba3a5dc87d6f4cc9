"""What is found at a declaration, what of it is refused, and what nobody looks at."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from shadowcat_registry import includes
from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import held, packages
from shadowcat_registry.plugins.records import SourceDeclaration, Verification
from shadowcat_registry.plugins.sources import MAX_PLUGINS, digests, verify, verify_all

from .places import (
    EVIL,
    GOOD,
    STRANGER,
    as_user,
    carry_out,
    declared,
    look,
    mend,
    needs_posix,
    needs_root,
    only_refusal,
    public_directory,
)

pytestmark = needs_posix

PIN = sha256(GOOD).hexdigest()
PACKAGE = {
    "__init__.py": b"from .cold.store import PROVIDERS\n",
    "cold/__init__.py": b"",
    "cold/store.py": GOOD,
}
PACKAGE_PIN = packages.digest(PACKAGE)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "plugins"
    directory.mkdir()
    return directory


def write_package(path: Path) -> Path:
    for name, content in PACKAGE.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def one(path: Path, **more: object) -> Verification:
    return verify(SourceDeclaration(path, is_directory=False, **more))  # type: ignore[arg-type]


def names(verification: Verification) -> list[str]:
    return [source.name for source in verification.sources]


def rules(verification: Verification) -> list[tuple[str, str]]:
    return [(error.plugin, error.rule) for error in verification.refusals]


class TestADirectory:
    def test_holds_files_and_packages(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        write_package(directory / "arctic")
        verification = verify(declared(directory, pointer=("plugins", "sources", 0)))
        assert verification.refusals == ()
        arctic, glacier = verification.sources
        assert (arctic.name, arctic.path, arctic.is_package) == ("arctic", directory / "arctic", True)
        assert arctic.files == PACKAGE
        assert (glacier.name, glacier.path, glacier.is_package) == (
            "glacier",
            directory / "glacier.py",
            False,
        )
        assert glacier.files == {"glacier.py": GOOD}
        assert glacier.sha256 == PIN
        assert {it.trust for it in verification.sources} == {"ownership"}
        assert {it.pointer for it in verification.sources} == {("plugins", "sources", 0)}

    def test_may_be_empty(self, directory: Path) -> None:
        assert look(directory).sources == look(directory).refusals == ()

    def test_that_does_not_exist_is_one_refusal_and_is_watched_for(self, directory: Path) -> None:
        verification = look(directory / "none")
        assert rules(verification) == [(str(directory / "none"), "missing")]
        assert verification.patterns[0] == directory / "none" / "*.py"
        carry_out(verification.refusals[0].remedy)
        assert look(directory / "none").refusals == ()

    def test_that_is_a_file_is_refused(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        assert only_refusal(look(directory / "glacier.py")).rule == "not-a-file"

    def test_that_is_a_package_is_told_how_to_be_named(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        errors = {error.plugin: error for error in look(package).refusals}
        assert errors["__init__"].rule == "name"
        assert "not with `directory`" in (errors["__init__"].remedy or "")

    def test_says_nothing_of_what_is_no_plugin(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        for name in ("README.md", ".hidden.py", "glacier.py~", "#glacier.py#", "glacier.pyc", "glacier.so"):
            (directory / name).write_bytes(EVIL)
        for name in ("__pycache__", "data", ".git", "lost+found"):
            (directory / name).mkdir()
            (directory / name / "evil.py").write_bytes(EVIL)
        (directory / "link").symlink_to("data")
        (directory / "nowhere").symlink_to("nowhere")
        os.mkfifo(directory / "fifo")
        verification = look(directory)
        assert names(verification) == ["glacier"]
        assert verification.refusals == ()

    def test_one_that_is_refused_does_not_take_the_others_down(self, directory: Path) -> None:
        for name in ("a.py", "b.py", "c.py"):
            (directory / name).write_bytes(GOOD)
        (directory / "b.py").chmod(0o666)
        verification = look(directory)
        assert names(verification) == ["a", "c"]
        assert rules(verification) == [("b", "writable")]

    def test_of_too_many_plugins_is_refused(self, directory: Path) -> None:
        for number in range(MAX_PLUGINS + 1):
            (directory / f"p{number}.py").write_bytes(GOOD)
        assert only_refusal(look(directory)).rule == "size"

    def test_of_too_many_names_is_refused(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held, "MAX_NAMES", 3)
        for number in range(4):
            (directory / f"{number}.txt").touch()
        assert only_refusal(look(directory)).rule == "size"

    def test_is_watched_as_patterns_are(self, directory: Path) -> None:
        odd = directory / "[odd]"
        odd.mkdir()
        (odd / "glacier.py").write_bytes(GOOD)
        write_package(odd / "arctic")
        verification = look(odd)
        found = {path for pattern in verification.patterns for path in includes.expand(pattern)}
        assert (
            found == set(verification.files) == {odd / "glacier.py", *(odd / "arctic" / it for it in PACKAGE)}
        )
        (odd / "arctic" / "cold" / "new.py").touch()
        (odd / "arctic" / "warm").mkdir()
        (odd / "arctic" / "warm" / "new.py").touch()
        (odd / "new.py").touch()
        new = {path for pattern in verification.patterns for path in includes.expand(pattern)} - found
        assert new == {odd / "new.py", odd / "arctic/cold/new.py", odd / "arctic/warm/new.py"}

    def test_tells_which_files_it_depends_on_also_of_those_refused(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "glacier.py").chmod(0o666)
        assert look(directory).files == (directory / "glacier.py",)


class TestANameInADirectory:
    @pytest.mark.parametrize(
        "name", ["json", "class", "Glacier", "9lives", "two words", "gläcier", "_x", "x" * 80]
    )
    def test_is_refused_and_the_remedy_renames_it(self, directory: Path, name: str) -> None:
        (directory / f"{name}.py").write_bytes(GOOD)
        assert only_refusal(look(directory)).rule == "name"
        (source,) = mend(directory).sources
        assert source.sha256 == PIN

    def test_of_a_package_as_well(self, directory: Path) -> None:
        write_package(directory / "Arctic")
        assert only_refusal(look(directory)).rule == "name"
        assert names(mend(directory)) == ["arctic"]

    def test_that_is_taken_by_a_package_is_refused_for_both(self, directory: Path) -> None:
        (directory / "arctic.py").write_bytes(GOOD)
        write_package(directory / "arctic")
        assert rules(look(directory)) == [("arctic", "name-taken")]
        assert look(directory).sources == ()
        assert names(mend(directory)) == ["arctic", "arctic_2"]


class TestOnePlugin:
    def test_is_a_file(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (source,) = one(directory / "glacier.py").sources
        assert source.files == {"glacier.py": GOOD}

    def test_is_a_package(self, directory: Path) -> None:
        (source,) = one(write_package(directory / "arctic")).sources
        assert source.files == PACKAGE
        assert source.is_package

    def test_may_be_named_over_dots(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (source,) = one(directory / ".." / "plugins" / "glacier.py").sources
        assert source.path == directory / "glacier.py"

    @pytest.mark.parametrize("name", ["glacier.py", "arctic"])
    def test_that_is_missing_is_refused_and_watched_for(self, directory: Path, name: str) -> None:
        verification = one(directory / name)
        assert rules(verification) == [(name.removesuffix(".py"), "missing")]
        (directory / name).mkdir() if name == "arctic" else (directory / name).touch()
        if name == "arctic":
            (directory / name / "__init__.py").touch()
        found = [it for pattern in verification.patterns for it in includes.expand(pattern)]
        assert any(path.exists() for path in [*verification.files, *found])

    def test_that_is_a_directory_of_plugins_is_told_so(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "somebodys").mkdir(mode=0o777)
        (directory / "somebodys").chmod(0o777)
        error = only_refusal(one(directory))
        assert error.rule == "missing", "and nothing about what is in there"
        assert "`directory`" in (error.remedy or "")

    def test_with_a_name_of_the_standard_library_is_refused(self, directory: Path) -> None:
        (directory / "json.py").write_bytes(GOOD)
        error = only_refusal(one(directory / "json.py"))
        assert (error.plugin, error.rule) == ("json", "name")

    def test_that_is_no_python_file_is_refused(self, directory: Path) -> None:
        (directory / "glacier").write_bytes(GOOD)
        assert only_refusal(one(directory / "glacier")).rule == "not-a-file"

    @pytest.mark.parametrize("path", ["/", "/..", "/tmp/.."])
    def test_is_not_the_root(self, path: str) -> None:
        assert one(Path(path)).sources == ()
        assert one(Path(path), trust="pinned").sources == ()


class TestAPackage:
    def test_has_the_digest_that_coreutils_print(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        command = "find . -name '*.py' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
        if not shutil.which("sha256sum"):
            pytest.skip("no coreutils here")
        done = subprocess.run(["sh", "-c", command], cwd=package, check=True, capture_output=True, text=True)
        assert done.stdout.split()[0] == one(package).sources[0].sha256 == PACKAGE_PIN

    def test_never_holds_what_a_poisoned_cache_holds(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        for place in (package, package / "cold", directory):
            (place / "__pycache__").mkdir(mode=0o777)
            (place / "__pycache__").chmod(0o777)
            (place / "__pycache__" / "store.cpython-311.pyc").write_bytes(EVIL)
            (place / "__pycache__" / "evil.py").write_bytes(EVIL)
        (source,) = look(directory).sources
        assert source.files == PACKAGE
        assert source.sha256 == PACKAGE_PIN

    def test_ignores_data_and_what_cannot_be_imported(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        (package / "setup-it.py").write_bytes(EVIL)
        (package / "gläcier.py").write_bytes(EVIL)
        (package / ".hidden.py").write_bytes(EVIL)
        (package / "cold.so").write_bytes(EVIL)
        (package / "data-1").mkdir(mode=0o777)
        assert one(package).sources[0].sha256 == PACKAGE_PIN

    @pytest.mark.parametrize(
        ("rule", "command"),
        [
            ("writable", "chmod 666 cold/store.py"),
            ("writable", "chmod 777 cold"),
            ("writable", "chmod 1777 cold"),
            ("writable", "chmod 775 ."),
            ("symlink", "mv cold/store.py ../../x; ln -s ../../../x cold/store.py"),
            ("symlink", "mv cold ../../x; ln -s ../../x cold"),
            ("hard-link", "ln cold/store.py ../x"),
            ("setuid", "chmod u+s cold/store.py"),
        ],
    )
    def test_is_refused_for_any_part_of_it_and_the_remedy_mends_it(
        self, directory: Path, rule: str, command: str
    ) -> None:
        package = write_package(directory / "arctic")
        subprocess.run(["sh", "-ec", command], cwd=package, check=True)
        error = only_refusal(look(directory))
        assert (error.plugin, error.rule) == ("arctic", rule)
        assert mend(directory).sources[0].sha256 == PACKAGE_PIN

    def test_that_is_a_link_is_refused_and_the_remedy_copies_it(
        self, directory: Path, tmp_path: Path
    ) -> None:
        (directory / "arctic").symlink_to(write_package(tmp_path / "elsewhere"))
        assert only_refusal(look(directory)).rule == "symlink"
        assert mend(directory).sources[0].sha256 == PACKAGE_PIN

    @needs_root
    def test_that_may_not_be_looked_into_is_unreadable_for_all_who_ask(self) -> None:
        with public_directory() as directory:
            package = write_package(directory / "arctic")
            package.chmod(0o700)
            with as_user(STRANGER):
                refused = [
                    only_refusal(look(directory)),
                    only_refusal(one(package)),
                    only_refusal(one(package, trust="pinned", pins={"arctic": PACKAGE_PIN})),
                    *digests(declared(directory))[1],
                ]
            assert [error.rule for error in refused] == ["unreadable"] * 4
            for error in refused:
                carry_out(error.remedy)
            with as_user(STRANGER):
                assert look(directory).sources[0].sha256 == PACKAGE_PIN

    def test_is_not_too_large(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        for number in range(4):
            (package / f"m{number}.py").write_bytes(b"#" * (held.MAX_BYTES // 4))
        assert only_refusal(one(package)).rule == "size"

    def test_has_not_too_many_modules(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        for number in range(packages.MAX_FILES):
            (package / f"m{number}.py").touch()
        assert only_refusal(one(package)).rule == "size"

    def test_has_not_too_many_names(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = write_package(directory / "arctic")
        monkeypatch.setattr(packages, "MAX_NAMES", 4)
        assert names(one(package)) == ["arctic"]
        (package / "cold" / "data").touch()
        assert only_refusal(one(package)).rule == "size"

    def test_is_not_too_deep(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        package.joinpath(*"abcdefgh").mkdir(parents=True)
        assert only_refusal(one(package)).rule == "size"

    def test_in_circles_is_refused_when_it_is_pinned(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        (package / "again").symlink_to(".")
        error = only_refusal(one(package, trust="pinned", pins={"arctic": PACKAGE_PIN}))
        assert error.rule == "size"

    def test_that_changes_between_two_readings_is_read_again(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = write_package(directory / "arctic")
        readings: list[Path] = []

        class Reading(packages._Reading):
            def __init__(self, opened: held.Directory) -> None:
                super().__init__(opened)
                readings.append(opened.path)
                if len(readings) <= 2:  # as a deployment that is under way
                    (package / f"part{len(readings)}.py").write_bytes(GOOD)

        monkeypatch.setattr(packages, "_Reading", Reading)
        (source,) = one(package).sources
        assert source.files.keys() == {*PACKAGE, "part1.py", "part2.py"}
        assert len(readings) == 4


class TestPins:
    def test_let_pass_what_ownership_refuses(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "glacier.py").chmod(0o666)
        write_package(directory / "arctic")
        directory.chmod(0o777)
        pins = {"glacier.py": PIN, "arctic": PACKAGE_PIN}
        verification = verify(declared(directory, trust="pinned", pins=pins))
        assert verification.refusals == ()
        assert names(verification) == ["arctic", "glacier"]
        assert {it.trust for it in verification.sources} == {"pinned"}

    def test_have_to_be_met_under_ownership_too(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(EVIL)
        assert only_refusal(verify(declared(directory, pins={"glacier.py": PIN}))).rule == "sha256"

    def test_of_what_is_not_there_are_refusals(self, directory: Path) -> None:
        for trust in ("pinned", "ownership"):
            verification = verify(declared(directory, trust=trust, pins={"glacier.py": PIN}))
            assert rules(verification) == [("glacier", "missing")]
            assert verification.files == (directory / "glacier.py",)

    def test_are_for_entries_of_the_directory_alone(self, directory: Path) -> None:
        (directory.parent / "glacier.py").write_bytes(GOOD)
        for name in ("../glacier.py", "", ".", "..", "/etc/passwd", "a/b.py"):
            verification = verify(declared(directory, trust="pinned", pins={name: PIN}))
            assert only_refusal(verification).rule == "name"

    def test_are_wanted_of_every_plugin_and_what_has_none_is_not_read(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "planted.py").write_bytes(EVIL)
        os.mkfifo(directory / "fifo.py")
        write_package(directory / "arctic")
        verification = verify(declared(directory, trust="pinned", pins={"glacier.py": PIN}))
        assert names(verification) == ["glacier"]
        assert rules(verification) == [("arctic", "unpinned"), ("fifo", "unpinned"), ("planted", "unpinned")]
        for error in verification.refusals:
            assert (error.remedy or "").startswith("if this is a plugin that you mean: "), "nothing to paste"

    def test_hold_however_much_is_planted_beside_them(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        (directory / "glacier").mkdir()  # a package of the same name
        (directory / "glacier" / "__init__.py").touch()
        for number in range(MAX_PLUGINS + 1):
            (directory / f"p{number}.py").touch()
        verification = verify(declared(directory, trust="pinned", pins={"glacier.py": PIN}))
        assert names(verification) == ["glacier"]
        assert len(verification.refusals) == MAX_PLUGINS + 1
        monkeypatch.setattr(held, "MAX_NAMES", 3)
        verification = verify(declared(directory, trust="pinned", pins={"glacier.py": PIN}))
        assert names(verification) == ["glacier"]
        assert [error.rule for error in verification.refusals] == ["size"]

    def test_in_upper_case_are_refused_with_the_right_one(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        error = only_refusal(one(directory / "glacier.py", trust="pinned", pins={"glacier.py": PIN.upper()}))
        assert (error.rule, error.remedy) == ("sha256", f"write {PIN}")

    def test_are_needed_for_one_plugin_that_is_trusted_by_them(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        assert only_refusal(one(directory / "glacier.py", trust="pinned")).rule == "unpinned"

    def test_of_a_package_cover_every_module(self, directory: Path) -> None:
        package = write_package(directory / "arctic")
        pinned = {"trust": "pinned", "pins": {"arctic": PACKAGE_PIN}}
        assert names(one(package, **pinned)) == ["arctic"]
        (package / "cold" / "new.py").write_bytes(EVIL)
        assert only_refusal(one(package, **pinned)).rule == "sha256"


class TestAConfigMap:
    """As Kubernetes mounts one: all is a link, over one that is swapped; the directory is for everybody."""

    def mount(self, directory: Path, version: str, files: dict[str, bytes]) -> None:
        (directory / version).mkdir()
        for name, content in files.items():
            (directory / version / name).write_bytes(content)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        (directory / "..data_tmp").symlink_to(version)
        (directory / "..data_tmp").replace(directory / "..data")
        directory.chmod(0o1777)

    def test_is_trusted_by_pins_and_not_by_ownership(self, directory: Path) -> None:
        self.mount(directory, "..2026_11_25", {"glacier.py": GOOD})
        verification = verify(declared(directory, trust="pinned", pins={"glacier.py": PIN}))
        assert names(verification) == ["glacier"]
        assert verification.refusals == ()
        assert only_refusal(look(directory)).rule == "writable"
        directory.chmod(0o755)
        assert only_refusal(look(directory)).rule == "symlink"

    def test_that_is_swapped_is_what_is_pinned_or_refused(self, directory: Path) -> None:
        self.mount(directory, "..1", {"glacier.py": GOOD})
        self.mount(directory, "..2", {"glacier.py": EVIL})
        new = sha256(EVIL).hexdigest()
        assert (
            only_refusal(verify(declared(directory, trust="pinned", pins={"glacier.py": PIN}))).rule
            == "sha256"
        )
        assert names(verify(declared(directory, trust="pinned", pins={"glacier.py": new}))) == ["glacier"]

    def test_may_be_a_package(self, directory: Path) -> None:
        self.mount(directory, "..1", {"__init__.py": GOOD, "store.py": b""})
        pin = packages.digest({"__init__.py": GOOD, "store.py": b""})
        package = directory.rename(directory.with_name("arctic"))
        assert names(one(package, trust="pinned", pins={"arctic": pin})) == ["arctic"]


class TestSeveralDeclarations:
    def test_give_a_name_to_the_first_that_has_it(self, tmp_path: Path) -> None:
        for place, content in (("a", GOOD), ("b", EVIL), ("c", GOOD)):
            (tmp_path / place).mkdir()
            (tmp_path / place / "glacier.py").write_bytes(content)
        first, second, third = verify_all(declared(tmp_path / it) for it in "abc")
        assert first.sources[0].files == {"glacier.py": GOOD}
        for later in (second, third):
            assert later.sources == ()
            (error,) = later.refusals
            assert error.rule == "name-taken"
            assert str(tmp_path / "a" / "glacier.py") in error.reason
        carry_out(second.refusals[0].remedy)
        _, second, _ = verify_all(declared(tmp_path / it) for it in "abc")
        assert names(second) == ["glacier_2"]

    def test_of_the_same_plugin_are_one(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(GOOD)
        again = SourceDeclaration(directory / "glacier.py", False, "pinned", {"glacier.py": PIN})
        first, second = verify_all([declared(directory), again])
        assert names(first) == ["glacier"]
        assert (second.sources, second.refusals) == ((), ())

    def test_a_refused_one_keeps_its_name(self, tmp_path: Path) -> None:
        for place in "ab":
            (tmp_path / place).mkdir()
            (tmp_path / place / "glacier.py").write_bytes(GOOD)
        (tmp_path / "a" / "glacier.py").chmod(0o666)
        first, second = verify_all(declared(tmp_path / it) for it in "ab")
        assert rules(first) == [("glacier", "writable")]
        assert rules(second) == [("glacier", "name-taken")]

    def test_one_that_nobody_asked_for_takes_no_name(self, tmp_path: Path) -> None:
        for place in "ab":
            (tmp_path / place).mkdir()
            (tmp_path / place / "glacier.py").write_bytes(GOOD)
        planted = declared(tmp_path / "a", trust="pinned")
        first, second = verify_all([planted, declared(tmp_path / "b")])
        assert rules(first) == [("glacier", "unpinned")]
        assert names(second) == ["glacier"]


class TestNoSecret:
    def test_of_a_plugin_is_in_a_record(self, directory: Path) -> None:
        (directory / "glacier.py").write_bytes(b"TOKEN = 'hunter2'\n")
        verification = verify(declared(directory, pins={"other.py": PIN}))
        assert "hunter2" not in repr(verification)
        assert isinstance(verification.refusals[0], PluginError)
