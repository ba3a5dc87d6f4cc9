"""Types out of distributions, from real wheels that are installed here: what was asked for, and only that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import entry_points
from shadowcat_registry.plugins.probe import probe_installed
from shadowcat_registry.registry import StorageProviderRegistry

from . import made, wheels

NAME = "shadowcat-glacier"
MODULE = "glacier_of_ours"
EXPORT = made.factory()


@pytest.fixture(autouse=True)
def nothing_stays_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(entry_points, "_imported", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("glacier", "sheet")):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for distributions, on `sys.path`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    return site


def install(site: Path, text: str = EXPORT, **more: str) -> Path:
    return wheels.unpack(wheels.wheel(site.parent, {f"{MODULE}.py": text}, **more), site)


def refusal(requirement: str = NAME) -> PluginError:
    with pytest.raises(PluginError) as caught:
        entry_points.load(entry_points.find(requirement))
    return caught.value


class TestFind:
    @pytest.mark.parametrize(
        "requirement",
        [NAME, "Shadowcat_Glacier", "shadowcat.glacier >=1.2, <2", f"{NAME}==1.2.0", f"{NAME}~=1.0"],
    )
    def test_it_is_found_by_any_spelling_and_imported_by_none(self, site: Path, requirement: str) -> None:
        install(site, "raise SystemExit")
        found = entry_points.find(requirement)
        assert (found.name, found.version, found.entries) == (NAME, "1.2.0", (MODULE,))
        assert found.path == site / "shadowcat_glacier-1.2.0.dist-info"
        assert MODULE not in sys.modules

    @pytest.mark.parametrize(
        ("requirement", "rule", "reason"),
        [
            (f"{NAME}>=2", "version", f"{NAME} 1.2.0 is installed, and >=2 is asked for"),
            (f"{NAME}!=1.2", "version", "and !=1.2 is asked for"),
            ("shadowcat-glaceir", "distribution", f"there are types in: {NAME}; did you mean `{NAME}`?"),
            ("packaging", "distribution", "no entry point in the group shadowcat_registry.providers"),
            (f"{NAME}[fast]", "distribution", "is more than a name and versions"),
            (f"{NAME}; python_version > '3'", "distribution", "is more than a name and versions"),
            (f"{NAME} @ https://example.invalid/x.whl", "distribution", "is more than a name and versions"),
            ("../glacier", "distribution", "names no distribution"),
            ("", "distribution", "names no distribution"),
            ("*", "distribution", "names no distribution"),
        ],
    )
    def test_what_does_not_meet_it_is_refused(
        self, site: Path, requirement: str, rule: str, reason: str
    ) -> None:
        install(site)
        error = refusal(requirement)
        assert (error.rule, reason in error.reason) == (rule, True), error

    def test_a_version_before_its_release_counts_as_what_it_is(self, site: Path) -> None:
        install(site, version="2.0rc1")
        assert entry_points.find(f"{NAME}>=1").version == "2.0rc1"
        assert refusal(f"{NAME}>=2.0").rule == "version"

    def test_two_of_one_name_are_an_error_and_not_a_race(self, site: Path, tmp_path: Path) -> None:
        install(site)
        other = tmp_path / "other"
        other.mkdir()
        sys.path.append(str(other))  # `site` put the path back
        install(other, version="1.3.0")
        try:
            error = refusal()
        finally:
            sys.path.remove(str(other))
        assert error.rule == "distribution"
        assert error.reason.startswith(f"2 distributions are called {NAME}")
        for path in (site / "shadowcat_glacier-1.2.0.dist-info", other / "shadowcat_glacier-1.3.0.dist-info"):
            assert str(path) in error.reason

    def test_two_in_one_directory_are_two_too(self, site: Path) -> None:
        install(site)
        install(site, version="1.3.0")
        assert "2 distributions are called" in refusal().reason

    def test_one_directory_that_is_on_the_path_twice_is_one(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(site)
        (tmp_path / "link").symlink_to(site)
        for again in (site, tmp_path / "link"):
            monkeypatch.syspath_prepend(str(again))
        assert entry_points.find(NAME).version == "1.2.0"

    def test_what_a_build_left_beside_its_sources_is_no_second_one(self, site: Path) -> None:
        install(site)
        info = site / "shadowcat_glacier.egg-info"
        info.mkdir()
        (info / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1\n")
        assert entry_points.find(NAME).version == "1.2.0"

    @pytest.mark.parametrize(
        ("told", "rule", "reason"),
        [
            ({"told_version": "9.9"}, "version", "gives it version 9.9, the name of their directory 1.2.0"),
            ({"told_version": "new"}, "version", "a version that is none (PEP 440): 'new'"),
            ({"told_name": "shadowcat-arctic"}, "distribution", "its metadata calls it 'shadowcat-arctic'"),
        ],
    )
    def test_metadata_that_lies_is_refused(
        self, site: Path, told: dict[str, str], rule: str, reason: str
    ) -> None:
        install(site, **told)
        error = refusal()
        assert (error.rule, reason in error.reason) == (rule, True), error

    def test_one_refusal_says_nothing_about_the_others(self, site: Path) -> None:
        install(site)
        found, refusals = entry_points.find_all(["nonsense-of-ours", NAME, "packaging", f"{NAME}>1"])
        assert [it.name for it in found] == [NAME]
        assert [it.plugin for it in refusals] == ["nonsense-of-ours", "packaging", NAME]
        assert "asked for twice" in refusals[2].reason


class TestLoad:
    @pytest.mark.parametrize(
        ("text", "entries"),
        [
            (EXPORT, f"glacier = {MODULE}"),
            (EXPORT, f"glacier = {MODULE}:PROVIDERS"),
            (EXPORT, f"glacier = {MODULE}:Glacier"),
            (EXPORT + "class Space: inner = Glacier()\n", f"glacier = {MODULE}:Space.inner"),
            (EXPORT, f"a = {MODULE}\nb = {MODULE}:PROVIDERS\nc = {MODULE}:Glacier"),
        ],
    )
    def test_an_entry_point_leads_to_a_module_its_providers_or_one(
        self, site: Path, text: str, entries: str
    ) -> None:
        install(site, text, entries=entries)
        loaded = entry_points.load(entry_points.find(NAME))
        assert [report.name for report in loaded.reports] == ["glacier"]
        assert (loaded.name, loaded.version) == (NAME, "1.2.0")

    def test_a_storage_of_it_is_opened_and_used(self, site: Path, tmp_path: Path) -> None:
        install(site, made.GLACIER)
        (factory,) = entry_points.load(entry_points.find(NAME)).factories
        with closing(StorageProviderRegistry(base_directory=tmp_path)) as registry:
            registry.register(factory)
            with registry.create_storage("glacier") as storage:
                storage.record("s", tape_id="t").finalize()
                assert [meta["tape_id"] for meta in storage.list_all()] == ["t"]

    @pytest.mark.parametrize(
        ("text", "entries", "rule", "reason"),
        [
            ("\nraise SystemExit", MODULE, "import", "glacier_of_ours.py:2: SystemExit"),
            ("\nraise KeyboardInterrupt", MODULE, "import", "glacier_of_ours.py:2: KeyboardInterrupt"),
            ("\nint('token 1234')", MODULE, "import", "glacier_of_ours.py:2: ValueError"),
            ("x = (", MODULE, "import", "glacier_of_ours.py:1: SyntaxError: '(' was never closed"),
            ("import nonsense_of_ours", MODULE, "import", "No module named 'nonsense_of_ours'"),
            (EXPORT, "nonsense_of_ours", "import", "ModuleNotFoundError: No module named 'nonsense_of_ours'"),
            (EXPORT, f"{MODULE}:Nothing", "import", "AttributeError: module 'glacier_of_ours' has no attrib"),
            (EXPORT, "not a module", "distribution", "'not a module' is no module"),
            ("import builtins\nbuiltins.open = 3\n" + EXPORT, MODULE, "import", "changed open in `builtins`"),
            ("", MODULE, "shape", "it exports no PROVIDERS"),
            (made.factory("version = 3"), MODULE, "shape", "has a `version` of type int"),
        ],
    )
    def test_what_is_wrong_is_a_refusal_and_nothing_of_it_stays(
        self, site: Path, text: str, entries: str, rule: str, reason: str
    ) -> None:
        install(site, text, entries=f"glacier = {entries}")
        error = refusal()
        assert (error.plugin, error.rule, reason in error.reason) == (NAME, rule, True), error
        assert "1234" not in str(error)
        assert MODULE not in sys.modules

    def test_another_file_of_that_name_does_not_run_in_its_place(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(site)
        (tmp_path / f"{MODULE}.py").write_text("raise SystemExit('shadow')")
        monkeypatch.syspath_prepend(str(tmp_path))
        error = refusal()
        assert error.rule == "distribution"
        assert error.reason == (
            f"{MODULE} would be imported from {tmp_path / MODULE}.py, which is no file of {NAME}"
        )

    def test_its_files_may_be_links_and_its_directory_may_have_another_name(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(site)
        (site / f"{MODULE}.py").rename(tmp_path / "store.py")
        (site / f"{MODULE}.py").symlink_to(tmp_path / "store.py")
        (tmp_path / "link").symlink_to(site)
        monkeypatch.syspath_prepend(str(tmp_path / "link"))
        assert entry_points.load(entry_points.find(NAME)).reports[0].name == "glacier"

    def test_a_package_in_a_namespace_that_others_share_is_its_own(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = {"sheet/ice/__init__.py": "from .deep import PROVIDERS", "sheet/ice/deep.py": EXPORT}
        wheels.unpack(wheels.wheel(site.parent, files, entries="glacier = sheet.ice"), site)
        (tmp_path / "more" / "sheet").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / "more"))
        assert entry_points.load(entry_points.find(NAME)).reports[0].name == "glacier"

    @pytest.mark.parametrize("text", [EXPORT, "\nimport os\nos.environ['NO_BUCKET']"])
    def test_an_editable_installation_is_where_it_says(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        install(site, text)
        project = tmp_path / "project"
        project.mkdir()
        (site / f"{MODULE}.py").rename(project / f"{MODULE}.py")
        info = site / "shadowcat_glacier-1.2.0.dist-info"
        record = (info / "RECORD").read_text().splitlines()
        (info / "RECORD").write_text("\n".join(line for line in record if not line.startswith(MODULE)))
        origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(origin))
        sys.path.append(str(project))  # by a .pth file, where it is installed for good
        monkeypatch.chdir(project)
        try:
            if text is EXPORT:
                assert entry_points.load(entry_points.find(NAME)).reports[0].name == "glacier"
            else:
                assert refusal().reason == "glacier_of_ours.py:3: KeyError: 'NO_BUCKET'"
        finally:
            sys.path.remove(str(project))

    def test_the_version_is_recorded_at_the_import(self, site: Path) -> None:
        install(site, made.factory("version = '0.1'"))
        loaded = entry_points.load(entry_points.find(NAME))
        assert loaded.version == "1.2.0"
        assert loaded.reports[0].version == "0.1", "a type has a version of its own"
        assert entry_points.moved_on(loaded) is None

        for file in (site / "shadowcat_glacier-1.2.0.dist-info").iterdir():
            file.unlink()
        (site / "shadowcat_glacier-1.2.0.dist-info").rmdir()
        assert entry_points.moved_on(loaded) == f"{NAME} 1.2.0 runs, and is not installed any more"
        install(site, made.factory("version = '0.2'"), version="1.3.0")
        assert entry_points.moved_on(loaded) == f"{NAME} 1.2.0 runs, and 1.3.0 is installed"
        again = entry_points.load(entry_points.find(NAME))
        assert (again.version, again.reports[0].version) == ("1.2.0", "0.1"), "that is what runs"
        error = refusal(f"{NAME}>=1.3")
        assert error.rule == "version"
        assert error.remedy == "restart the process: 1.3.0 is installed"

    def test_the_same_version_installed_anew_is_another(self, site: Path) -> None:
        install(site)
        loaded = entry_points.load(entry_points.find(NAME))
        install(site, EXPORT + "# mended\n")
        assert entry_points.moved_on(loaded) == f"{NAME} 1.2.0 runs, and was installed anew since"


class TestProbe:
    def test_it_tells_what_a_load_here_tells(self, site: Path) -> None:
        install(site)
        installed = entry_points.find(NAME)
        reports = probe_installed(installed)
        assert MODULE not in sys.modules
        assert entry_points.load(installed, probed=reports).reports == reports

    def test_what_ends_the_process_ends_only_that(self, site: Path) -> None:
        install(site, "\nimport faulthandler\nfaulthandler._sigsegv()")
        with pytest.raises(PluginError) as caught:
            probe_installed(entry_points.find(NAME))
        assert caught.value.reason == "its import crashed the process (SIGSEGV), at glacier_of_ours.py:3"


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "shadowcat-glacier"
version = "{version}"

[project.entry-points."shadowcat_registry.providers"]
glacier = "glacier_of_ours"
"""


@pytest.mark.ci
class TestRealTools:
    def test_what_its_build_backend_builds_and_pip_installs_is_found_and_upgraded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("hatchling")
        pytest.importorskip("pip")
        environment = tmp_path / "environment"
        site = wheels.new_environment(environment)
        monkeypatch.syspath_prepend(str(site))

        def release(version: str) -> None:
            project = tmp_path / version
            (project / MODULE).mkdir(parents=True)
            (project / "pyproject.toml").write_text(
                PROJECT.format(version=version)
                + f'\n[tool.hatch.build.targets.wheel]\npackages = ["{MODULE}"]\n'
            )
            (project / MODULE / "__init__.py").write_text("from .ice import PROVIDERS")
            (project / MODULE / "ice.py").write_text(made.factory(f"version = {version!r}"))
            wheels.pip_install(wheels.hatch(project), environment)

        release("1.2.0")
        installed = entry_points.find(f"{NAME}>=1.2")
        loaded = entry_points.load(installed, probed=probe_installed(installed))
        assert loaded.reports[0].version == "1.2.0"
        release("1.3.0")
        assert entry_points.moved_on(loaded) == f"{NAME} 1.2.0 runs, and 1.3.0 is installed"
