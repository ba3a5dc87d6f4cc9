"""`plugins`: provider types from outside. The commands are in the modules beside this."""

from __future__ import annotations

import click

from .conformance import test
from .look import list_, verify
from .pin import pin


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at plugins, check them, and pin them to their digests."""


_COMMANDS = (list_, verify, pin, test)

for _each in _COMMANDS:
    command.add_command(_each)
