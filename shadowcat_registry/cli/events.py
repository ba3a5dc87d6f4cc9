"""`events`: what has happened in a running process, and what happens."""

from __future__ import annotations

from pathlib import Path

import click

from ..events import Event
from .options import json_option, manifest_options, pid_option
from .output import fail, say_event
from .processes import GoneError, NoAnswerError, Process, the_process


@click.command()
@manifest_options()
@pid_option
@click.option("--follow", is_flag=True, help="And each that comes, until the process ends.")
@click.option(
    "--replay",
    type=click.IntRange(0, 100),
    default=20,
    show_default=True,
    metavar="COUNT",
    help="How many of the recent ones.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, manifest: Path, pid: int | None, follow: bool, replay: int, as_json: bool
) -> None:
    """The recent events of a running process, as lines, or with --json as objects, one a line.

    Exit code: 0 also when it is ended by Ctrl-C; 1 the process died without a word, or there is none.
    """
    process = the_process(manifest, pid)
    is_over = not follow
    try:
        for value in process.stream("/v1/events", follow=int(follow), replay=replay):
            event = Event.from_json(value)
            say_event(event, as_json=as_json)
            is_over |= event.event == "stopped"
    except KeyboardInterrupt:
        return
    except NoAnswerError as error:
        fail(str(error))
        context.exit(1)
    if not is_over:
        fail(_what_happened(process))
        context.exit(1)


def _what_happened(process: Process) -> str:
    """Where a stream has ended before its time."""
    try:
        process.ask("/v1/status")
    except GoneError:
        return f"process {process.pid} has died: it said nothing of its end"
    except NoAnswerError as error:
        return str(error)
    return f"process {process.pid} has let us go: its events were taken too slowly; begin again"
