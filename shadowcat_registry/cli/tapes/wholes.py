"""`tapes backup` and `check`: a storage as a whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ...errors import RegistryError
from ...events import WIRE_VERSION
from ...tapes.wholes import back_up, find_damages
from ..options import json_option, manifest_options, provider_option
from ..output import fail, printable, say, say_json, size
from .storages import open_storage


@click.command("backup")
@click.argument("destination", type=click.Path(path_type=Path), metavar="DEST")
@click.option("--replace", is_flag=True, help="Put it in the place of what has that name now.")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def backup(
    context: click.Context,
    manifest: Path,
    destination: Path,
    replace: bool,
    provider: str | None,
    as_json: bool,
) -> None:
    """Copy a whole storage, as it is at this moment, into the file DEST, while others go on. (sqlite)

    Exit code: 0 it is there, checked and on the disk; 1 there is no such copy of this storage, something has
    that name already, or it failed: then nothing was left there.
    """
    if not replace and os.path.lexists(destination):
        fail(f"there is something of the name {destination} already; with --replace it would be replaced")
        context.exit(1)
    with (
        open_storage(manifest, provider) as storage,
        click.progressbar(length=1, file=sys.stderr, label="copying", hidden=not sys.stderr.isatty()) as bar,
    ):

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        back_up(storage, destination, replace=replace, progress=progress)
        name = storage.provider
    size_bytes = destination.stat().st_size
    if as_json:
        answer = {"provider": name, "destination": str(destination), "size_bytes": size_bytes}
        say_json({"version": WIRE_VERSION, **answer})
    else:
        say(f"{printable(destination)}: all of {name}, {size(size_bytes)}")


@click.command("check")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def check(context: click.Context, manifest: Path, provider: str | None, as_json: bool) -> None:
    """Look for damage in a storage as a whole; reads all of it. (sqlite)

    Exit code: 0 there is none; 1 there is, or this storage has no such check, or it cannot be read.
    """
    with open_storage(manifest, provider) as storage:
        damages = []
        try:
            for damage in find_damages(storage):
                damages.append(damage)
                if not as_json:
                    say(printable(damage))
        except RegistryError:
            if as_json and damages:
                say_json({"version": WIRE_VERSION, "provider": storage.provider, "damages": damages})
            raise
        if as_json:
            say_json({"version": WIRE_VERSION, "provider": storage.provider, "damages": damages})
        elif not damages:
            say(f"{storage.provider}: no damage")
    context.exit(1 if damages else 0)
