"""The last good manifest: kept as it was, for its user alone; and a start on which there is no other."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import ManifestError, ManifestNotFoundError
from shadowcat_registry.last_good import Keeping, LastGood, NothingKeptError
from shadowcat_registry.load import load_manifest
from shadowcat_registry.private import write_private
from shadowcat_registry.runtime import Runtime

from .cli.conftest import MANIFEST
from .fakes import Gate, until
from .test_load import VaultFactory

BROKEN = MANIFEST.replace("directory", "directroy")
ARCHIVE = "  archive: {type: filesystem, config: {directory: ./archive}}\n"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(directory))
    return directory


@pytest.fixture
def manifest(tmp_path: Path, state: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def keeper(manifest: Path) -> Iterator[LastGood]:
    keeper = LastGood(manifest)
    yield keeper
    keeper.close(10)


def keep(keeper: LastGood, path: Path, catalog: Catalog | None = None) -> Keeping:
    keeper.keep(load_manifest(path, catalog or Catalog()))
    keeper.close(10)
    return keeper.status()


def run_once(manifest: Path) -> None:
    """A process that has been well."""
    with Runtime(manifest, watch=False, last_good="keep") as runtime:
        runtime.start()


class TestKeeping:
    @pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
    def test_is_for_its_user_alone(self, keeper: LastGood, manifest: Path, state: Path) -> None:
        kept = keep(keeper, manifest)
        assert kept.path is not None
        path = Path(kept.path)
        assert path.is_relative_to(state / "shadowcat-registry")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for directory in (path.parent, path.parent.parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_gives_back_what_was_there_byte_for_byte(self, keeper: LastGood, manifest: Path) -> None:
        text = "# ein Wörtchen\r\n" + MANIFEST
        manifest.write_bytes(text.encode())
        keep(keeper, manifest)
        kept = LastGood(manifest).read()
        assert kept.texts == {manifest: text}
        assert kept.digest == load_manifest(manifest, Catalog()).digest

    def test_has_a_place_for_each_manifest(self, keeper: LastGood, manifest: Path, tmp_path: Path) -> None:
        keep(keeper, manifest)
        with pytest.raises(NothingKeptError, match=r"no good manifest has been kept in .*last-good\.json"):
            LastGood(tmp_path / "other.yaml").read()

    def test_leaves_references_as_they_are_written(
        self, keeper: LastGood, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PLACE", "Zq7canary")
        manifest.write_text(MANIFEST.replace("./tapes", "'./${env:PLACE}'"))
        kept = keep(keeper, manifest)
        assert kept.path is not None
        assert "Zq7canary" not in Path(kept.path).read_text()

    @pytest.mark.parametrize(
        ("config", "is_kept"),
        [
            ("{token: Zq7canary}", False),
            ("{token: 'x${env:TOKEN}'}", False),
            ("{token: '${env:TOKEN}', path: 's3://key:Zq7canary@host'}", False),
            ("{token: '${env:TOKEN}', path: 's3://key:${env:TOKEN}@host'}", True),
            ("{token: '${env:TOKEN}', path: 's3://host:80/@x'}", True),
            ("{token: '${env:TOKEN}'}", True),
        ],
    )
    def test_is_not_done_where_a_secret_is_written_into_it(
        self, keeper: LastGood, manifest: Path, monkeypatch: pytest.MonkeyPatch, config: str, is_kept: bool
    ) -> None:
        monkeypatch.setenv("TOKEN", "t")
        before = keep(keeper, manifest)
        manifest.write_text(f"version: 1\nproviders:\n  v: {{type: vault, config: {config}}}\n")
        manifest.chmod(0o600)
        kept = keep(keeper, manifest, Catalog([VaultFactory()]))
        assert before.path is not None
        assert Path(before.path).exists() is is_kept, "what is older is not the last good one"
        if is_kept:
            assert kept.problem is None
        else:
            assert kept.digest is None
            assert kept.problem is not None
            assert kept.problem.startswith(f"a secret is written into it at {manifest}:")

    def test_says_once_why_it_cannot_and_gets_well_again(
        self, keeper: LastGood, manifest: Path, state: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        state.write_text("in the way")
        for _ in range(3):
            assert str(keep(keeper, manifest).problem).startswith("it cannot be written: ")
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        state.unlink()
        assert keep(keeper, manifest).problem is None

    def test_a_full_disk_leaves_what_was_kept(
        self, keeper: LastGood, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(keeper, manifest)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        manifest.write_text(MANIFEST + ARCHIVE)
        assert keep(keeper, manifest).problem == "it cannot be written: No space left on device"
        assert keeper.read().texts == {manifest: MANIFEST}

    def test_without_a_home_says_what_to_set(self, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
        keeper = LastGood(manifest, {})
        problem = keep(keeper, manifest).problem
        assert problem == "it cannot be written: there is no home directory; set XDG_STATE_HOME"

    def test_goes_to_the_home_where_nothing_else_is_said(self, manifest: Path, tmp_path: Path) -> None:
        keeper = LastGood(manifest, {"HOME": str(tmp_path), "XDG_STATE_HOME": "relative"})
        assert str(keep(keeper, manifest).path).startswith(str(tmp_path / ".local" / "state"))

    def test_holds_nobody_up_and_keeps_the_last_of_many(
        self, keeper: LastGood, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate()
        written: list[bytes] = []

        def slowly(path: Path, data: bytes) -> None:
            gate()
            written.append(data)
            write_private(path, data)

        monkeypatch.setattr("shadowcat_registry.last_good.write_private", slowly)
        keeper.keep(load_manifest(manifest, Catalog()))
        gate.reached()
        for number in range(5):
            manifest.write_text(f"{MANIFEST}# {number}\n")
            keeper.keep(load_manifest(manifest, Catalog()))
        gate.open()
        keeper.close(10)
        assert len(written) == 2
        assert next(iter(keeper.read().texts.values())).endswith("# 4\n")

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b"\xff", b'{"version": 2}', b'{"files": [], "digest": 1, "at": "x"}']
    )
    def test_what_is_damaged_is_not_used(self, keeper: LastGood, manifest: Path, content: bytes) -> None:
        path = Path(str(keep(keeper, manifest).path))
        path.write_bytes(content)
        with pytest.raises(NothingKeptError, match="is not what this version keeps"):
            keeper.read()

    def test_of_another_manifest_is_not_used(self, keeper: LastGood, manifest: Path) -> None:
        path = Path(str(keep(keeper, manifest).path))
        value = json.loads(path.read_text())
        value["files"][0]["path"] = "/elsewhere/registry.yaml"
        path.write_text(json.dumps(value))
        with pytest.raises(NothingKeptError, match="is not what this version keeps"):
            keeper.read()

    @pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
    def test_that_others_could_have_written_is_not_used(self, keeper: LastGood, manifest: Path) -> None:
        path = Path(str(keep(keeper, manifest).path))
        path.chmod(0o666)
        with pytest.raises(NothingKeptError, match="others could have written"):
            keeper.read()


class TestStarting:
    def test_from_the_last_good_one_is_degraded_and_follows_the_file(self, manifest: Path) -> None:
        manifest.write_text(MANIFEST + ARCHIVE)
        run_once(manifest)
        manifest.write_text(BROKEN)
        events: list[Any] = []
        with Runtime(manifest, last_good="use", poll_interval_seconds=0.1) as runtime:
            runtime.subscribe(events.append)
            runtime.start()
            assert [event.event for event in events] == ["started", "degraded"]
            assert [finding.code for finding in events[1].findings] == ["SC710", "SC201"]
            status = runtime.status()
            assert status.state == "degraded"
            assert [info.name for info in status.providers] == ["filesystem", "archive"]
            assert runtime.reload().result == "degraded", "as long as the file is wrong"
            manifest.write_text(MANIFEST)
            until(lambda: runtime.status().state == "ok")
            assert runtime.status().findings == ()
            until(lambda: len(events) == 3)
            assert (events[2].event, events[2].removed) == ("committed", ("archive",))

    def test_is_put_right_by_the_very_text_that_was_kept(self, manifest: Path) -> None:
        run_once(manifest)
        manifest.unlink()
        with Runtime(manifest, watch=False, last_good="use") as runtime:
            runtime.start()
            assert [finding.code for finding in runtime.status().findings] == ["SC710", "SC117"]
            manifest.write_text(MANIFEST)
            assert runtime.reload().result == "unchanged"
            assert runtime.status().state == "ok"

    def test_is_loud(self, manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
        run_once(manifest)
        manifest.write_text(BROKEN)
        with Runtime(manifest, watch=False, last_good="use") as runtime:
            runtime.start()
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert any("started from the last good manifest, kept 2" in text for text in warnings)

    @pytest.mark.parametrize("last_good", ["ignore", "keep"])
    def test_is_only_done_where_it_is_asked_for(self, manifest: Path, last_good: Any) -> None:
        run_once(manifest)
        manifest.write_text(BROKEN)
        with pytest.raises(ManifestError):
            Runtime(manifest, last_good=last_good).start()
        manifest.unlink()
        with pytest.raises(ManifestNotFoundError):
            Runtime(manifest, last_good=last_good).start()

    def test_without_a_last_good_one_fails_with_all_findings(
        self, manifest: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        manifest.write_text(BROKEN.replace("filesystem}", "nowhere}"))
        with pytest.raises(ManifestError) as caught:
            Runtime(manifest, last_good="use").start()
        assert [finding.code for finding in caught.value.findings] == ["SC301", "SC201"]
        assert (
            "cannot start from the last good manifest either: no good manifest has been kept" in caplog.text
        )

    def test_with_one_that_is_not_good_any_more_fails_too(
        self, manifest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("PLACE", "x")
        manifest.write_text(MANIFEST.replace("./tapes", "'./${env:PLACE}'"))
        run_once(manifest)
        monkeypatch.delenv("PLACE")
        manifest.write_text(BROKEN)
        with pytest.raises(ManifestError, match="SC201"):
            Runtime(manifest, last_good="use").start()
        assert "cannot start from the last good manifest either" in caplog.text
        assert "SC401" in caplog.text

    def test_does_not_keep_what_it_has_started_from_as_if_it_were_good(self, manifest: Path) -> None:
        run_once(manifest)
        manifest.write_text(BROKEN)
        with Runtime(manifest, watch=False, last_good="use") as runtime:
            runtime.start()
            status = runtime.status()
            assert status.last_good is not None
            assert status.last_good.at is None

    def test_with_includes_uses_those_that_were_kept(self, manifest: Path, tmp_path: Path) -> None:
        for directory in ("registry.d", "more"):
            (tmp_path / directory).mkdir()
        part = "version: 1\nproviders:\n  NAME: {type: filesystem, config: {directory: ./NAME}}\n"
        (tmp_path / "registry.d" / "a.yaml").write_text(part.replace("NAME", "a"))
        (tmp_path / "registry.d" / "b.yaml").write_text(
            part.replace("NAME", "b") + "include: [../more/c.yaml]\n"
        )
        (tmp_path / "more" / "c.yaml").write_text(part.replace("NAME", "c"))
        manifest.write_text(MANIFEST + "include: ['registry.d/*.yaml', 'none/*.yaml']\n")
        run_once(manifest)
        (tmp_path / "more" / "c.yaml").write_text("nonsense")
        (tmp_path / "registry.d" / "a.yaml").unlink()
        (tmp_path / "registry.d" / "z.yaml").write_text(part.replace("NAME", "z"))
        with Runtime(manifest, watch=False, last_good="use") as runtime:
            runtime.start()
            assert [info.name for info in runtime.registry.list_providers()] == ["filesystem", "a", "b", "c"]
            assert runtime.status().state == "degraded"
            (tmp_path / "more" / "c.yaml").write_text(part.replace("NAME", "c"))
            assert runtime.reload().result == "committed"
            assert [info.name for info in runtime.registry.list_providers()] == ["filesystem", "b", "c", "z"]

    def test_keeps_each_new_generation(self, manifest: Path) -> None:
        with Runtime(manifest, watch=False, last_good="keep") as runtime:
            runtime.start()
            manifest.write_text(MANIFEST + ARCHIVE)
            runtime.reload()
            digest = runtime.status().digest
            until(lambda: (it := runtime.status().last_good) is not None and it.digest == digest)
            manifest.write_text(BROKEN)
            runtime.reload()
        assert LastGood(manifest).read().texts == {manifest: MANIFEST + ARCHIVE}

    def test_a_state_directory_that_cannot_be_used_fails_nothing(self, manifest: Path, state: Path) -> None:
        state.write_text("in the way")
        with Runtime(manifest, watch=False, last_good="use") as runtime:
            runtime.start()
            until(lambda: (it := runtime.status().last_good) is not None and it.problem)
            assert runtime.status().state == "ok"
