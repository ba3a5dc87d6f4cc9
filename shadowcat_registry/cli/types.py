"""`types`: which kinds of storage there are."""

from __future__ import annotations

from pathlib import Path

import click

from ..events import WIRE_VERSION
from .options import json_option, manifest_options
from .output import say_json, say_table


@click.command()
@manifest_options()
@json_option
def command(manifest: Path, as_json: bool) -> None:
    """The provider types that a manifest may use: those that are built in and, where there is a manifest, or
    $SHADOWCAT_PLUGIN_DIR, those of its plugins. Each plugin is asked in a process of its own.

    What the config of one may hold is said by `schema TYPE`.
    """
    from .plugins.asked import known_types

    catalog = known_types(manifest)
    factories = [catalog.factory(name) for name in catalog.names()]
    if as_json:
        types = [
            {
                "name": factory.name,
                "display_name": factory.display_name,
                "version": factory.version,
                "description": factory.description,
                "capabilities": sorted(factory.capabilities),
            }
            for factory in factories
        ]
        say_json({"version": WIRE_VERSION, "types": types})
    else:
        say_table(
            ("TYPE", "VERSION", "CAPABILITIES", "DESCRIPTION"),
            [
                (it.name, it.version, ", ".join(sorted(it.capabilities)) or "-", it.description)
                for it in factories
            ],
        )
