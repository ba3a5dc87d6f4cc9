from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shadowcat_registry import doctor, supervise
from shadowcat_registry.doctor import SCRATCH_PREFIX, WAYS, Diagnosis, diagnose
from shadowcat_registry.mounts import InotifyLimits

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="what events tell elsewhere differs")


def look_at(directory: Path) -> Diagnosis:
    return diagnose(directory, threading.Event(), poll_seconds=0.05)


def by_way(diagnosis: Diagnosis) -> dict[str, str | None]:
    return {trial.way: trial.found_by for trial in diagnosis.trials}


@linux_only
class TestADiagnosis:
    def test_tells_what_events_report_and_what_only_the_look_finds(self, tmp_path: Path) -> None:
        diagnosis = look_at(tmp_path)
        found = by_way(diagnosis)
        assert list(found) == list(WAYS)
        assert found["written through a hard link"] == "poll"
        assert {way for way, how in found.items() if how != "events"} <= {
            "written through a hard link",
            "stored through memory",
            # Where the look every 50 ms is quicker than the events.
            "deleted and written anew",
            "its directory swapped",
            "written slowly",
        }
        assert all(trial.seconds is not None and trial.seconds >= 0 for trial in diagnosis.trials)
        assert not [trial.problem for trial in diagnosis.trials if trial.problem]
        assert list(tmp_path.iterdir()) == []

    def test_of_a_mount_without_events_is_that_the_look_finds_everything(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervise, "probe", lambda _: ())  # nothing is observed
        monkeypatch.setattr(doctor, "WAYS", {way: WAYS[way] for way in list(WAYS)[:2]})
        assert set(by_way(look_at(tmp_path)).values()) == {"poll"}

    def test_says_when_a_change_is_not_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lay_out, _ = WAYS["written in place"]
        monkeypatch.setattr(doctor, "WAYS", {"not saved at all": (lay_out, lambda _: None)})
        monkeypatch.setattr(doctor, "_PATIENCE_SECONDS", 0.2)
        (trial,) = look_at(tmp_path).trials
        assert (trial.found_by, trial.problem) == (None, "the change was not found")

    def test_says_what_cannot_be_tried(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

        lay_out, _ = WAYS["a link swapped"]
        monkeypatch.setattr(doctor, "WAYS", {"a link swapped": (lay_out, refuse)})
        diagnosis = look_at(tmp_path)
        (trial,) = diagnosis.trials
        assert trial.problem == "cannot be tried here: Operation not permitted"
        assert any(
            f"nothing can be tried in {tmp_path}: cannot be tried here: Operation not permitted" in problem
            for problem in diagnosis.problems
        )

    def test_what_cannot_be_tried_is_no_problem_where_the_rest_can(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

        ways = {"a link swapped": (WAYS["a link swapped"][0], refuse)}
        monkeypatch.setattr(doctor, "WAYS", ways | {"written": WAYS["written in place"]})
        assert [problem for problem in look_at(tmp_path).problems if "tried" in problem] == []

    def test_of_a_directory_that_is_not_there_is_a_problem(self, tmp_path: Path) -> None:
        diagnosis = look_at(tmp_path / "none")
        assert diagnosis.trials == ()
        assert any("nothing can be tried" in problem for problem in diagnosis.problems)

    @pytest.mark.parametrize(("watches", "instances"), [(95, 1), (1, 95)])
    def test_warns_before_the_limits_are_reached(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watches: int, instances: int
    ) -> None:
        monkeypatch.setattr(doctor, "WAYS", {})
        limits = InotifyLimits(100, 100, 16384, watches, instances)
        monkeypatch.setattr(doctor, "inotify_limits", lambda: limits)
        (problem,) = look_at(tmp_path).problems
        assert problem.startswith("95 of 100 inotify ")
        assert "sysctl" in problem

    @pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
    def test_tells_the_limits_of_a_container_where_they_are_lower(self) -> None:
        ask = "from shadowcat_registry.mounts import inotify_limits; print(inotify_limits().max_instances)"
        limit = 'echo 7 > /proc/sys/user/max_inotify_instances && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh", sys.executable, "-c", ask]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            pytest.skip("no user namespace with limits of its own can be made here")
        assert done.stdout == "7\n"


@linux_only
class TestTheCommand:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "shadowcat_registry", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    @pytest.mark.ci
    def test_for_people_and_for_programs(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        done = self.run(str(path))
        assert "THE FILE IS" in done.stdout
        assert "replaced in one step" in done.stdout
        assert "inotify of this user: " in done.stdout
        done = self.run(str(path), "--json")
        told = json.loads(done.stdout)
        assert (told["version"], told["directory"]) == (1, str(tmp_path))
        assert [way["way"] for way in told["ways"]] == list(WAYS)
        assert done.returncode == (1 if told["problems"] else 0)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_leaves_nothing_behind_when_it_is_interrupted(self, tmp_path: Path, number: int) -> None:
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "shadowcat_registry",
            "doctor",
            str(tmp_path / "r.yaml"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while not any(name.startswith(SCRATCH_PREFIX) for name in os.listdir(tmp_path)):  # noqa: PTH208
                assert process.poll() is None
            process.send_signal(number)
            process.send_signal(number)
            said, complained = process.communicate(timeout=30)
        assert (process.returncode, said) == (130, "")
        assert "Traceback" not in complained
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path / "none" / "registry.yaml"))
        assert done.returncode == 1
        assert "nothing can be tried in" in done.stderr
        assert "Traceback" not in done.stderr
