"""What only time and mistreatment show: torn reads, chaos, a soak. Short in `ci`, in full in `long`."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from .followers import DRIVER, Follower, digest_of, following, manifest_text
from .save_styles import apply, needs_save_styles, save_styles

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
CHUNKS = 7


@pytest.fixture
def base() -> Iterator[Path]:
    directory = Path(mkdtemp(prefix="endurance-"))
    yield directory
    shutil.rmtree(directory)


def lay_out(base: Path, text: str) -> Path:
    (base / "conf").mkdir()
    path = base / "conf" / "registry.yaml"
    path.write_text(text)
    return path


def driver(path: Path) -> list[str]:
    return [sys.executable, str(DRIVER), str(path)]


# --------------------------------------------------------------------------- torn reads


def alternate(path: Path, count: int, seed: int) -> set[str]:
    """Two manifests in turn, in place, in chunks with pauses; the digests that may be seen of it."""
    pauses = random.Random(seed)
    texts = [manifest_text("even", mode="auto"), manifest_text("odd", mode="auto")]
    with following(path) as follower:
        for number in range(1, count + 1):
            data = texts[number % 2].encode()
            size = -(-len(data) // CHUNKS)
            with path.open("wb", buffering=0) as file:
                for start in range(0, len(data), size):
                    file.write(data[start : start + size])
                    time.sleep(pauses.uniform(0.0, 0.02))
            if pauses.random() < 0.5:
                follower.wait_for_digest(digest_of(texts[number % 2]))
        follower.wait_for_digest(digest_of(texts[count % 2]))
        assert follower.end() == 0
        assert {event["event"] for event in follower.events} == {"started", "committed", "stopped"}
        assert {event["digest"] for event in follower.events} <= {digest_of(text) for text in texts}
        return {event["digest"] for event in follower.events}


@linux_only
class TestTornReads:
    @pytest.mark.ci
    @pytest.mark.timeout(120)
    def test_no_half_becomes_a_generation(self, base: Path) -> None:
        assert len(alternate(lay_out(base, manifest_text("even")), 30, seed=1)) == 2

    @pytest.mark.long
    @pytest.mark.timeout(600)
    def test_no_half_becomes_a_generation_in_two_hundred_alternations(self, base: Path) -> None:
        assert len(alternate(lay_out(base, manifest_text("even")), 200, seed=2)) == 2


# --------------------------------------------------------------------------- chaos

CHAOS_STYLES = [
    *("truncate_write", "slow_write", "slow_write_lines", "truncate_close_write", "cp_over", "keep_mtime"),
    *("mmap_write", "os_replace", "replace_from_other_dir", "mv_over", "mv_cross_fs", "install_cmd"),
    *("sed_inplace", "vim_default", "vim_backupcopy_no", "rename_away_new", "parent_dir_swap"),
    *("parent_dir_recreate", "moved_out_noise", "touch", "rewrite_same", "replace_same", "rename_away_back"),
]


class Chaos:
    """Saves and faults at random, but the same for the same seed."""

    def __init__(self, path: Path, follower: Follower, seed: int) -> None:
        assert save_styles is not None
        self.path, self.follower = path, follower
        self.random = random.Random(seed)
        self.styles = [style for style in CHAOS_STYLES if not save_styles.unavailable(style)]
        self.version = 0
        self.text = path.read_text()
        self.told: list[str] = []
        """What was done since the last quiet period, for who has to find out what went wrong."""
        self.faults: list[Callable[[], object]] = [
            self.kill_emitters,
            self.deafen,
            self.stop_and_go_on,
            self.drop_permissions,
            self.replace_directory,
        ]

    def save(self) -> None:
        assert save_styles is not None
        style = self.random.choice(self.styles)
        self.told.append(style)
        if save_styles.INFO[style].changes:
            self.version += 1
            self.text = manifest_text(self.version, providers=self.random.randint(2, 40))
        apply(style, self.path, self.text, self.path.parents[1])

    def kill_emitters(self) -> None:
        self.follower.tell(signal.SIGUSR1)

    def deafen(self) -> None:
        self.follower.tell(signal.SIGUSR2)

    def stop_and_go_on(self) -> None:
        self.follower.tell(signal.SIGSTOP)
        if self.random.random() < 0.5:
            self.save()
        time.sleep(self.random.uniform(0.0, 0.5))
        self.follower.tell(signal.SIGCONT)

    def drop_permissions(self) -> None:
        what = self.random.choice([self.path, self.path.parent])
        mode = what.stat().st_mode & 0o777
        what.chmod(0)
        time.sleep(self.random.uniform(0.0, 0.4))
        what.chmod(mode)

    def replace_directory(self) -> None:
        directory = self.path.parent
        other = directory.with_name("other")
        shutil.copytree(directory, other, symlinks=True)
        directory.rename(directory.with_name("gone"))
        time.sleep(self.random.choice([0.0, 0.05]))
        other.rename(directory)
        shutil.rmtree(directory.with_name("gone"))

    def step(self) -> None:
        if self.random.random() < 0.25:
            fault = self.random.choice(self.faults)
            self.told.append(fault.__name__)
            fault()
        else:
            self.save()
        time.sleep(self.random.choice([0.0, 0.0, 0.01, 0.1, 0.6]))

    def settle(self) -> None:
        """A quiet period: what runs has to become what the file says."""
        assert self.path.read_text() == self.text
        try:
            self.follower.wait_for_digest(digest_of(self.text))
        except AssertionError as error:
            raise AssertionError(f"after {self.told}: {error}") from None
        self.told.clear()


def run_chaos(base: Path, steps: int, seed: int) -> None:
    path = lay_out(base, manifest_text(0))
    with following(path, command=driver(path), obeys_permissions=True) as follower:
        chaos = Chaos(path, follower, seed)
        for number in range(1, steps + 1):
            chaos.step()
            if number % 10 == 0:
                chaos.settle()
        chaos.settle()
        assert follower.end() == 0
        status = follower.events[-2]
        assert status["event"] == "status"
        assert status["degraded"] is None
        record("chaos", steps=steps, seed=seed, status=status)


# --------------------------------------------------------------------------- soak


def run_soak(base: Path, seconds: float, changes: int) -> None:
    path = lay_out(base, manifest_text(0))
    with following(path, command=driver(path)) as follower:
        pause = seconds / changes
        began = time.monotonic()
        samples: list[tuple[int, int, int]] = []
        other = path.with_name("draft")
        text = ""
        for number in range(1, changes + 1):
            text = manifest_text(number, providers=10)
            if number % 2:
                other.write_text(text)
                other.replace(path)
            else:
                path.write_text(text)
            if number % (changes // 20) == 0:
                follower.wait_for_digest(digest_of(text))
                samples.append((follower.resident_bytes, follower.thread_count, follower.descriptor_count))
            time.sleep(max(0.0, began + number * pause - time.monotonic()))
        follower.wait_for_digest(digest_of(text))
        cpu_seconds = follower.cpu_seconds
        generations = follower.events[-1]["generation"]
        assert follower.end() == 0
        record(
            "soak",
            seconds=time.monotonic() - began,
            changes=changes,
            generations=generations,
            cpu_seconds=cpu_seconds,
            samples=samples,
            status=follower.events[-2],
        )
        early, late = samples[len(samples) // 4], samples[-1]
        assert late[0] <= early[0] * 1.05 + 2_000_000, "memory grows"
        # A step of a reload may be under way when one looks, so the least of several looks counts.
        quarter = len(samples) // 4
        for what, index in (("threads", 1), ("descriptors", 2)):
            first, last = samples[:quarter], samples[-quarter:]
            assert min(it[index] for it in last) <= min(it[index] for it in first), f"{what} are left"
        assert {event["event"] for event in follower.events} <= {"started", "committed", "status", "stopped"}


def record(what: str, **facts: object) -> None:
    """For the log of a long run: what `pytest -s` shows."""
    sys.stdout.write(json.dumps({"what": what} | facts, default=str) + "\n")


@linux_only
@needs_save_styles
class TestChaos:
    @pytest.mark.ci
    @pytest.mark.timeout(180)
    def test_ends_on_what_the_file_says(self, base: Path) -> None:
        run_chaos(base, 50, seed=4)

    @pytest.mark.long
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("seed", [1, 2])
    def test_ends_on_what_the_file_says_after_500_steps(self, base: Path, seed: int) -> None:
        run_chaos(base, 500, seed)


@linux_only
class TestSoak:
    @pytest.mark.ci
    @pytest.mark.timeout(120)
    def test_nothing_grows(self, base: Path) -> None:
        run_soak(base, 20.0, 400)

    @pytest.mark.long
    @pytest.mark.timeout(1200)
    def test_nothing_grows_in_ten_minutes_and_10000_changes(self, base: Path) -> None:
        run_soak(base, 600.0, 10_000)
