"""`providers`: what is declared, and whether each could be opened now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ..events import WIRE_VERSION
from ..runtime import Runtime
from .options import json_option, manifest_options
from .output import answers_only, say_json, say_table


@click.command()
@manifest_options()
@json_option
@click.pass_context
def command(context: click.Context, manifest: Path, as_json: bool) -> None:
    """What the manifest declares, and how it stands.

    Looks without touching: nothing is created. Exit code: 0 all could be opened now, 1 one could not.
    """
    with answers_only(), Runtime(manifest, eager=False, watch=False) as runtime:
        runtime.start()
        loaded = runtime.manifest
        registry = runtime.registry
        infos = [replace(info, health=registry.check(info.name)) for info in registry.list_providers()]
    if loaded is None:
        raise RuntimeError("a started runtime has its manifest")
    if as_json:
        providers = [
            info.as_json()
            | {"config": loaded.masked_config(info.name), "mark": str(loaded.provider_marks[info.name])}
            for info in infos
        ]
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "digest": loaded.digest,
                "default": loaded.serving_default,
                "providers": providers,
            }
        )
    else:
        say_table(
            ("NAME", "TYPE", "VERSION", "DEFAULT", "HEALTH", "CAPABILITIES", "DECLARED AT"),
            [
                (
                    info.name,
                    info.type,
                    info.version,
                    "yes" if info.name == loaded.serving_default else "",
                    info.health,
                    ", ".join(sorted(info.capabilities)),
                    loaded.provider_marks[info.name],
                )
                for info in infos
            ],
        )
    context.exit(1 if any(info.health.state == "failing" for info in infos) else 0)
