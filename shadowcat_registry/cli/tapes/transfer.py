"""`tapes import` and `tapes export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ...errors import StorageError
from ...events import WIRE_VERSION
from ...tape import dump_metadata
from ...tapes.exporting import export_tape
from ...tapes.importing import ImportResult, import_tape
from ..options import json_option, manifest_options, provider_option
from ..output import fail, printable, say, say_json
from .storages import open_storage


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl...")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def import_(
    context: click.Context, manifest: Path, files: tuple[Path, ...], provider: str | None, as_json: bool
) -> None:
    """Store tapes as they are, with the .meta.json beside each.

    Exit code: 0 the storage holds every one of them now, also those that it held before; 1 one is no tape,
    could not be stored, or differs from the tape of that id which is there, and is left alone.
    """
    good = True
    with open_storage(manifest, provider) as storage:
        for path in files:
            try:
                result = import_tape(storage, path)
            except StorageError as error:
                good = False
                fail(str(error))
                if as_json:
                    say_json({"version": WIRE_VERSION, "file": str(path), "error": str(error)}, line=True)
                continue
            good &= result.outcome != "differs"
            if as_json:
                say_json(_as_json(path, result), line=True)
            else:
                _say_result(path, result)
    context.exit(0 if good else 1)


def _as_json(path: Path, result: ImportResult) -> dict[str, Any]:
    return {
        "version": WIRE_VERSION,
        "file": str(path),
        "tape_id": result.tape_id,
        "outcome": result.outcome,
        "line_count": result.line_count,
        "torn_bytes": result.torn_bytes,
        "unparsed_count": result.unparsed_count,
    }


def _say_result(path: Path, result: ImportResult) -> None:
    say(f"{result.outcome:<9}  {result.tape_id}  {result.line_count} lines  {printable(path)}")
    if result.outcome == "differs":
        fail(f"{path}: another tape {result.tape_id} is stored already, and was left as it is")
    if result.torn_bytes:
        fail(f"{path}: {result.torn_bytes} bytes behind the last line end are no data and were left out")
    if result.unparsed_count:
        fail(f"{path}: {result.unparsed_count} lines are no records, and were kept")
        fail(f"{result.first_unparsed}: the first of them")


@click.command("export")
@click.argument("tape_id", metavar="ID")
@click.option("--metadata", is_flag=True, help="Its .meta.json instead of its records.")
@provider_option
@manifest_options()
def export(manifest: Path, tape_id: str, metadata: bool, provider: str | None) -> None:
    """Write a tape to standard output, byte for byte as it was stored."""
    out = sys.stdout.buffer
    with open_storage(manifest, provider) as storage:
        if metadata:
            out.write(dump_metadata(tape_id, storage.get_meta(tape_id)[0]))
        else:
            export_tape(storage, tape_id, out)
        out.flush()
