"""The commands that talk to a running process: what they say, in one line first, and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.cli.processes import processes_of
from shadowcat_registry.control_socket import IS_SUPPORTED, listen
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.watch import WatchStatus

from ..fakes import Gate, until
from ..plugins.worlds import digest, plugin
from .conftest import MANIFEST, Command
from .test_run import Running, running, save_atomically, started

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="this system has no Unix domain sockets")
TWO = MANIFEST + "  fs-b: {type: filesystem, config: {directory: ./b}}\n"
BROKEN = MANIFEST.replace("directory", "directroy")


@pytest.fixture(autouse=True)
def _nothing_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else runs on this machine is not found."""
    own = Path(os.environ["XDG_RUNTIME_DIR"], "shadowcat-registry")
    monkeypatch.setattr("shadowcat_registry.control_socket._all_directories", lambda _: [own])


@pytest.fixture
def live(manifest: Path) -> Iterator[Runtime]:
    manifest.write_text(TWO)
    with Runtime(manifest, watch=False, control=True) as runtime:
        runtime.start()
        yield runtime


def following(directory: Path, *arguments: str) -> AbstractContextManager[Running]:
    return started(directory, "events", "--follow", *arguments, stderr=subprocess.PIPE)


def out(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stdout.decode().splitlines()


def err(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode()


def answer(done: subprocess.CompletedProcess[bytes]) -> Any:
    value = json.loads(done.stdout)
    assert value["version"] == 1
    return value


def answers(command: Command) -> None:
    """The process has a socket a moment after its first event."""
    until(lambda: command("status").returncode == 0)


class TestWithoutAProcess:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("status",),
            ("status", "--all"),
            ("plan",),
            ("why", "x"),
            ("reload",),
            ("reload", "--wait"),
            ("events",),
        ],
    )
    def test_each_says_so_in_one_line(
        self, command: Command, manifest: Path, arguments: tuple[str, ...]
    ) -> None:
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (1, b"")
        assert err(done) == (
            f"shadowcat-registry: no running process of this user follows {manifest};"
            " `shadowcat-registry run` starts one\n"
        )

    def test_the_manifests_of_others_are_named(self, command: Command, live: Runtime) -> None:
        done = command("status", "-f", "other.yaml")
        assert done.returncode == 1
        assert f"there are some for {live.path} (pid {os.getpid()}): name one with -f" in err(done)

    def test_a_dead_one_is_none(self, command: Command, manifest: Path) -> None:
        listener, path = listen(manifest)
        listener.close()
        done = command("status")
        assert done.returncode == 1
        assert "no running process" in err(done)
        path.unlink()

    def test_a_system_without_sockets_says_so(
        self, command: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.cli.processes.IS_SUPPORTED", False)
        done = command("status")
        assert done.returncode == 1
        assert "this system has no Unix domain sockets" in err(done)


class TestStatus:
    def test_begins_with_what_is_so(self, command: Command, live: Runtime) -> None:
        done = command("status")
        assert (done.returncode, done.stderr) == (0, b"")
        digest = str(live.status().digest)[:12]
        first = out(done)[0]
        assert first.startswith(
            f"ok: pid {os.getpid()}, generation 1, digest {digest}, default filesystem, since 2"
        )
        assert out(done)[1].startswith("follows the file: no; ")
        rows = [line.split() for line in out(done)[3:]]
        assert rows == [
            ["PROVIDER", "TYPE", "STATE", "REVISION", "LEASES", "HEALTH"],
            ["filesystem", "(default)", "filesystem", "active", "1", "0", "unknown"],
            ["fs-b", "filesystem", "active", "1", "0", "unknown"],
        ]

    def test_says_how_a_change_is_noticed_and_what_is_wrong_with_that(
        self, command: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest.write_text(TWO)
        real = WatchStatus.as_json
        worse = {"degraded": "the limit of watches is reached", "unobserved": ["/nfs: it tells nothing"]}
        with Runtime(manifest, watch_mode="poll", poll_interval_seconds=0.25, control=True) as runtime:
            runtime.start()
            until(lambda: (watch := runtime.status().watch) is not None and watch.checks)
            following = out(command("status"))[1]
            monkeypatch.setattr(WatchStatus, "as_json", lambda status: {**real(status), **worse})
            done = out(command("status"))
        assert following.startswith("follows the file: by a look every 0.25 s, last at 2")
        assert done[2:4] == [
            "  less than it should be: the limit of watches is reached",
            "  without events: /nfs: it tells nothing",
        ]

    def test_finds_the_process_over_a_link_too(self, command: Command, live: Runtime, tmp_path: Path) -> None:
        (tmp_path / "link.yaml").symlink_to("registry.yaml")
        assert out(command("status", "-f", "link.yaml"))[0].startswith("ok: ")

    def test_of_a_rejected_manifest_says_what_to_do(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        manifest.write_text(BROKEN)
        live.reload()
        done = command("status")
        assert done.returncode == 1
        first, finding, todo = out(done)[:3]
        assert first.startswith("rejected: ")
        assert finding.startswith(f"  {manifest}:6:14: error SC201: ")
        assert todo == f"  to do: mend {manifest}; what runs is not affected"

    def test_of_a_removal_that_is_refused_says_whom_to_ask(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        with live.registry.open_storage("fs-b"):
            manifest.write_text(MANIFEST + "reload: {on_removal_in_use: reject}\n")
            live.reload()
            todo = next(line for line in out(command("status")) if line.startswith("  to do: "))
            assert "have its leases closed (`shadowcat-registry why fs-b`)" in todo

    def test_of_a_missing_manifest_says_what_to_do(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        manifest.unlink()
        live.reload()
        done = command("status")
        assert done.returncode == 1
        assert out(done)[0].startswith("degraded: ")
        assert f"  to do: put a good manifest at {manifest}; it is taken at once" in out(done)

    def test_names_what_is_retiring_and_what_stays_on_an_old_revision(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        with live.registry.open_storage("fs-b"), live.registry.open_storage("filesystem"):
            manifest.write_text(MANIFEST.replace("./tapes", "./others"))
            live.reload()
            done = command("status")
            assert done.returncode == 0
            (line,) = (line for line in out(done) if line.startswith("retiring since "))
            assert line.endswith(": fs-b; `shadowcat-registry why fs-b` says who holds it")
            rows = [" ".join(line.split()) for line in out(done)]
            assert "filesystem (default) filesystem active 2 (1 with 1) 1 unknown" in rows
            assert "fs-b filesystem retiring 1 1 unknown" in rows

    def test_shows_a_reload_that_is_under_way(self, command: Command, live: Runtime, manifest: Path) -> None:
        gate = Gate()
        live.registry.add_init_hook(gate)
        manifest.write_text(TWO + "  fs-c: {type: filesystem, config: {directory: ./c}}\n")
        live.reload(wait=False)
        gate.reached()
        (line,) = (line for line in out(command("status")) if line.startswith("reloading: "))
        assert "prepare for " in line
        gate.open()
        assert live.wait_for(2, 10)

    def test_for_programs_is_the_status_of_the_runtime(self, command: Command, live: Runtime) -> None:
        status = answer(command("status", "--json"))
        assert status["state"] == "ok"
        assert status["pid"] == os.getpid()
        assert {condition["name"] for condition in status["conditions"]} >= {"applied", "retiring", "healthy"}

    def test_says_which_plugins_run_and_which_are_refused(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        directory = manifest.parent / "plugins"
        directory.mkdir(mode=0o755)
        for name, text in (("glacier.py", plugin()), ("arctic.py", "1 / 0\n")):
            (directory / name).write_text(text)
            (directory / name).chmod(0o644)
        manifest.write_text(TWO + "plugins: {probe: false, sources: [{directory: plugins}]}\n")
        live.reload()
        *_, head, arctic, glacier = (line.split() for line in out(command("status")))
        assert head == ["PLUGIN", "STATE", "TYPES", "CODE", "GENERATIONS", "PROBLEM"]
        assert arctic[:2] == ["arctic", "refused"]
        assert " ".join(arctic).endswith("arctic.py:1: ZeroDivisionError")
        assert glacier == ["glacier", "owned", "glacier", "1.0", digest(plugin())[:12], "1"]

    def test_history_has_commits_and_refusals(self, command: Command, live: Runtime, manifest: Path) -> None:
        manifest.write_text(BROKEN)
        live.reload()
        lines = out(command("status", "--history"))
        assert [line.split()[5] for line in lines] == ["started", "rejected"]
        history = answer(command("status", "--history", "--json"))["history"]
        assert [entry["outcome"] for entry in history] == ["started", "rejected"]

    def test_all_with_another_choice_is_wrong_use(self, command: Command, live: Runtime) -> None:
        assert command("status", "--all", "--pid", "1").returncode == 2
        assert command("status", "--all", "--history").returncode == 2


class TestSeveralProcesses:
    def test_one_has_to_be_named(self, command: Command, live: Runtime, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run:
            run.event()
            until(lambda: len(processes_of(manifest)) == 2)
            pids = ", ".join(map(str, sorted((os.getpid(), run.process.pid))))
            done = command("status")
            assert done.returncode == 2
            assert err(done) == (
                f"shadowcat-registry: 2 processes follow registry.yaml: name one with --pid ({pids}),"
                " or see them all with `status --all`\n"
            )
            assert (
                answer(command("status", "--json", "--pid", str(run.process.pid)))["pid"] == run.process.pid
            )
            done = command("status", "--pid", "1")
            assert done.returncode == 1
            assert f"process 1 does not follow registry.yaml; these do: {pids}" in err(done)
            assert run.end() == 0

    def test_all_shows_a_split_brain(self, command: Command, live: Runtime, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run:
            run.event()
            until(lambda: len(processes_of(manifest)) == 2)
            assert command("status", "--all").returncode == 0
            save_atomically(manifest, MANIFEST)
            assert run.event()["event"] == "committed"  # the other one does not watch
            done = command("status", "--all")
            assert done.returncode == 1
            assert "these processes run 2 different manifests: `shadowcat-registry reload" in err(done)
            rows = [line.split() for line in out(done)]
            assert rows[0] == ["PID", "STATE", "GENERATION", "DIGEST", "DEFAULT", "STARTED"]
            by_pid = {int(row[0]): row[1:4] for row in rows[1:]}
            assert by_pid[run.process.pid][:2] == ["ok", "2"]
            assert by_pid[os.getpid()] == ["ok", "1", str(live.status().digest)[:12]]
            both = answer(command("status", "--all", "--json"))
            assert both["is_split"] is True
            assert len(both["processes"]) == 2
            assert run.end() == 0

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a process that can be stopped")
    def test_one_that_does_not_answer_is_said(
        self, command: Command, manifest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.cli.processes.PATIENCE_SECONDS", 0.2)
        with running(manifest.parent, "--json") as run:
            run.event()
            until(lambda: processes_of(manifest))
            run.process.send_signal(signal.SIGSTOP)
            for arguments in (("status",), ("status", "--all"), ("events", "--follow")):
                done = command(*arguments)
                assert done.returncode == 1
                assert (
                    f"process {run.process.pid} does not answer within 0.2 s: it is stopped or hangs"
                    in err(done)
                )
            assert "no answer" in command("status", "--all").stdout.decode()
            run.process.send_signal(signal.SIGCONT)
            assert run.end() == 0


class TestPlan:
    def test_of_what_runs_is_empty(self, command: Command, live: Runtime) -> None:
        done = command("plan")
        assert (done.returncode, out(done)) == (0, ["no changes: the manifest says what is running"])

    def test_names_who_is_in_the_way(self, command: Command, live: Runtime, manifest: Path) -> None:
        with live.registry.open_storage("fs-b"):
            manifest.write_text(MANIFEST)
            done = command("plan")
            assert done.returncode == 1
            text = done.stdout.decode()
            assert text.startswith("remove fs-b: ")
            assert "BLOCKED" in text
            assert f"{__file__}:" in text
            plan = answer(command("plan", "--json"))
            assert (plan["is_blocked"], plan["is_rejected"]) == (True, False)
            assert "text" not in plan
        done = command("plan")
        assert done.returncode == 0, "nobody is in the way any more"
        assert "BLOCKED" not in done.stdout.decode()
        assert live.status().generation == 1, "nothing has been changed"

    def test_of_an_invalid_manifest_has_its_findings(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        manifest.write_text(BROKEN)
        done = command("plan")
        assert done.returncode == 1
        assert "SC201" in done.stdout.decode()

    def test_against_another_file_asks_no_process(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "other.yaml").write_text(TWO)
        done = command("plan", "--against", "other.yaml")
        assert done.returncode == 0
        assert out(done)[0].startswith("remove fs-b")
        assert command("plan", "--against", "registry.yaml").stdout.startswith(b"no changes")
        plan = answer(command("plan", "--against", "other.yaml", "--json"))
        assert [action["kind"] for action in plan["actions"]] == ["remove"]

    def test_against_another_file_is_blocked_by_what_files_tell(
        self, command: Command, manifest: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "other.yaml").write_text(TWO.replace("./b}", "./b}, protect: true"))
        done = command("plan", "--against", "other.yaml")
        assert done.returncode == 1
        assert "BLOCKED" in done.stdout.decode()

    @pytest.mark.parametrize("which", ["registry.yaml", "other.yaml"])
    def test_against_another_file_either_may_be_wrong(
        self, command: Command, manifest: Path, tmp_path: Path, which: str
    ) -> None:
        (tmp_path / "other.yaml").write_text(TWO)
        (tmp_path / which).write_text(BROKEN)
        done = command("plan", "--against", "other.yaml")
        assert done.returncode == 1
        assert f"{which}:6:14" in err(done)
        assert "Traceback" not in err(done)
        (tmp_path / which).unlink()
        assert command("plan", "--against", "other.yaml").returncode == 1

    def test_against_another_file_and_a_process_is_wrong_use(self, command: Command) -> None:
        assert command("plan", "--against", "other.yaml", "--pid", "1").returncode == 2


class TestWhy:
    def test_names_the_holders(self, command: Command, live: Runtime) -> None:
        with live.registry.create_storage("fs-b", instance_id="mine"):
            done = command("why", "fs-b")
            assert done.returncode == 0
            assert out(done)[0] == "fs-b is active: declared in the manifest; held by 1 lease"
            assert out(done)[1].split()[:2] == ["HELD", "AT"]
            row = out(done)[2]
            assert row.startswith(f"{__file__}:")
            assert row.endswith("mine")
            why = answer(command("why", "fs-b", "--json"))
            assert [holder["instance_id"] for holder in why["holders"]] == ["mine"]

    def test_names_what_else_keeps_it(self, command: Command, live: Runtime, manifest: Path) -> None:
        assert out(command("why", "filesystem")) == [
            "filesystem is active: declared in the manifest, the default; nobody holds it"
        ]
        manifest.write_text(TWO.replace("./b}", "./b}, requires: [filesystem], protect: true"))
        live.reload()
        assert "the default, required by fs-b; " in out(command("why", "filesystem"))[0]
        assert "declared in the manifest, protected; " in out(command("why", "fs-b"))[0]

    def test_of_a_retiring_one_says_when_it_goes(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        with live.registry.open_storage("fs-b"):
            manifest.write_text(MANIFEST)
            live.reload()
            assert out(command("why", "fs-b"))[0] == (
                "fs-b is retiring: no longer declared, and kept by 1 lease; it goes with the last of them"
            )
        done = command("why", "fs-b")
        assert done.returncode == 1
        assert "no provider 'fs-b' (there is: filesystem)" in err(done)


class TestReload:
    def test_asks_and_does_not_wait(self, command: Command, live: Runtime, manifest: Path) -> None:
        manifest.write_text(MANIFEST)
        done = command("reload")
        assert done.returncode == 0
        assert out(done)[0].startswith(f"process {os.getpid()} was asked to look at its manifest")
        assert live.wait_for(2, 10)

    def test_waits_for_the_outcome(self, command: Command, live: Runtime, manifest: Path) -> None:
        manifest.write_text(MANIFEST)
        done = command("reload", "--wait")
        assert done.returncode == 0
        assert out(done)[0].startswith("committed: generation 2, after 0.")
        assert answer(command("reload", "--wait", "--json"))["result"] == "unchanged"

    def test_a_rejected_one_is_bad_and_has_its_findings(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        manifest.write_text(BROKEN)
        done = command("reload", "--wait")
        assert done.returncode == 1
        assert out(done)[0].startswith("rejected: generation 1, after ")
        assert out(done)[0].endswith("; what runs is kept")
        assert f"{manifest}:6:14: error SC201" in out(done)[1]

    def test_one_without_an_outcome_in_time_goes_on(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        gate = Gate()
        live.registry.add_init_hook(gate)
        manifest.write_text(TWO + "  fs-c: {type: filesystem, config: {directory: ./c}}\n")
        done = command("reload", "--wait", "--timeout", "0.01")
        assert done.returncode == 1
        assert "the reload has no outcome after 0.01 s" in err(done)
        gate.open()
        assert live.wait_for(2, 10)


class TestEvents:
    def test_are_lines_for_people_and_objects_for_programs(
        self, command: Command, live: Runtime, manifest: Path
    ) -> None:
        manifest.write_text(BROKEN)
        live.reload()
        lines = out(command("events"))
        assert (
            lines[0].split("  ", 1)[1]
            == "started    generation 1; added filesystem, fs-b; default filesystem"
        )
        assert lines[1].split("  ", 1)[1].startswith("rejected   generation 1; ")
        assert "error SC201" in lines[2]
        objects = [json.loads(line) for line in out(command("events", "--json", "--replay", "1"))]
        assert [event["event"] for event in objects] == ["rejected"]

    def test_are_followed_to_the_end_of_the_process(self, command: Command, manifest: Path) -> None:
        with running(manifest.parent, "--json") as run, ExitStack() as stack:
            assert run.event()["event"] == "started"
            answers(command)
            follower = stack.enter_context(following(manifest.parent, "--json"))
            assert follower.event()["event"] == "started"
            save_atomically(manifest, TWO)
            assert follower.event()["event"] == "committed"
            assert run.end() == 0
            assert follower.event()["event"] == "stopped"
            assert follower.process.wait(20) == 0

    def test_of_a_process_that_is_killed_end_with_a_word(self, command: Command, manifest: Path) -> None:
        with running(manifest.parent) as run, ExitStack() as stack:
            answers(command)
            follower = stack.enter_context(following(manifest.parent))
            assert "started" in follower.line()
            run.end(signal.SIGKILL)
            assert follower.process.wait(20) == 1
            assert follower.process.stderr is not None
            text = f"process {run.process.pid} has died: it said nothing of its end"
            assert text in follower.process.stderr.read()

    def test_survive_ctrl_c_and_a_reader_that_leaves(self, command: Command, manifest: Path) -> None:
        with running(manifest.parent) as run, ExitStack() as stack:
            answers(command)
            first, second = (stack.enter_context(following(manifest.parent)) for _ in range(2))
            assert "started" in first.line()
            assert "started" in second.line()
            assert first.end(signal.SIGINT) == 0
            assert first.process.stderr is not None
            assert first.process.stderr.read() == ""
            assert second.process.stdout is not None
            second.process.stdout.close()
            save_atomically(manifest, TWO)
            assert second.process.wait(20) == 1
            assert second.process.stderr is not None
            assert "Traceback" not in second.process.stderr.read()
            assert run.end() == 0


class TestStartingFromTheLastGood:
    def test_is_offered_where_the_manifest_is_wrong_and_done_where_it_is_asked_for(
        self, manifest: Path, tmp_path: Path
    ) -> None:
        with running(tmp_path, "--json") as run:
            assert run.event()["event"] == "started"
            assert run.end() == 0
        manifest.write_text(BROKEN)
        with running(tmp_path, stderr=subprocess.PIPE) as run:
            _, said = run.process.communicate(timeout=30)
            assert run.process.returncode == 1
            assert "`run --use-last-good` would start from the manifest that was good at 2" in said
            assert "error[SC201]" in said
        with running(tmp_path, "--json", "--use-last-good", stderr=subprocess.PIPE) as run:
            assert run.event()["event"] == "started"
            degraded = run.event()
            assert degraded["event"] == "degraded"
            assert [finding["code"] for finding in degraded["findings"]] == ["SC710", "SC201"]
            save_atomically(manifest, MANIFEST)
            assert run.event()["event"] == "recovered"
            assert run.end() == 0
