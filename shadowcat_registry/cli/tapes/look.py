"""`tapes list`."""

from __future__ import annotations

from pathlib import Path

import click

from ...events import WIRE_VERSION
from ..options import json_option, manifest_options, provider_option
from ..output import say_json, say_table, size
from .storages import open_storage


@click.command("list")
@provider_option
@manifest_options()
@json_option
def list_(manifest: Path, provider: str | None, as_json: bool) -> None:
    """The tapes of a storage."""
    with open_storage(manifest, provider) as storage:
        tapes = list(storage.list_all())
        if as_json:
            say_json({"version": WIRE_VERSION, "provider": storage.provider, "tapes": tapes})
            return
    rows = []
    for meta in tapes:
        stats = meta.get("stats") if isinstance(meta.get("stats"), dict) else {}
        rows.append(
            (
                meta.get("tape_id"),
                meta.get("name"),
                meta.get("status"),
                stats.get("frame_count", "") if stats else "",
                size(stats.get("file_size_bytes")) if stats else "",
                meta.get("created_at"),
            )
        )
    say_table(("TAPE ID", "NAME", "STATUS", "FRAMES", "SIZE", "CREATED"), rows)
