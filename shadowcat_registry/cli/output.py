"""How things look on the screen and in a log: tables, JSON, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from ..events import Event
from ..metadata import format_time


def printable(value: object) -> str:
    """One line without control characters: a name in a tape must not be able to drive a terminal."""
    text = "" if value is None else str(value)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


_answers: TextIO | None = None
"""Where answers go, if that is not where `print` writes to."""


@contextmanager
def answers_only() -> Iterator[None]:
    """Within the block, standard output has what is said here and nothing else: what the code of a plugin
    prints goes to standard error. Of the whole process, so not entered twice."""
    global _answers
    _answers, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _answers = _answers, None


def say(text: str = "", *, err: bool = False, color: bool = False) -> None:
    """A line of what was asked for."""
    # A character that the terminal does not have, or a lone surrogate in a name, is no reason to fail.
    file = sys.stderr if err else _answers or sys.stdout
    encoding = file.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file, color=color)


def fail(text: str) -> None:
    """A line of what went wrong."""
    click.echo("\n".join(f"shadowcat-registry: {printable(line)}" for line in text.split("\n")), err=True)


def say_json(value: Mapping[str, Any], *, line: bool = False) -> None:
    """For programs: indented, or on one line of a stream, which is flushed at once."""
    click.echo(json.dumps(value, indent=None if line else 2), _answers)


def say_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from tabulate import tabulate

    cells = [[printable(cell) for cell in row] for row in rows]
    say(tabulate(cells, headers, tablefmt="plain", disable_numparse=True))


def say_event(event: Event, *, as_json: bool) -> None:
    """An event as it happens: lines for people, an object on one line for programs."""
    if as_json:
        say_json(event.as_json(), line=True)
    else:
        lines = [printable(line) for line in str(event).split("\n")]
        say(f"{event.at.astimezone():%H:%M:%S}  " + "\n".join(lines))


def moment(text: str | None) -> str:
    """A time on the wire, in the time of whoever reads it: `2026-11-25 03:12:44`."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text is not None else "-"


def age(seconds: float) -> str:
    """`41 s`, `12 min`, `3.2 h`, `5 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def short_digest(digest: str | None) -> str:
    """As much of it as tells two apart."""
    return digest[:12] if digest is not None else "-"


def size(size_bytes: object) -> str:
    """`1.4 MB`, in powers of 1,000 as disks are sold."""
    if not isinstance(size_bytes, int | float):
        return ""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


class JsonLogFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": format_time(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (audit := getattr(record, "audit", None)) is not None:  # of the logger of that name
            entry["audit"] = audit
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
