"""`explain`: what a code of a finding means, with a wrong and a right example."""

from __future__ import annotations

import click

from ..codes import CODES
from ..errors import did_you_mean
from ..events import WIRE_VERSION
from ..pages import page
from .options import json_option
from .output import fail, printable, say, say_json, say_table


@click.command()
@click.argument("code", required=False)
@json_option
@click.pass_context
def command(context: click.Context, code: str | None, as_json: bool) -> None:
    """What a code such as SC201 means, why it is refused, and a wrong and a right example.

    Without a CODE, all of them in a table. Exit code: 0 fine, 1 there is no such code.
    """
    if code is None:
        if as_json:
            codes = [{"code": name, "title": title} for name, title in sorted(CODES.items())]
            say_json({"version": WIRE_VERSION, "codes": codes})
        else:
            say_table(("CODE", "MEANING"), sorted(CODES.items()))
        return
    name = code.upper()
    if name not in CODES:
        hint = did_you_mean(name, sorted(CODES))
        known = "`shadowcat-registry explain` lists all"
        fail(f"there is no code {printable(code[:64])}; {hint + ' ' if hint else ''}{known}")
        context.exit(1)
    if as_json:
        say_json({"version": WIRE_VERSION} | page(name).as_json())
    else:
        say(str(page(name)))
