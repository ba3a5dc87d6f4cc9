from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowcat_registry import startup
from shadowcat_registry.errors import AlreadyInitializedError, ManifestError, ManifestNotFoundError
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.startup import (
    STORAGE_REGISTRY,
    initialize_storage,
    open_registry,
    register_builtin_providers,
)

from .fakes import Factory, Gate, Running
from .plugins.worlds import plugin

MANIFEST = "version: 1\ndefaults: {provider: scratch}\nproviders: {scratch: {type: memory}}\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and a process in which nothing was initialised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHADOWCAT_REGISTRY", raising=False)
    monkeypatch.setattr(startup, "_running", None)
    yield tmp_path
    if startup._running is not None:
        startup._running.close()
    STORAGE_REGISTRY.close()


@pytest.fixture
def manifest(directory: Path) -> Path:
    path = directory / "registry.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    return path


class TestPlugins:
    def test_the_directory_of_the_environment_adds_types(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (directory / "plugins").mkdir(mode=0o755)
        (directory / "plugins/glacier.py").write_text(plugin())
        (directory / "plugins/glacier.py").chmod(0o644)
        (directory / "registry.yaml").write_text("version: 1\nproviders: {cold: {type: glacier}}\n")
        monkeypatch.setenv("SHADOWCAT_PLUGIN_DIR", "plugins")
        initialize_storage()
        assert STORAGE_REGISTRY.get_provider_info("cold").version == "1.0"
        assert "glacier" not in STORAGE_REGISTRY  # it adds types, and no provider

    def test_a_call_within_the_call_that_waits_for_it_is_an_error(self, manifest: Path) -> None:
        said: list[str] = []

        def hook(_: str) -> None:
            with pytest.raises(RuntimeError, match="would wait for what it was called in") as caught:
                initialize_storage(manifest)
            said.append(str(caught.value))

        STORAGE_REGISTRY.add_init_hook(hook)
        try:
            initialize_storage(manifest)
        finally:
            STORAGE_REGISTRY._hooks = ()
        assert said


class TestOpenRegistry:
    def test_opens_what_is_here(self, manifest: Path) -> None:
        with open_registry(watch=False) as runtime:
            assert runtime.path == manifest
            with runtime.registry.get_default_storage() as storage:
                assert storage.provider == "scratch"
        assert len(runtime.registry) == 0

    def test_each_is_a_registry_of_its_own(self, manifest: Path) -> None:
        with open_registry(manifest, watch=False) as one, open_registry(manifest, watch=False) as other:
            assert one.registry is not other.registry
            assert len(STORAGE_REGISTRY) == 0

    def test_takes_the_environment(self, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHADOWCAT_REGISTRY", str(manifest.rename(manifest.with_name("other.yaml"))))
        with open_registry(watch=False) as runtime:
            assert runtime.path == manifest.with_name("other.yaml")

    def test_a_path_is_the_same_after_a_change_of_the_directory(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_registry("registry.yaml", watch=False) as runtime:
            (manifest.parent / "elsewhere").mkdir()
            monkeypatch.chdir(manifest.parent / "elsewhere")
            assert runtime.reload().result == "unchanged"

    def test_what_is_missing_or_wrong_is_an_error_and_leaves_nothing(self, manifest: Path) -> None:
        with pytest.raises(ManifestNotFoundError):
            open_registry("nosuch.yaml")
        manifest.write_text("version: 2", encoding="utf-8")
        before = threading.active_count()
        with pytest.raises(ManifestError):
            open_registry()
        assert threading.active_count() == before


class TestRegisterBuiltinProviders:
    def test_there_is_one_for_each_type_and_the_filesystem_is_the_default(self) -> None:
        registry = StorageProviderRegistry()
        register_builtin_providers(registry)
        assert list(registry) == ["filesystem", "memory", "sqlite"]
        assert registry.snapshot().default == "filesystem"
        assert all(provider.replaceable for provider in registry.snapshot().values())

    def test_nothing_is_opened_or_created(self, directory: Path) -> None:
        register_builtin_providers(StorageProviderRegistry())
        assert list(directory.iterdir()) == []

    def test_what_code_has_chosen_is_kept(self) -> None:
        registry = StorageProviderRegistry()
        mine = Factory("memory")
        registry.register(mine)
        registry.set_default("memory")
        register_builtin_providers(registry)
        register_builtin_providers(registry)
        assert registry.snapshot()["memory"].factory is mine
        assert registry.snapshot().default == "memory"


class TestInitializeStorage:
    def test_without_any_manifest_tapes_go_to_the_working_directory(
        self, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            runtime = initialize_storage()
            assert initialize_storage() is runtime
        assert caplog.text.count("tapes go to ./tapes") == 1
        with STORAGE_REGISTRY.get_default_storage() as storage:
            storage.record("s-1", tape_id="t-1").finalize()
        assert (directory / "tapes" / "t-1.jsonl").is_file()
        assert runtime.status().manifest is None

    def test_an_empty_variable_names_no_manifest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHADOWCAT_REGISTRY", "")
        assert initialize_storage().path is None

    @pytest.mark.parametrize("how", ["argument", "environment"])
    def test_a_manifest_that_was_named_has_to_be_there(
        self, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if how == "environment":
            monkeypatch.setenv("SHADOWCAT_REGISTRY", "nosuch.yaml")
        with pytest.raises(ManifestNotFoundError):
            initialize_storage("nosuch.yaml" if how == "argument" else None)
        assert len(STORAGE_REGISTRY) == 0

    def test_a_manifest_is_applied_and_followed_beside_the_builtins(self, manifest: Path) -> None:
        runtime = initialize_storage()
        assert runtime.registry is STORAGE_REGISTRY
        assert list(STORAGE_REGISTRY) == ["filesystem", "memory", "sqlite", "scratch"]
        assert STORAGE_REGISTRY.snapshot().default == "scratch"
        manifest.write_text(MANIFEST + "# touched\n", encoding="utf-8")
        assert runtime.reload().result == "unchanged"

    def test_a_declaration_takes_the_place_of_a_builtin(self, manifest: Path, directory: Path) -> None:
        text = MANIFEST.replace("scratch", "filesystem").replace(
            "memory", "filesystem, config: {directory: mine}"
        )
        manifest.write_text(text, encoding="utf-8")
        initialize_storage(manifest)
        assert STORAGE_REGISTRY.get_provider_info("filesystem").origin == "manifest"
        assert (directory / "mine").is_dir()

    def test_the_same_manifest_is_the_same_runtime_and_another_is_refused(self, manifest: Path) -> None:
        runtime = initialize_storage("registry.yaml")
        assert initialize_storage(manifest) is runtime
        with pytest.raises(AlreadyInitializedError) as caught:
            initialize_storage("other.yaml")
        assert caught.value == AlreadyInitializedError(str(manifest), str(manifest.with_name("other.yaml")))

    def test_after_the_end_it_begins_anew(self, manifest: Path) -> None:
        first = initialize_storage()
        first.close()
        assert len(STORAGE_REGISTRY) == 0
        second = initialize_storage()
        assert second is not first
        assert "scratch" in STORAGE_REGISTRY

    def test_of_many_threads_all_get_the_same(self, manifest: Path) -> None:
        gate, first = Gate(), [True]

        def hook(_: str) -> None:
            if first[0]:
                first[0] = False
                gate()

        STORAGE_REGISTRY.add_init_hook(hook)
        calls = [Running(initialize_storage) for _ in range(8)]
        gate.reached()
        gate.open()
        assert len({id(call.result()) for call in calls}) == 1

    def test_a_failure_takes_back_what_it_added_and_nothing_else(self, manifest: Path) -> None:
        manifest.write_text("version: 2", encoding="utf-8")
        STORAGE_REGISTRY.register(Factory("mine"))
        STORAGE_REGISTRY.set_default("mine")
        with pytest.raises(ManifestError):
            initialize_storage()
        assert list(STORAGE_REGISTRY) == ["mine"]
        assert STORAGE_REGISTRY.snapshot().default == "mine"
        manifest.write_text(MANIFEST, encoding="utf-8")
        initialize_storage()
        assert STORAGE_REGISTRY.snapshot().default == "scratch"

    def test_a_failure_unsets_the_default_that_it_set(self, manifest: Path) -> None:
        manifest.write_text("version: 2", encoding="utf-8")
        with pytest.raises(ManifestError):
            initialize_storage()
        assert (list(STORAGE_REGISTRY), STORAGE_REGISTRY.snapshot().default) == ([], None)

    def test_after_the_builtins_were_registered_it_goes_on_from_there(self, manifest: Path) -> None:
        register_builtin_providers()
        initialize_storage()
        assert list(STORAGE_REGISTRY) == ["filesystem", "memory", "sqlite", "scratch"]
