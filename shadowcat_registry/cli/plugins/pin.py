"""`plugins pin`: the digests of what there is, into the manifest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ...catalog import Catalog
from ...document import Document
from ...errors import Finding, PluginError
from ...events import WIRE_VERSION
from ...load import parse_manifest
from ...marks import Pointer
from ...parse import parse_document
from ...plugins import sources
from ...plugins.pinning import CannotWriteError, Digests, with_pins
from ...plugins.records import SourceDeclaration
from ...plugins.trust import check_owned_manifest
from ..files import rewrite
from ..options import json_option, manifest_options
from ..output import fail, printable, say, say_json
from .asked import Asked, read_asked, say_whose
from .diff import section_diff

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@click.command("pin")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be written.")
@manifest_options()
@json_option
@click.pass_context
def pin(
    context: click.Context, manifest: Path, paths: tuple[Path, ...], yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Write into the manifest which bytes its plugins have now: those alone may run from then on.

    All that `plugins.sources` names is pinned, but directories that say `trust: ownership`; with PATH, what
    is named there. Look at the code before: whose it is does not matter any more. Shows the difference and
    asks; comments and layout stay. Exit code: 0 written, or there was nothing to write; 1 a plugin has no
    digest, or the manifest cannot be written; nothing has changed then.
    """
    if not (yes or dry_run) and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: say --yes, or --dry-run")
    asked = read_asked(manifest, _is_about_pins)
    chosen = list(_chosen(asked, paths))
    pins = _digests(context, chosen)
    new = _with_pins(context, asked, pins)
    lines = [printable(line) for line in section_diff(asked.document, new, manifest)]
    if lines and not dry_run:
        _check_place(context, manifest)
    if not as_json or not (yes or dry_run):
        for line in lines:
            say(line, err=as_json)
    if lines and not dry_run:
        if not yes:
            click.confirm(f"Write this to {manifest}?", abort=True, err=True)
        rewrite(manifest, _encoded(new.text, asked.data), before=asked.data)
    if as_json:
        answer = {
            "version": WIRE_VERSION,
            "manifest": str(manifest),
            "changed": bool(lines),
            "dry_run": dry_run,
            "pins": [_as_json(asked, it, pins[it.pointer]) for it in chosen],
            "diff": lines,
        }
        say_json(answer)
    elif not chosen:
        fail(f"{manifest} names no file and no directory of plugins under `plugins.sources`: nothing to pin")
    elif not lines:
        say(f"{printable(manifest)}: every plugin there is pinned to the bytes that it has; nothing to write")
    elif not dry_run:
        say(f"{printable(manifest)}: written")


def _is_about_pins(finding: Finding) -> bool:
    """What is written anew anyway."""
    return finding.pointer[:2] == ("plugins", "sources") and finding.pointer[3:4] in (
        ("sha256",),
        ("trust",),
    )


def _chosen(asked: Asked, paths: Sequence[Path]) -> Iterator[SourceDeclaration]:
    declarations = asked.sources_without_pins()
    if not paths:
        entries = asked.section.get("sources", ())
        kept = [it.get("trust") == "ownership" for it in entries]
        yield from (it for it, is_kept in zip(declarations, kept, strict=True) if not is_kept)
        return
    wanted = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - keeps links
    for path in wanted:
        if path not in [declaration.path for declaration in declarations]:
            there = ", ".join(str(declaration.path) for declaration in declarations) or "nothing"
            raise click.UsageError(f"{asked.path} does not name {path} under `plugins.sources`, but {there}")
    yield from (declaration for declaration in declarations if declaration.path in wanted)


def _digests(context: click.Context, chosen: Sequence[SourceDeclaration]) -> dict[Pointer, Digests]:
    pins: dict[Pointer, Digests] = {}
    refusals: list[PluginError] = []
    for declaration in chosen:
        found, refused = sources.digests(declaration)
        refusals += refused
        if declaration.is_directory:
            pins[declaration.pointer] = found
        elif declaration.path.name in found:
            pins[declaration.pointer] = found[declaration.path.name]
    for refusal in refusals:
        fail(str(refusal))
    if refusals:
        context.exit(1)
    return pins


def _with_pins(context: click.Context, asked: Asked, pins: Mapping[Pointer, Digests]) -> Document:
    """The manifest as it is to be, which is right, as far as that can be told without its plugins."""
    try:
        text = with_pins(asked.document, pins)
    except CannotWriteError as error:
        at = asked.document.mark(error.pointer)
        digests = pins[error.pointer]
        what = digests if isinstance(digests, str) else _flow(digests)
        fail(
            f"{at}: there is no place for a digest in what is written here; write it yourself: sha256: {what}"
        )
        context.exit(1)
    data = _encoded(text, asked.data)
    parse_manifest(data, asked.path, Catalog(), unresolved=True)
    return parse_document(data, asked.document.source)


def _flow(digests: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {digest}" for name, digest in digests.items()) + "}"


def _encoded(text: str, before: bytes) -> bytes:
    mark = _BYTE_ORDER_MARK if before.startswith(_BYTE_ORDER_MARK) else b""
    return mark + text.encode("utf-8", "surrogatepass")


def _check_place(context: click.Context, manifest: Path) -> None:
    """A manifest that holds pins is held to what plugins are held to without them."""
    try:
        check_owned_manifest(Path(os.path.abspath(manifest)))  # noqa: PTH100 - a link is not to be followed
    except PluginError as error:
        fail(f"{manifest} must not hold pins, since others could write them: {error.reason}")
        if error.remedy:
            fail(f"to mend it: {error.remedy}")
        say_whose([error])
        context.exit(1)


def _as_json(asked: Asked, declaration: SourceDeclaration, digests: Digests) -> dict[str, Any]:
    *_, index = declaration.pointer
    before = asked.section["sources"][index].get("sha256")
    return {"path": str(declaration.path), "before": before, "sha256": digests}
