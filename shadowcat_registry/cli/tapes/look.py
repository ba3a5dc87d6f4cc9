"""`tapes list`, `show`, `search` and `follow`: they change nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ...backend import TapeQuery
from ...events import WIRE_VERSION
from ...storage import TapeStorage
from ..options import json_option, manifest_options, provider_option
from ..output import fail, printable, say, say_json, say_table, size
from .queries import page_options, query_options
from .storages import open_storage


@click.command("list")
@query_options
@page_options(None)
@provider_option
@manifest_options()
@json_option
def list_(
    manifest: Path,
    provider: str | None,
    query: TapeQuery,
    limit: int | None,
    cursor: str | None,
    as_json: bool,
) -> None:
    """The tapes of a storage, or those that are asked for, by their ids."""
    with open_storage(manifest, provider) as storage:
        tapes, rest = _page(storage, query, limit, cursor)
        if as_json:
            say_json({"version": WIRE_VERSION, "provider": storage.provider, "tapes": tapes, "cursor": rest})
            return
    say_table(("TAPE ID", "NAME", "STATUS", "FRAMES", "SIZE", "CREATED"), map(_row, tapes))
    _say_more(rest)


def _page(
    storage: TapeStorage, query: TapeQuery, limit: int | None, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    if limit is not None:
        page = storage.list(query, cursor, limit)
        return list(page.items), page.cursor
    tapes: list[dict[str, Any]] = []
    while True:
        page = storage.list(query, cursor, 1000)
        tapes += page.items
        cursor = page.cursor
        if cursor is None:
            return tapes, None


def _row(meta: Mapping[str, Any]) -> tuple[object, ...]:
    stats = meta.get("stats")
    stats = stats if isinstance(stats, Mapping) else {}
    return (
        meta.get("tape_id"),
        meta.get("name"),
        meta.get("status"),
        stats.get("frame_count", ""),
        size(stats.get("file_size_bytes")),
        meta.get("created_at"),
    )


def _say_more(cursor: str | None) -> None:
    if cursor is not None:
        fail(f"there are more: go on with --cursor {cursor}")


@click.command("show")
@click.argument("tape_id", metavar="ID")
@provider_option
@manifest_options()
@json_option
def show(manifest: Path, tape_id: str, provider: str | None, as_json: bool) -> None:
    """All that is known about a tape: its metadata, field by field."""
    with open_storage(manifest, provider) as storage:
        meta, etag = storage.get_meta(tape_id)
        if as_json:
            answer = {"version": WIRE_VERSION, "provider": storage.provider, "etag": etag, "metadata": meta}
            say_json(answer)
            return
    fields = list(_fields(meta, ""))
    width = max((len(name) for name, _ in fields), default=0) + 2
    for name, value in fields:
        say(f"{printable(name) + ':':<{width}}{printable(value)}".rstrip())


def _fields(part: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _fields(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value))
        else:
            yield prefix + key, value


@click.command("search")
@click.argument("text", metavar="TEXT")
@page_options(20)
@provider_option
@manifest_options()
@json_option
@click.pass_context
def search(
    context: click.Context,
    manifest: Path,
    text: str,
    provider: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """The frames in whose message all words of TEXT are, the best first. Nothing in TEXT is syntax.

    Exit code: 0 something was found; 1 nothing was, or this storage cannot search.
    """
    with open_storage(manifest, provider) as storage:
        page = storage.search(text, cursor, limit)
        if as_json:
            say_json(
                {
                    "version": WIRE_VERSION,
                    "provider": storage.provider,
                    "hits": [hit.as_json() for hit in page.items],
                    "cursor": page.cursor,
                }
            )
        elif page.items:
            say_table(
                ("TAPE ID", "SEQ", "FOUND"), ((hit.tape_id, hit.seq, hit.snippet) for hit in page.items)
            )
            _say_more(page.cursor)
        else:
            fail("nothing was found")
    context.exit(0 if page.items else 1)


@click.command("follow")
@click.argument("tape_id", metavar="ID")
@click.option(
    "--after", "after_seq", type=click.IntRange(-1), default=-1, metavar="SEQ", help="Only what is behind it."
)
@provider_option
@manifest_options()
def follow(manifest: Path, tape_id: str, after_seq: int, provider: str | None) -> None:
    """The records of a tape, and those that are being added, until it ends."""
    with open_storage(manifest, provider) as storage:
        write_lines(storage.follow(tape_id, after_seq), flush=True)


def write_lines(lines: Iterable[bytes], *, flush: bool = False) -> None:
    """Byte for byte, but for a terminal, which a tape must not be able to drive."""
    out = sys.stdout.buffer
    is_terminal = sys.stdout.isatty()
    for line in lines:
        if is_terminal:
            text = line.removesuffix(b"\n").decode("utf-8", "backslashreplace")
            line = printable(text).encode(sys.stdout.encoding, "backslashreplace") + b"\n"
        out.write(line)
        if flush:
            out.flush()
    out.flush()
