"""`tapes`: what can be done with the tapes of a storage. The commands are in the modules beside this."""

from __future__ import annotations

import click

from .care import delete, prune, verify
from .look import follow, list_, search, show
from .transfer import copy, export, import_
from .wholes import backup, check


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Bring tapes in and out, look at them, and keep them."""


_COMMANDS = (import_, list_, show, search, follow, export, copy, verify, prune, delete, backup, check)

for _each in _COMMANDS:
    command.add_command(_each)
