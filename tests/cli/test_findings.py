"""A finding on a terminal: the caret is under the very token, whatever stands before it."""

from __future__ import annotations

import io

import pytest
from wcwidth import wcswidth

from shadowcat_registry.cli import findings as module
from shadowcat_registry.cli.findings import render, say_findings, summary
from shadowcat_registry.errors import Excerpt, Finding, Severity
from shadowcat_registry.marks import Mark


def lines(
    text: str, token: str, *, line: int = 7, hint: str | None = None, severity: Severity = "error"
) -> list[str]:
    """How a finding about `token`, which is once in `text`, is shown."""
    start = text.index(token)
    mark = Mark("r.yaml", line, start + 1, line, start + 1 + len(token))
    excerpt = Excerpt(mark, text, start, start + len(token))
    return list(render(Finding("SC201", "it is wrong", mark, (), hint, severity), excerpt))


def under(shown: list[str]) -> str:
    """What the caret points at, by the columns of a terminal."""
    source, carets = shown[3], shown[4]
    start, end = carets.index("^"), len(carets)
    found = ""
    for i, character in enumerate(source):
        # By what is before it: some characters change the width of the one in front of them.
        column = int(wcswidth(source[:i]))
        if start <= column < end or (found and column == end and not wcswidth(source[i:])):
            found += character
    return found


class TestTheBlock:
    def test_it_is_that_of_a_compiler(self) -> None:
        assert lines("  typ: memory", "typ", hint="did you mean `type`?") == [
            "error[SC201]: it is wrong",
            " --> r.yaml:7:3",
            "  |",
            "7 |   typ: memory",
            "  |   ^^^",
            "  = help: did you mean `type`?",
        ]

    def test_the_gutter_is_as_wide_as_the_number(self) -> None:
        assert lines("a: b", "b", line=1234, severity="warning") == [
            "warning[SC201]: it is wrong",
            "    --> r.yaml:1234:4",
            "     |",
            "1234 | a: b",
            "     |    ^",
        ]

    def test_without_a_line_there_is_the_place(self) -> None:
        finding = Finding("SC117", "there is none", Mark.at_start("r.yaml"), (), "look for it")
        assert list(render(finding, None)) == [
            "error[SC117]: there is none",
            " --> r.yaml:1:1",
            "  = help: look for it",
        ]

    def test_nothing_in_it_drives_a_terminal(self) -> None:
        mark = Mark("\x1b[2Jr.yaml", 1, 1, 1, 2)
        excerpt = Excerpt(mark, "\x1b[31ma\u202eb\x07", 0, 1)
        text = "\n".join(render(Finding("SC201", "\x1b]0;x\x07\nnew", mark, (), "\r"), excerpt))
        assert all(c.isprintable() for c in text.replace("\n", ""))
        assert len(text.split("\n")) == 6


class TestTheCaret:
    @pytest.mark.parametrize(
        ("text", "token"),
        [
            ("abc: def", "def"),
            ("日本語: メモリ", "メモリ"),
            ("日本語: memory", "memory"),
            ("e\u0301te\u0301: e\u0301x", "e\u0301x"),
            ("👍🏽 🦊: fox", "fox"),
            ("a: 🦊🦊", "🦊🦊"),
            ("한글 กำ: x", "x"),
        ],
    )
    def test_it_is_under_the_token(self, text: str, token: str) -> None:
        assert under(lines(text, token)) == token

    def test_a_tab_is_shown_as_spaces(self) -> None:
        shown = lines("a:\tb", "b")
        assert shown[3:] == ["7 | a:    b", "  |       ^"]
        assert lines("\tb", "\t")[3:] == ["7 |     b", "  | ^^^^"]

    @pytest.mark.parametrize("invisible", ["\u200b", "\u200d", "\u2060", "\u200f", "\u00ad"])
    def test_what_is_invisible_is_made_visible(self, invisible: str) -> None:
        shown = lines(f"a{invisible}: bad", "bad")
        assert invisible not in shown[3]
        assert "\\" in shown[3]
        assert under(shown) == "bad"

    def test_at_the_end_of_a_line_it_is_behind_it(self) -> None:
        mark = Mark("r.yaml", 1, 4, 1, 4)
        shown = list(render(Finding("SC104", "m", mark), Excerpt(mark, "ab:", 3, 3)))
        assert shown[3:] == ["1 | ab:", "  |    ^"]

    @pytest.mark.parametrize("filling", ["x", "日", "🦊", "e\u0301", "\t"])
    def test_a_long_line_is_cut_around_it(self, filling: str) -> None:
        shown = lines(f"{filling * 110}: bad, {filling * 110}", "bad")
        assert under(shown) == "bad"
        assert shown[3].startswith("7 | …" + filling[:1].replace("\t", " "))
        assert shown[3].endswith("…")
        assert wcswidth(shown[3]) <= 106
        assert wcswidth(shown[4]) <= 106

    def test_a_long_token_is_cut(self) -> None:
        shown = lines("a: " + "b" * 110 + ": c", "b" * 110)
        assert shown[4] == "  |    " + "^" * 60
        assert "b…: c" in shown[3]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Stands for standard output. (A fixture could not: pytest puts its own back before the test.)"""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    stream = _Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    return stream


class TestColor:
    FINDING = Finding("SC201", "m", Mark("r.yaml", 1, 1, 1, 2))
    EXCERPTS = (Excerpt(FINDING.mark, "ab", 0, 1),)

    def test_a_terminal_gets_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = terminal(monkeypatch)
        say_findings([self.FINDING], self.EXCERPTS)
        assert "\x1b[31m\x1b[1merror[SC201]\x1b[0m" in stream.getvalue()

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_unless_somebody_said_no(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        stream = terminal(monkeypatch)
        monkeypatch.setenv(name, value)
        say_findings([self.FINDING], self.EXCERPTS)
        assert "error[SC201]" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()

    def test_a_pipe_does_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        say_findings([self.FINDING], self.EXCERPTS)
        say_findings([self.FINDING], self.EXCERPTS, to_stderr=True)
        captured = capsys.readouterr()
        assert captured.out == captured.err == "\n".join([*render(self.FINDING, self.EXCERPTS[0]), "", ""])

    def test_a_terminal_that_lacks_a_character_is_no_reason_to_fail(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
        say_findings([self.FINDING], (Excerpt(self.FINDING.mark, "日", 0, 1),))
        assert b"1 | \\u65e5\n" in raw.getvalue()


class TestTheSummary:
    def test_it_counts_and_explains_the_first_error(self) -> None:
        mark = Mark.at_start("r.yaml")
        some = [Finding("SC305", "m", mark, severity="warning"), Finding("SC201", "m", mark)]
        assert summary("r.yaml", some) == (
            "r.yaml: invalid, 1 error, 1 warning; `shadowcat-registry explain SC201` says more"
        )
        more = [*some, Finding("SC301", "m", mark), Finding("SC607", "and 20 more findings", mark)]
        assert "invalid, 2 errors, 1 warning and more; " in summary("r.yaml", more)
        assert "invalid, 1 error; " in summary("r.yaml", some[1:])

    def test_that_there_are_more_is_not_about_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        mark = Mark("r.yaml", 1, 1, 1, 2)
        say_findings([Finding("SC607", "and 20 more findings", mark)], (Excerpt(mark, "ab", 0, 1),))
        assert "ab" not in capsys.readouterr().out


def test_the_widths_are_loaded_only_when_there_is_a_line() -> None:
    assert not hasattr(module, "wcswidth")
