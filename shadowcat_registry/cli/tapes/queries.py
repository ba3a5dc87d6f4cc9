"""The options that choose tapes, and how much of a listing is shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, get_args

import click

from ...backend import TapeQuery
from ...tape import TapeStatus

_Command = Callable[..., Any]


class Moment(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in some versions of click
    """A date, or a date and time; without a time zone it is UTC."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no moment: write 2026-11-25, or 2026-11-25T14:30:00+01:00", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def query_options(function: _Command) -> _Command:
    """`--session`, `--tag`, `--status`, `--after` and `--before`; the command gets `query: TapeQuery`."""

    @wraps(function)
    def run(
        session: str | None,
        tag: str | None,
        status: str | None,
        after: datetime | None,
        before: datetime | None,
        **others: Any,
    ) -> object:
        return function(query=TapeQuery(session, tag, status, after, before), **others)

    for option in (
        click.option("--before", type=Moment(), metavar="TIME", help="Created before this."),
        click.option(
            "--after", type=Moment(), metavar="TIME", help="Created then or later; without a zone UTC."
        ),
        click.option("--status", type=click.Choice(get_args(TapeStatus)), help="That stand so."),
        click.option("--tag", metavar="TAG", help="That have this tag."),
        click.option("--session", metavar="ID", help="Of this session."),
    ):
        run = option(run)
    return run


def page_options(limit: int | None) -> Callable[[_Command], _Command]:
    """`--limit` and `--cursor`."""

    def decorate(function: _Command) -> _Command:
        function = click.option(
            "--cursor", metavar="CURSOR", help="Go on behind a page: what that one gave as its cursor."
        )(function)
        return click.option(
            "--limit",
            type=click.IntRange(1, 10_000),
            default=limit,
            show_default=limit is not None,
            help="At most so many.",
        )(function)

    return decorate
