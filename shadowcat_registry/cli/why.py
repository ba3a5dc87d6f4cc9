"""`why`: who holds a provider, and what keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .options import json_option, manifest_options, pid_option
from .output import age, printable, say, say_json, say_table
from .processes import the_process


@click.command()
@click.argument("name")
@manifest_options()
@pid_option
@json_option
def command(name: str, manifest: Path, pid: int | None, as_json: bool) -> None:
    """Who holds a provider in the running process, and what keeps it there.

    Exit code: 0 it is there, 1 it is not, or no process answers.
    """
    answer = the_process(manifest, pid).ask("/v1/why", name=name)
    if as_json:
        say_json(answer)
        return
    say(printable(_headline(answer)))
    if answer["holders"]:
        say_table(
            ("HELD AT", "SINCE", "REVISION", "THREAD", "INSTANCE"),
            [
                (
                    holder["acquired_at"],
                    age(holder["age_seconds"]),
                    holder["revision"],
                    holder["thread"],
                    holder["instance_id"] or "-",
                )
                for holder in answer["holders"]
            ],
        )


def _headline(answer: Mapping[str, Any]) -> str:
    provider = answer["provider"]
    name, count = provider["name"], len(answer["holders"])
    leases = "1 lease" if count == 1 else f"{count} leases"
    if provider["state"] == "retiring":
        return f"{name} is retiring: no longer declared, and kept by {leases}; it goes with the last of them"
    kept = [
        *(["declared in the manifest"] if provider["origin"] == "manifest" else ["registered by code"]),
        *(["the default"] if provider["is_default"] else []),
        *(["protected"] if answer["protected"] else []),
        *([f"required by {', '.join(answer['required_by'])}"] if answer["required_by"] else []),
    ]
    held = f"held by {leases}" if count else "nobody holds it"
    return f"{name} is {provider['state']}: {', '.join(kept)}; {held}"
