"""`init`: a manifest to start with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..editor import EDITOR_SCHEMA
from ..location import MANIFEST_NAME
from ..schema_files import starter_manifest
from .files import write_whole
from .options import manifest_options
from .output import fail, printable, say


@click.command()
@manifest_options()
@click.pass_context
def command(context: click.Context, manifest: Path) -> None:
    """Write a commented manifest to start with.

    Exit code: 0 written, 1 there is something already, which is left as it is.
    """
    # The shipped one stands beside a folder of schemas; this one has its schema beside it.
    text = starter_manifest().replace("$schema=schemas/", "$schema=")
    if not write_whole(manifest, text, replace=False):
        fail(f"{manifest} is there already: nothing was written")
        context.exit(1)
    here = manifest.parent
    option = "" if manifest == Path(MANIFEST_NAME) else f" -f {_word(manifest)}"
    say(f"{printable(manifest)}: written. Next:")
    steps = (
        (f"schema --editor -o {_word(here / EDITOR_SCHEMA)}", "help in your editor"),
        (f"validate{option}", "after each change"),
        (f"providers{option}", "could they be opened?"),
        (f"run{option}", "follow the file"),
    )
    width = max(len(step) for step, _ in steps)
    for step, reason in steps:
        say(f"  shadowcat-registry {step:<{width}}  # {reason}")


def _word(path: Path) -> str:
    """As a shell wants it."""
    return shlex.quote(printable(path))
