"""`plan`: what a reload would do, and what is in its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..catalog import Catalog
from ..load import load_manifest
from ..preview import compare
from .options import MANIFEST_PATH, json_option, manifest_options, pid_option
from .output import printable, say, say_json
from .processes import the_process

_SECONDS = 60.0
"""Reading a large manifest takes its time."""


@click.command()
@manifest_options()
@pid_option
@click.option(
    "--against",
    "other",
    type=MANIFEST_PATH,
    metavar="OTHER",
    help="Ask no process: what one that runs OTHER would do about the manifest.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, manifest: Path, pid: int | None, other: Path | None, as_json: bool
) -> None:
    """What the running process would do about the manifest as it is now; changes nothing.

    A plugin that it has not imported yet is imported by another process, for the schemas of its types.

    Exit code: 0 whether there is something to do or not; 1 the manifest is invalid, or something is blocked.
    """
    if other is not None and pid is not None:
        raise click.UsageError("--against asks no process: leave --pid out")
    if other is not None:
        catalog = Catalog()
        old, new = (load_manifest(it, catalog, plugins="probe") for it in (other, manifest))
        report = compare(old, new)
        answer: dict[str, Any] = report.as_json()
        text = str(report)
    else:
        answer = the_process(manifest, pid).ask("/v1/plan", timeout_seconds=_SECONDS)
        text = answer.pop("text")
    if as_json:
        say_json(answer)
    else:
        for line in text.split("\n"):
            say(printable(line))
    context.exit(1 if answer["is_blocked"] else 0)
