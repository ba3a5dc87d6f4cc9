"""`tapes`: what can be done with the tapes of a storage. The commands are in the modules beside this."""

from __future__ import annotations

import click

from .look import list_
from .transfer import export, import_
from .wholes import backup, check


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Bring tapes in, list them, and get them out."""


for _each in (import_, list_, export, backup, check):
    command.add_command(_each)
