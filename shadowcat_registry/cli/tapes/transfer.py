"""`tapes import`, `export` and `copy`: whole tapes in, out, and from one storage to another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from ...backend import TapeQuery
from ...errors import StorageError, StorageFullError, StorageUnavailableError
from ...events import WIRE_VERSION
from ...storage import TapeStorage
from ...tape import dump_metadata
from ...tapes.copying import CopyProgress, CopyResult, copy_tapes
from ...tapes.exporting import export_tape
from ...tapes.importing import ImportResult, import_tape
from ..options import json_option, manifest_options, provider_option
from ..output import fail, printable, say, say_json, size
from .look import write_lines
from .queries import query_options
from .storages import open_both, open_storage


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
    with open_storage(manifest, provider) as storage:
        if metadata:
            out = sys.stdout.buffer
            out.write(dump_metadata(tape_id, storage.get_meta(tape_id)[0]))
            out.flush()
        elif sys.stdout.isatty():
            write_lines(storage.read(tape_id))
        else:
            export_tape(storage, tape_id, sys.stdout.buffer)
            sys.stdout.buffer.flush()


@click.command("copy")
@click.argument("tape_ids", nargs=-1, metavar="[ID...]")
@click.option("--from", "source_name", required=True, metavar="NAME", help="The provider that has them.")
@click.option("--to", "target_name", required=True, metavar="NAME", help="The provider that gets them.")
@query_options
@manifest_options()
@json_option
@click.pass_context
def copy(
    context: click.Context,
    manifest: Path,
    tape_ids: tuple[str, ...],
    source_name: str,
    target_name: str,
    query: TapeQuery,
    as_json: bool,
) -> None:
    """Bring all tapes of one storage into another, or those that are named or asked for. What is copied is
    read back and compared by its SHA-256.

    It may be interrupted; run again, it goes on where it was. A tape that is there already is left alone.

    Exit code: 0 the target holds every one of them now; 1 one differs there, is busy, damaged, or could not
    be copied.
    """
    if source_name == target_name:
        raise click.UsageError("--from and --to name the same provider")
    if tape_ids and query != TapeQuery():
        raise click.UsageError("name tapes, or ask for some: not both")
    results: list[CopyResult] = []
    with open_both(manifest, source_name, target_name) as (source, target):
        try:
            with _bar(source, hidden=as_json) as bar:

                def progress(step: CopyProgress) -> None:
                    bar(step)
                    if step.result is not None:
                        results.append(step.result)
                        if as_json:
                            say_json({"version": WIRE_VERSION, **step.result.as_json()}, line=True)

                copy_tapes(source, target, query=query, tape_ids=tape_ids or None, progress=progress)
        except (KeyboardInterrupt, StorageFullError, StorageUnavailableError):
            if not as_json:
                _say_copied(results)
            fail("not everything was copied; run this again, and it goes on where it was")
            raise
    if not as_json:
        _say_copied(results)
        if not results:
            say("there is nothing to copy")
    context.exit(0 if all(result.ok for result in results) else 1)


@contextmanager
def _bar(source: TapeStorage, *, hidden: bool) -> Iterator[Callable[[CopyProgress], None]]:
    """Shows progress on standard error, where that is a terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    # The length is not known before the first step; a bar of length 0 would be full.
    with click.progressbar(length=1, label=f"from {source.provider}", file=sys.stderr) as bar:

        def show(step: CopyProgress) -> None:
            bar.length = max(step.total_bytes, 1)
            bar.label = f"{step.tape_count} of {step.tape_total} tapes"
            bar.update(step.size_bytes - bar.pos)

        yield show


def _say_copied(results: Sequence[CopyResult]) -> None:
    counts = Counter(result.outcome for result in results)
    for result in results:
        if result.outcome != "identical":
            said = f"{result.line_count} lines  {size(result.size_bytes)}"
            say(f"{result.outcome:<9}  {result.tape_id}  {said}".rstrip())
        if not result.ok:
            fail(f"tape {result.tape_id}: {result.problem or _REASONS[result.outcome]}")
    if results:
        say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


_REASONS: Final[Mapping[str, str]] = {
    "differs": "another tape of this id, or other metadata of it, is there already, and was left as it is",
    "busy": "somebody writes to it there; run this again when that has ended",
}
