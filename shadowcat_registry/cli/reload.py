"""`reload`: have the running process look at its manifest now."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import Finding
from .options import json_option, manifest_options, pid_option
from .output import printable, say, say_json
from .processes import PATIENCE_SECONDS, the_process


@click.command()
@manifest_options()
@pid_option
@click.option("--wait", is_flag=True, help="Print what came of it.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0, 600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for that.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, manifest: Path, pid: int | None, wait: bool, timeout_seconds: float, as_json: bool
) -> None:
    """Have the running process look at its manifest now.

    It follows changes by itself: this is for a file system that tells of none, and for scripts, with --wait.
    Exit code: 0 it was asked; with --wait: what it runs is what the manifest says; 1 it is not, or there is
    no process, or no outcome in time.
    """
    process = the_process(manifest, pid)
    if not wait:
        answer = process.ask("/v1/reload", method="POST")
        if as_json:
            say_json(answer)
        else:
            say(
                f"process {process.pid} was asked to look at its manifest;"
                " `shadowcat-registry status` says what came of it"
            )
        return
    answer = process.ask(
        "/v1/reload", method="POST", timeout_seconds=timeout_seconds + PATIENCE_SECONDS, wait=timeout_seconds
    )
    result = answer["result"]
    is_good = result in ("committed", "unchanged", "started")
    if as_json:
        say_json(answer)
    else:
        what = "" if is_good else "; what runs is kept"
        say(f"{result}: generation {answer['generation']}, after {answer['duration_seconds']:.3f} s{what}")
        for finding in answer["findings"]:
            say(printable(f"  {Finding.from_json(finding)}"))
    context.exit(0 if is_good else 1)
