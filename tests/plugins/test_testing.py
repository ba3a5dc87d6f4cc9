"""The suite over a plugin as its author runs it: without any file of tests, and from one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shadowcat_registry.errors import InvalidConfigError, PluginError, UnknownTypeError
from shadowcat_registry.testing import PluginUnderTest, check_plugin
from shadowcat_registry.testing.child import factory_of, name_of

from . import made

SHELF = made.GLACIER.replace('"glacier"', '"shelf"').replace(
    '"properties"', '"required": ["depth"], "properties"'
).replace(', "default": 3', "")  # fmt: skip
"""Another type, which has to be configured."""


@pytest.fixture
def glacier(tmp_path: Path) -> Path:
    path = tmp_path / "glacier.py"
    path.write_text(made.GLACIER)
    return path


class TestPluginUnderTest:
    def test_it_makes_the_factory_of_a_plugin(self, glacier: Path) -> None:
        factory = factory_of(PluginUnderTest(glacier, "glacier"))
        assert (factory.name, factory.version) == ("glacier", "1.2.0")
        with pytest.raises(UnknownTypeError, match="did you mean `glacier`"):
            PluginUnderTest(glacier, "glaceir")()

    def test_another_process_finds_it_by_its_name(self, glacier: Path) -> None:
        name = name_of(PluginUnderTest(glacier, "glacier"))
        assert name is not None
        assert factory_of(PluginUnderTest.of_reference(name)).name == "glacier"

    def test_with_a_digest_nothing_else_is_loaded(self, glacier: Path) -> None:
        with pytest.raises(PluginError) as caught:
            PluginUnderTest(glacier, "glacier", "0" * 64)()
        assert caught.value.rule == "sha256"

    def test_a_backend_class_below_the_decorator_is_as_good_as_a_factory(self) -> None:
        import shadowcat_registry as sr

        @sr.provider(name="glacier", version="1")
        class Glacier:
            def __init__(self, config: object, context: object) -> None: ...

        assert factory_of(Glacier).name == "glacier"  # type: ignore[arg-type] # its factory is not its type


class TestRefused:
    def test_a_plugin_that_cannot_be_loaded(self, glacier: Path, tmp_path: Path) -> None:
        with pytest.raises(PluginError) as caught:
            check_plugin(tmp_path / "nothing.py")
        assert caught.value.rule == "missing"
        glacier.write_text("import os\nos._exit(0)")
        with pytest.raises(PluginError, match="ended the process"):
            check_plugin(glacier)

    def test_a_config_that_is_missing_wrong_or_nobodys(self, tmp_path: Path) -> None:
        path = tmp_path / "shelf.py"
        path.write_text(SHELF)
        with pytest.raises(InvalidConfigError, match="depth"):
            check_plugin(path)
        with pytest.raises(InvalidConfigError, match="depth"):
            check_plugin(path, configs={"shelf": {"depth": "deep"}})
        with pytest.raises(UnknownTypeError, match="there is: shelf"):
            check_plugin(path, configs={"glacier": {}})

    def test_without_pytest_it_says_what_to_install(
        self, glacier: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "hypothesis", None)
        with pytest.raises(ImportError, match=r"pip install 'shadowcat-registry\[testing\]'"):
            check_plugin(glacier)


FAILING = made.GLACIER.replace(
    "return MemoryBackend(",
    """class Backend(MemoryBackend):
            def get_meta(self, tape_id):
                meta, etag = super().get_meta(tape_id)
                return {**meta, "name": "another"}, etag
        return Backend(""",
)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="its suite names an empty file of POSIX")
class TestSuite:
    def test_all_types_of_a_package_pass_each_with_its_config(self, tmp_path: Path) -> None:
        package = tmp_path / "arctic"
        package.mkdir()
        (package / "__init__.py").write_text(
            "from . import ice, shelf\nPROVIDERS = ice.PROVIDERS + shelf.PROVIDERS\n"
        )
        (package / "ice.py").write_text(made.GLACIER)
        (package / "shelf.py").write_text(SHELF)
        report = check_plugin(
            package, configs={"shelf": {"depth": 2}}, options=["-k", "etag or empty or kill"], quiet=True
        )
        assert report.types == ("glacier", "shelf")
        assert report.ok, report
        assert report.passed >= 4
        assert report.skipped >= 2, "what is in memory need not outlive a kill"

    def test_a_storage_in_files_is_killed_in_a_process_of_its_own_too(self, tmp_path: Path) -> None:
        path = tmp_path / "files.py"
        path.write_text(
            "from shadowcat_registry.providers.filesystem import FilesystemProviderFactory\n"
            "class Files(FilesystemProviderFactory):\n    name = 'files'\n"
            "    def config_schema(self): return FilesystemProviderFactory().config_schema()\n"
            "PROVIDERS = (Files,)\n"
        )
        report = check_plugin(
            path, configs={"files": {"directory": "tapes"}}, options=["-k", "kill"], quiet=True
        )
        assert (report.passed, report.failed, report.skipped) == (1, 0, 0)

    def test_what_fails_in_a_thread_only_has_failed(self, tmp_path: Path) -> None:
        path = tmp_path / "glacier.py"
        kept = "class Backend(MemoryBackend):\n    def set_meta(self, tape_id, meta, if_match):\n"
        kept += "        etag = super().set_meta(tape_id, meta, if_match)\n"
        kept += "        assert 'x_3' not in meta\n        return etag\n\n\nclass Glacier:"
        text = made.GLACIER.replace("class Glacier:", kept)
        path.write_text(text.replace("return MemoryBackend(", "return Backend("))
        report = check_plugin(path, options=["-k", "racing_updates"], quiet=True)
        assert (report.passed, report.failed) == (0, 1)

    def test_what_fails_is_named(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "glacier.py"
        path.write_text(FAILING)
        report = check_plugin(path, options=["-k", "comes_back or etag", "-q"])
        assert not report.ok
        assert report.failed == len(report.failures) > 0
        assert all(name.startswith("TestGlacier::test_") for name in report.failures)
        assert "FAILED test_plugin.py::TestGlacier::" in capfd.readouterr().out, "pytest says it itself"
        assert report.as_json()["ok"] is False
