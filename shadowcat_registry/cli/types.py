"""`types`: which kinds of storage there are."""

from __future__ import annotations

import click

from ..catalog import Catalog
from ..events import WIRE_VERSION
from .options import json_option, logging_options
from .output import say_json, say_table


@click.command()
@json_option
@logging_options
def command(as_json: bool) -> None:
    """The provider types that a manifest may use.

    What the config of one may hold is said by `schema TYPE`.
    """
    catalog = Catalog()
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
