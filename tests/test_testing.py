"""The public suite as a provider author uses it: in a project of its own, and against providers that are
wrong in one way each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowcat_registry.testing import TapeStorageConformance, TapeStorageEndurance

MUTANTS = '''
import itertools

from shadowcat_registry.backend import Page
from shadowcat_registry.providers.memory import MemoryBackend, MemoryProviderFactory
from shadowcat_registry.testing import TapeStorageConformance


def wrong(**methods):
    """A provider that differs from the one in memory by these methods."""

    class Wrong(MemoryProviderFactory):
        def create(self, config, context):
            backend = super().create(config, context)
            for name, method in methods.items():
                setattr(backend, name, method.__get__(backend))
            return backend

    return Wrong


class TestFine(TapeStorageConformance):
    factory = MemoryProviderFactory


class TestLosesALine(TapeStorageConformance):
    factory = wrong(add=lambda self, tape, writer, lines: MemoryBackend.add(self, tape, writer, lines[:63]))


class TestForgetsEtags(TapeStorageConformance):
    factory = wrong(set_meta=lambda self, tape_id, meta, _: MemoryBackend.set_meta(self, tape_id, meta, None))


class TestListsThePageAgain(TapeStorageConformance):
    def again(self, query, cursor, limit):
        page = MemoryBackend.list(self, query, cursor, limit)
        return Page(page.items, page.items[-1]["tape_id"][:-1]) if page.cursor and limit == 7 else page

    factory = wrong(list=again)


class TestShowsTornLines(TapeStorageConformance):
    factory = wrong(
        read=lambda self, tape_id, seq=-1: itertools.chain(MemoryBackend.read(self, tape_id, seq), (b"{",))
    )


class TestTwoWriters(TapeStorageConformance):
    def create(self, tape_id, init_line, meta):
        appender = MemoryBackend.create(self, tape_id, init_line, meta)
        self._tapes[tape_id].writer = None
        self.add = lambda tape, writer, lines: tape.lines.extend(lines)
        return appender

    factory = wrong(create=create)


class TestIgnoresQueries(TapeStorageConformance):
    factory = wrong(
        list=lambda self, query, cursor, limit: MemoryBackend.list(self, type(query)(), cursor, limit)
    )


class TestClaimsTooMuch(TapeStorageConformance):
    factory = wrong()
    factory.capabilities = frozenset({"search"})
'''


_BARE = (
    "-c /dev/null --rootdir . -p no:cacheprovider -p no:xdist -W error --strict-markers -q -rf --tb=line "
    "test_mine.py"
)


def run(directory: Path, program: str, *options: str) -> str:
    """Of a project without any settings of pytest, which takes a warning for an error."""
    (directory / "test_mine.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_BARE.split(), *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="names an empty file of POSIX")
class TestSuite:
    def test_a_project_without_any_settings_can_use_it(self, tmp_path: Path) -> None:
        said = run(tmp_path, MUTANTS, "-k", "TestFine and (empty or claim or clock)")
        assert re.search(r"^[5-9] passed, \d+ deselected", said, re.MULTILINE), said

    def test_each_of_them_is_found_out_and_who_is_right_is_not(self, tmp_path: Path) -> None:
        found = {
            "TestLosesALine": "test_what_was_finalized_verifies",
            "TestForgetsEtags": "test_an_etag_guards_against_lost_updates",
            "TestListsThePageAgain": "test_it_is_complete_and_without_doubles_while_others_insert",
            "TestShowsTornLines": "test_a_reader_sees_whole_lines_of_a_stable_prefix_while_it_is_written",
            "TestTwoWriters": "test_a_tape_that_is_recorded_is_busy",
            "TestIgnoresQueries": "test_a_query_finds_by_session_tag_and_status",
            "TestClaimsTooMuch": "test_what_it_does_not_claim_fails_with_one_error",
        }
        said = run(tmp_path, MUTANTS, "-k", " or ".join(found.values()))
        failed: dict[str, set[str]] = {}
        for name, test in re.findall(r"^FAILED test_mine\.py::(\w+)::(\w+)", said, re.MULTILINE):
            failed.setdefault(name, set()).add(test)
        assert failed.keys() == found.keys()
        for name, test in found.items():
            assert test in failed[name]

    def test_it_is_as_large_as_it_says(self) -> None:
        quick = {name for name in dir(TapeStorageConformance) if name.startswith("test_")}
        heavy = {name for name in dir(TapeStorageEndurance) if name.startswith("test_")}
        assert len(quick) >= 80
        assert len(heavy) >= 4

    def test_no_test_of_one_part_hides_one_of_another(self) -> None:
        names = [
            name
            for part in TapeStorageConformance.__mro__[1:]
            for name in vars(part)
            if name.startswith("test_")
        ]
        assert sorted(names) == sorted(set(names))


class TestImport:
    def test_the_package_does_not_import_it_and_it_imports_no_pytest_before_it_is_used(self) -> None:
        program = (
            "import sys, shadowcat_registry as sr; [getattr(sr, name) for name in sr.__all__]\n"
            "assert 'shadowcat_registry.testing' not in sys.modules\n"
            "import shadowcat_registry.testing, shadowcat_registry.testing.child\n"
            "assert not {'pytest', 'hypothesis'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        import shadowcat_registry.testing

        with pytest.raises(AttributeError, match="no attribute 'TapeStorageConformity'"):
            shadowcat_registry.testing.TapeStorageConformity  # noqa: B018
