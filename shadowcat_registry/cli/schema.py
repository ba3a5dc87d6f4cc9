"""`schema`: what a manifest and the config of a type may look like, for programs and editors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..catalog import Catalog
from ..editor import EDITOR_SCHEMA, editor_schema, render
from ..schema_files import manifest_schema
from .files import write_whole
from .options import manifest_options
from .output import say


@click.command()
@click.argument("type_name", metavar="[TYPE]", required=False)
@click.option(
    "--editor",
    is_flag=True,
    help="One schema of the whole manifest with the config of every type, as editors want it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Write it there instead of to standard output, for example to {EDITOR_SCHEMA}.",
)
@manifest_options()
def command(manifest: Path, type_name: str | None, editor: bool, output: Path | None) -> None:
    """The JSON Schema of the manifest, or of the config of a provider type: one that is built in, or, where
    there is a manifest, one of its plugins.

    The first line of a manifest tells an editor which one to use:

    \b
        # yaml-language-server: $schema=registry.editor.schema.json
    """
    if editor and type_name is not None:
        raise click.UsageError("the schema for editors is that of all types: give no TYPE with --editor")
    text = render(_schema(manifest, type_name, editor=editor))
    if output is None:
        say(text.removesuffix("\n"))
    else:
        write_whole(output, text, replace=True)


def _schema(manifest: Path, type_name: str | None, *, editor: bool) -> dict[str, Any]:
    if type_name is None and not editor:
        return manifest_schema()
    catalog = Catalog()
    if type_name is None or type_name not in catalog:
        from .plugins.asked import known_types

        catalog = known_types(manifest)
    if type_name is None:
        return editor_schema(catalog)
    schema = catalog.factory(type_name).config_schema()
    return {"type": "object"} if schema is None else dict(schema)
