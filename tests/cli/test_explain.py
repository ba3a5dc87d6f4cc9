"""`explain` as its users run it."""

from __future__ import annotations

import json

import pytest

from shadowcat_registry.codes import CODES
from shadowcat_registry.pages import page

from .conftest import Command


class TestExplain:
    @pytest.mark.parametrize("code", ["SC201", "sc201"])
    def test_it_prints_the_page_of_a_code(self, command: Command, code: str) -> None:
        done = command("explain", code)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().replace("\r\n", "\n") == str(page("SC201")) + "\n"

    def test_it_is_an_object_for_programs(self, command: Command) -> None:
        answer = json.loads(command("explain", "SC117", "--json").stdout)
        assert answer == {"version": 1} | page("SC117").as_json()
        assert answer["no_example"]

    def test_without_a_code_it_lists_all(self, command: Command) -> None:
        head, *rows = command("explain").stdout.decode().splitlines()
        assert head.split() == ["CODE", "MEANING"]
        assert [tuple(row.split(maxsplit=1)) for row in rows] == sorted(CODES.items())
        answer = json.loads(command("explain", "--json").stdout)
        assert {it["code"]: it["title"] for it in answer["codes"]} == CODES

    def test_an_unknown_code_is_answered_with_the_nearest(self, command: Command) -> None:
        done = command("explain", "SC2001")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().strip() == (
            "shadowcat-registry: there is no code SC2001; did you mean `SC201`? "
            "`shadowcat-registry explain` lists all"
        )

    def test_what_is_no_code_at_all_does_not_reach_the_terminal(self, command: Command) -> None:
        done = command("explain", "\x1b[31m" + "x" * 999)
        assert done.returncode == 1
        assert b"\x1b" not in done.stderr
        assert len(done.stderr) < 200
