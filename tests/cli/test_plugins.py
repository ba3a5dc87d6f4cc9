"""`plugins list` and `plugins verify`, and plugin types in `types` and `schema`, as their users run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from shadowcat_registry.control_socket import IS_SUPPORTED
from shadowcat_registry.plugins.held import CAN_HOLD

from ..fakes import until
from ..plugins.wheels import unpack, wheel
from .conftest import Command
from .test_run import running, started

pytestmark = pytest.mark.skipif(not CAN_HOLD, reason="whose a file is cannot be told on this system")

MANIFEST = """\
version: 1
plugins:
  sources:
    - directory: plugins
providers:
  filesystem: {type: glacier, config: {depth: 4}}
"""
GLACIER = """\
import sys

assert not any(name.startswith("shadowcat_registry.cli") for name in sys.modules)  # not in this process


class Glacier:
    name, display_name, version, description = "glacier", "Glacier", "1.2.0", "On ice"
    capabilities = frozenset()

    def config_schema(self):
        return {"type": "object", "properties": {"depth": {"type": "integer"}}}

    def validate_config(self, config):
        pass

    def create(self, config, context):
        raise NotImplementedError


PROVIDERS = (Glacier,)
"""
DIGEST = sha256(GLACIER.encode()).hexdigest()


def write(path: Path, text: str = GLACIER) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(text)
    path.chmod(0o644)
    return path


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    write(tmp_path / "registry.yaml", MANIFEST)
    return write(tmp_path / "plugins" / "glacier.py")


class TestList:
    def test_it_is_a_table_for_people(self, command: Command, plugin: Path) -> None:
        write(plugin.parent / "broken.py", "raise ValueError('canary')\n")
        done = command("plugins", "list")
        assert done.returncode == 0
        head, *rows = (line.split() for line in done.stdout.decode().splitlines())
        assert head == ["NAME", "STATE", "TYPES", "DISTRIBUTION", "SHA256", "PATH"]
        broken = sha256(b"raise ValueError('canary')\n").hexdigest()
        assert rows == [
            ["filesystem", "built-in", "filesystem", "1.0.0", "-", "-", "-"],
            ["memory", "built-in", "memory", "1.0.0", "-", "-", "-"],
            ["sqlite", "built-in", "sqlite", "1.0.0", "-", "-", "-"],
            ["broken", "refused", "-", "-", broken[:12], str(plugin.parent / "broken.py")],
            ["glacier", "owned", "glacier", "1.2.0", "-", DIGEST[:12], str(plugin)],
        ]
        assert b"1 of the plugins cannot be used: `shadowcat-registry plugins verify`" in done.stderr
        assert b"canary" not in done.stdout + done.stderr

    def test_it_is_an_object_for_programs(self, command: Command, plugin: Path) -> None:
        answer = json.loads(command("plugins", "list", "--json").stdout)
        assert (answer["version"], answer["manifest"]) == (1, "registry.yaml")
        assert [it["name"] for it in answer["plugins"]] == ["filesystem", "memory", "sqlite", "glacier"]
        assert answer["plugins"][-1] == {
            "name": "glacier",
            "state": "owned",
            "path": str(plugin),
            "distribution": None,
            "sha256": DIGEST,
            "types": {"glacier": "1.2.0"},
            "problem": None,
            "generations": 0,
        }

    def test_the_directory_of_the_environment_comes_first(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        other = write(tmp_path / "more" / "glacier.py", GLACIER.replace("1.2.0", "2.0"))
        done = command("plugins", "list", SHADOWCAT_PLUGIN_DIR=str(tmp_path / "more"))
        rows = [line.split() for line in done.stdout.decode().splitlines()[-2:]]
        assert [(row[1], row[-1]) for row in rows] == [("owned", str(other)), ("shadowed", str(plugin))]
        assert rows[0][2:4] == ["glacier", "2.0"]

    def test_what_is_wrong_elsewhere_in_the_manifest_is_no_business_of_it(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        write(tmp_path / "registry.yaml", MANIFEST.replace("type: glacier", "type: nothing"))
        assert b"glacier  " in command("plugins", "list").stdout

    @pytest.mark.parametrize("text", ["plugins: [", MANIFEST.replace("directory", "dir")])
    def test_a_manifest_that_cannot_be_read_for_them_shows_its_findings(
        self, command: Command, plugin: Path, tmp_path: Path, text: str
    ) -> None:
        write(tmp_path / "registry.yaml", text)
        done = command("plugins", "list")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"error[SC" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_without_a_manifest_the_directory_of_the_environment_counts(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "registry.yaml").unlink()
        done = command("plugins", "list", SHADOWCAT_PLUGIN_DIR="plugins")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().splitlines()[-1].split()[:2] == ["glacier", "owned"]

    def test_without_a_manifest_it_says_so(self, command: Command) -> None:
        done = command("plugins", "list")
        assert done.returncode == 1
        assert b"registry.yaml" in done.stderr


class TestVerify:
    def test_what_may_run_is_ok(self, command: Command, plugin: Path) -> None:
        done = command("plugins", "verify")
        assert (done.returncode, done.stderr) == (0, b"")
        assert (
            done.stdout.decode()
            == f"ok       glacier  owned, sha256 {DIGEST[:12]}, registers glacier 1.2.0\n"
        )

    def test_a_refusal_has_path_and_rule_and_the_command_that_mends_it(
        self, command: Command, plugin: Path
    ) -> None:
        write(plugin.parent / "arctic.py", GLACIER.replace('"glacier"', '"arctic"'))
        plugin.chmod(0o664)
        done = command("plugins", "verify")
        assert done.returncode == 1
        first, *others = done.stdout.decode().splitlines()
        assert first.startswith("ok       arctic ")
        assert others == [
            f"refused  glacier  writable: its group may write {plugin} (mode 0664)",
            f"         to mend it: chmod go-w {plugin}",
        ]
        assert os.system(others[-1].partition(": ")[2]) == 0
        assert command("plugins", "verify").returncode == 0

    def test_it_is_an_object_for_programs(self, command: Command, plugin: Path) -> None:
        write(plugin, "import os\nos._exit(0)\n")
        done = command("plugins", "verify", "--json")
        assert done.returncode == 1
        answer = json.loads(done.stdout)
        (verdict,) = answer["plugins"]
        assert (answer["version"], answer["ok"]) == (1, False)
        assert (verdict["name"], verdict["state"], verdict["ok"]) == ("glacier", "refused", False)
        assert (verdict["rule"], verdict["path"]) == ("probe", str(plugin))
        assert "ended" in verdict["reason"]

    def test_what_no_manifest_names_can_be_checked_by_its_path(
        self, command: Command, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "one" / "glacier.py")
        write(tmp_path / "one" / "broken.py", "")
        write(tmp_path / "arctic" / "__init__.py", GLACIER.replace('"glacier"', '"arctic"'))
        done = command("plugins", "verify", file, "arctic")
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split()[:2] for line in done.stdout.decode().splitlines()] == [
            ["ok", "glacier"],
            ["ok", "arctic"],
        ]
        done = command("plugins", "verify", "one")
        assert done.returncode == 1
        assert done.stdout.decode().splitlines()[:2] == [
            "refused  broken   shape: it exports no PROVIDERS",
            f"         at {tmp_path / 'one' / 'broken.py'}",
        ]
        assert command("plugins", "verify", "nowhere.py").returncode == 1

    def test_of_a_pin_that_is_another_the_command_names_the_manifest(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        pinned = MANIFEST.replace("directory: plugins", f"path: plugins/glacier.py\n      sha256: {'a' * 64}")
        other = write(tmp_path / "other one.yaml", pinned)
        done = command("plugins", "verify", "-f", other)
        assert done.returncode == 1
        refusal, remedy = done.stdout.decode().splitlines()
        assert refusal.startswith("refused  glacier  sha256: ")
        assert remedy.endswith(f"shadowcat-registry plugins pin -f '{other}'")

    def test_pins_that_others_may_write_are_none(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        text = MANIFEST.replace("directory: plugins", f"path: plugins/glacier.py\n      sha256: '{DIGEST}'")
        manifest = write(tmp_path / "registry.yaml", text)
        assert command("plugins", "verify").returncode == 0
        manifest.chmod(0o666)
        done = command("plugins", "verify")
        assert done.returncode == 1
        assert f"to mend it: chmod go-w {manifest}" in done.stdout.decode()
        assert b"none of the pinned plugins can be used" in command("plugins", "list").stderr

    @pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="gives a file away, which is root's right")
    def test_root_is_told_that_it_is_root(self, command: Command, plugin: Path) -> None:
        os.chown(plugin, 65534, 65534)
        done = command("plugins", "verify")
        assert done.returncode == 1
        assert f"to mend it: chown root: {plugin}" in done.stdout.decode()
        assert b"run it as the user of the process that is meant" in done.stderr

    def test_where_none_is_named_that_is_said(self, command: Command, tmp_path: Path) -> None:
        write(tmp_path / "registry.yaml", "version: 1\nproviders: {f: {type: filesystem}}\n")
        done = command("plugins", "verify")
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"no plugin is named in registry.yaml" in done.stderr


class TestTest:
    """One test of the suite each: the whole of it is run over the plugin of the README."""

    ONE = ("--", "-k", "test_what_we_do_not_know_is_kept")

    @pytest.fixture
    def storage(self, plugin: Path) -> Path:
        """A plugin that can be opened."""
        create = "from shadowcat_registry.providers.memory import MemoryProviderFactory as Memory\n"
        body = "return Memory().create({}, context)"
        return write(plugin, create + GLACIER.replace("raise NotImplementedError", body))

    @pytest.mark.ci
    def test_it_runs_the_suite_over_each_type(self, process: Command, storage: Path) -> None:
        done = process("plugins", "test", storage, "--json", *self.ONE)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == {
            "version": 1,
            "path": str(storage),
            "types": ["glacier"],
            "passed": 1,
            "failed": 0,
            "skipped": 0,
            "failures": [],
            "ok": True,
        }

    @pytest.mark.ci
    def test_one_that_cannot_be_opened_fails_for_people_too(self, process: Command, plugin: Path) -> None:
        done = process("plugins", "test", plugin, *self.ONE)
        assert done.returncode == 1
        assert b"1 error" in done.stdout
        assert b"NotImplementedError" in done.stdout

    def test_configs_are_by_type(self, command: Command, storage: Path, tmp_path: Path) -> None:
        for text, code, said in (
            ("glacier: {depth: deep}", 1, b"`depth` has to be an integer"),
            ("glacie: {}", 1, b"did you mean `glacier`?"),
            ("glacier: 3", 2, b"under its name"),
            ("[", 1, b"error[SC104]"),
        ):
            write(tmp_path / "configs.yaml", text)
            done = command("plugins", "test", storage, "--config", "configs.yaml", *self.ONE)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr

    def test_what_cannot_be_run_is_said_in_a_line(
        self, command: Command, plugin: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = command("plugins", "test", "nowhere.py")
        assert (done.returncode, b"does not exist" in done.stderr) == (1, True)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        done = command("plugins", "test", plugin)
        assert done.returncode == 2
        assert b"pip install 'shadowcat-registry[testing]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestTypes:
    def test_those_of_plugins_are_among_them(self, command: Command, plugin: Path) -> None:
        done = command("types")
        assert (done.returncode, done.stderr) == (0, b"")
        rows = [line.split() for line in done.stdout.decode().splitlines()]
        assert ["glacier", "1.2.0", "-", "On", "ice"] in rows

    def test_without_a_manifest_the_directory_of_the_environment_counts(
        self, command: Command, plugin: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "registry.yaml").unlink()
        assert b"glacier" not in command("types").stdout
        assert b"glacier" in command("types", SHADOWCAT_PLUGIN_DIR="plugins").stdout

    def test_what_is_left_out_is_said(self, command: Command, plugin: Path, tmp_path: Path) -> None:
        plugin.chmod(0o666)
        done = command("types")
        assert done.returncode == 0
        assert b"plugin glacier is refused (writable)" in done.stderr
        write(tmp_path / "registry.yaml", "plugins: [")
        done = command("types")
        assert b"memory" in done.stdout
        assert b"left out" in done.stderr

    def test_the_schema_of_one_can_be_seen(self, command: Command, plugin: Path) -> None:
        done = command("schema", "glacier")
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["properties"] == {"depth": {"type": "integer"}}
        assert b"On ice" in command("schema", "--editor").stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
class TestAnEnd:
    """While a plugin is tried that does not come to one."""

    @pytest.fixture
    def begun(self, plugin: Path, tmp_path: Path) -> Path:
        """What is there once it is tried."""
        patient = MANIFEST.replace("sources", "probe_timeout_seconds: 600\n  sources")
        write(
            tmp_path / "registry.yaml",
            patient.replace("type: glacier", "type: memory").replace("depth", "max_tapes"),
        )
        write(plugin, GLACIER[GLACIER.index("class") :])
        return tmp_path / "begun"

    def loop(self, plugin: Path, begun: Path) -> None:
        for name in ("loop.py", "other.py"):
            write(plugin.parent / name, f"open({str(begun)!r}, 'w').close()\nwhile True: pass\n")

    def test_of_the_command_waits_for_no_plugin(self, plugin: Path, begun: Path, tmp_path: Path) -> None:
        self.loop(plugin, begun)
        with started(tmp_path, "plugins", "verify", stderr=subprocess.PIPE) as verifying:
            until(begun.exists)
            assert verifying.end(signal.SIGINT) == 130

    @pytest.mark.ci
    def test_of_a_process_waits_for_no_plugin(self, plugin: Path, begun: Path, tmp_path: Path) -> None:
        with running(tmp_path) as run:
            assert "started" in run.line()
            self.loop(plugin, begun)
            until(begun.exists)
            assert run.end() == 0
            assert "stopped" in run.line(), "no outcome of what was broken off"

    def test_of_a_process_that_has_not_started_waits_for_no_plugin(
        self, plugin: Path, begun: Path, tmp_path: Path
    ) -> None:
        self.loop(plugin, begun)
        with running(tmp_path) as run:
            until(begun.exists)
            assert run.end() == 0


class TestADistribution:
    TEXT = (
        "version: 1\nplugins:\n  entry_points: [shadowcat-glacier>=1.2]\n"
        "providers:\n  filesystem: {type: filesystem}\n"
    )

    @pytest.mark.ci
    @pytest.mark.skipif(not IS_SUPPORTED, reason="this system has no Unix domain sockets")
    def test_which_was_installed_anew_needs_a_restart(
        self, process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def install(version: str) -> None:
            shutil.rmtree(site, ignore_errors=True)
            files = {"glacier_of_ours.py": GLACIER[GLACIER.index("class") :].replace("1.2.0", version)}
            unpack(wheel(tmp_path, files, version=version), site)

        def listed() -> list[str]:
            done = process("plugins", "list")
            assert (done.returncode, done.stderr) == (0, b"")
            return done.stdout.decode().splitlines()[-1].split()[:-2]

        site = tmp_path / "site"
        monkeypatch.setenv("PYTHONPATH", str(site))
        write(tmp_path / "registry.yaml", self.TEXT)
        install("1.2.0")
        shown = ["glacier", "1.2.0", "shadowcat-glacier", "1.2.0"]
        assert listed() == ["shadowcat-glacier", "installed", *shown]
        with running(tmp_path) as run:
            assert "started" in run.line()
            until(lambda: process("status").returncode == 0)
            assert listed() == ["shadowcat-glacier", "installed", *shown]
            install("1.3.0")
            shown = ["glacier", "1.3.0", "shadowcat-glacier", "1.3.0"]
            until(lambda: listed() == ["shadowcat-glacier", "restart", "needed", *shown])
            run.end()
        assert listed() == ["shadowcat-glacier", "installed", *shown]

    def test_that_is_not_installed_is_refused_with_what_installs_it(
        self, command: Command, tmp_path: Path
    ) -> None:
        write(tmp_path / "registry.yaml", self.TEXT)
        done = command("plugins", "verify")
        assert done.returncode == 1
        assert done.stdout.startswith(b"refused  shadowcat-glacier  distribution: ")
        assert b"to mend it: " in done.stdout
        assert b"pip install 'shadowcat-glacier>=1.2'" in done.stdout


def test_the_commands_are_imported_without_any_plugin(command: Command, plugin: Path) -> None:
    before = {name for name in sys.modules if name.startswith("shadowcat_registry_plugins")}
    command("plugins", "list")
    after = {name for name in sys.modules if name.startswith("shadowcat_registry_plugins")}
    assert after == before
