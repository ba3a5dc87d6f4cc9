"""How things look on the screen and in a log: tables, JSON, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from ..metadata import format_time


def printable(value: object) -> str:
    """One line without control characters: a name in a tape must not be able to drive a terminal."""
    text = "" if value is None else str(value)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def say(text: str = "", *, err: bool = False, color: bool = False) -> None:
    """A line of what was asked for."""
    # A character that the terminal does not have, or a lone surrogate in a name, is no reason to fail.
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err, color=color)


def fail(text: str) -> None:
    """A line of what went wrong."""
    click.echo("\n".join(f"shadowcat-registry: {printable(line)}" for line in text.split("\n")), err=True)


def say_json(value: Mapping[str, Any], *, line: bool = False) -> None:
    """For programs: indented, or on one line of a stream, which is flushed at once."""
    click.echo(json.dumps(value, indent=None if line else 2))


def say_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from tabulate import tabulate

    cells = [[printable(cell) for cell in row] for row in rows]
    say(tabulate(cells, headers, tablefmt="plain", disable_numparse=True))


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
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
