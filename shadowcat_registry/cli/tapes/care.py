"""`tapes verify`, `prune` and `delete`: what an operator does to what is there."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ...errors import InvalidMetadataError, StorageError, StorageUnavailableError, TapeNotFoundError
from ...events import WIRE_VERSION
from ...housekeeping import PruneReport
from ...tapes.pruning import prune_tapes
from ...tapes.verifying import VerifyReport, verify_tape
from ..options import json_option, manifest_options, provider_option
from ..output import fail, say, say_json, size
from .storages import open_storage


@click.command("verify")
@click.argument("tape_ids", nargs=-1, metavar="[ID...]")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def verify(
    context: click.Context, manifest: Path, tape_ids: tuple[str, ...], provider: str | None, as_json: bool
) -> None:
    """Read tapes to their ends, all of them or those that are named, and say what is wrong with them.

    Exit code: 0 each is as it should be; 1 one is not, is not there, or could not be read.
    """
    good = True
    with open_storage(manifest, provider) as storage:
        for tape_id in tape_ids or (str(meta["tape_id"]) for meta in storage.list_all()):
            try:
                report = verify_tape(storage, tape_id)
            except TapeNotFoundError as error:
                if not tape_ids:  # deleted since it was listed
                    continue
                failure: StorageError = error
            except (StorageUnavailableError, InvalidMetadataError) as error:
                failure = error
            else:
                good &= report.ok
                if as_json:
                    say_json({"version": WIRE_VERSION, **report.as_json()}, line=True)
                else:
                    _say_report(report)
                continue
            good = False
            fail(str(failure))
            if as_json:
                answer = {"version": WIRE_VERSION, "tape_id": tape_id, "ok": False, "error": str(failure)}
                say_json(answer, line=True)
    context.exit(0 if good else 1)


def _say_report(report: VerifyReport) -> None:
    verdict = "ok" if report.ok else "bad"
    checksum = {"absent": "no checksum", "unknown": "a checksum of another kind"}.get(
        report.checksum, f"checksum {report.checksum}"
    )
    lines = f"{report.line_count} lines, {size(report.size_bytes)}, {checksum}"
    say(f"{verdict:<3}  {report.tape_id}  {report.status}, {lines}")
    for flaw in report.flaws:
        place = "" if flaw.line is None else f"line {flaw.line} (byte {flaw.offset}): "
        say(f"     {place}{flaw.message}")
    if report.flaw_count > len(report.flaws):
        say(f"     and {report.flaw_count - len(report.flaws)} more")


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def prune(context: click.Context, manifest: Path, dry_run: bool, provider: str | None, as_json: bool) -> None:
    """Remove what a storage need not keep, by the `retention` in its config.

    Exit code: 0 done, also if there was nothing to remove; 1 the storage has no `retention`, or failed.
    """
    with open_storage(manifest, provider) as storage:
        if storage.retention is None:
            fail(f"provider {storage.provider!r} keeps everything: its config has no `retention`")
            context.exit(1)
        report = prune_tapes(storage, dry_run=dry_run)
        if as_json:
            answer = {"version": WIRE_VERSION, "provider": storage.provider, "dry_run": dry_run}
            say_json({**answer, **report.as_json()})
        else:
            _say_pruned(report, dry_run=dry_run)


def _say_pruned(report: PruneReport, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for removal in report.removed:
        say(f"{would}removed  {removal.tape_id}  {size(removal.size_bytes)}, {removal.rule}")
    count = len(report.removed)
    said = f"{count} tape{'' if count == 1 else 's'} {would}removed, {size(report.removed_bytes)}"
    say(f"{said}; {report.tape_count} left, {size(report.size_bytes)}")
    for rule in report.exceeded:
        fail(f"{rule} is exceeded still: what is left has not ended, is being read, or has a tag that keeps")


@click.command("delete")
@click.argument("tape_ids", nargs=-1, required=True, metavar="ID...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@provider_option
@manifest_options()
@json_option
@click.pass_context
def delete(
    context: click.Context,
    manifest: Path,
    tape_ids: tuple[str, ...],
    yes: bool,
    provider: str | None,
    as_json: bool,
) -> None:
    """Remove tapes for good.

    Exit code: 0 they are gone; 1 one was not there, or is being recorded.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: say --yes")
    good = True
    with open_storage(manifest, provider) as storage:
        if not yes:
            what = f"tape {tape_ids[0]}" if len(tape_ids) == 1 else f"{len(tape_ids)} tapes"
            click.confirm(f"Remove {what} from {storage.provider}?", abort=True, err=True)
        for tape_id in tape_ids:
            try:
                storage.delete(tape_id)
            except StorageError as error:
                good = False
                fail(str(error))
                if as_json:
                    answer = {"version": WIRE_VERSION, "tape_id": tape_id, "error": str(error)}
                    say_json(answer, line=True)
                continue
            if as_json:
                say_json({"version": WIRE_VERSION, "tape_id": tape_id, "outcome": "deleted"}, line=True)
            else:
                say(f"deleted  {tape_id}")
    context.exit(0 if good else 1)
