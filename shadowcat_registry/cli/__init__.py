"""The command line: arguments in, the public API in between, text or JSON and an exit code out.

Exit codes: 0 fine, 1 the thing asked about is bad, 2 wrong use. What was asked for goes to standard
output, everything else to standard error. A command is a module here, imported when it is used.
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from typing import Final

import click

from ..errors import ManifestError, RegistryError
from .output import fail

_COMMANDS: Final = {
    "check": "Whether each storage could be opened now; with --probe, whether it keeps a tape.",
    "events": "What has happened in a running process, and what happens.",
    "plan": "What a running process would do about the manifest as it is now.",
    "reload": "Have a running process look at its manifest now.",
    "status": "How a running process stands.",
    "why": "Who holds a provider in a running process, and what keeps it.",
    "explain": "What a code of a finding means, with a wrong and a right example.",
    "doctor": "How changes of the manifest are noticed where it lies.",
    "demo": "The promise on one screen: record, edit the manifest underneath, lose nothing.",
    "init": "Write a commented manifest to start with.",
    "plugins": "Look at plugins, check them, and pin them to their digests.",
    "providers": "What the manifest declares, and how it stands.",
    "run": "Load the manifest, follow it, and print what happens.",
    "schema": "The JSON Schema of the manifest, or of the config of a type.",
    "show": "All about one provider of the manifest.",
    "tapes": "Bring tapes in and out, look at them, and keep them.",
    "types": "The provider types that a manifest may use.",
    "validate": "Check a manifest; opens, creates and writes nothing.",
}


class _Commands(click.Group):
    """Imports a command when it is asked for: `validate` need not pay for `run`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f".{cmd_name}", __name__).command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shadowcat-registry", prog_name="shadowcat-registry")
def cli() -> None:
    """Storage for MCP tapes, declared in one YAML manifest and followed while it changes."""


def main() -> None:
    """The console script: runs a command and leaves the process with its exit code."""
    try:
        # In this mode click raises what it would print itself, and returns the code of an early exit.
        sys.exit(cli.main(prog_name="shadowcat-registry", standalone_mode=False))
    except click.Abort:
        fail("interrupted")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ManifestError as error:
        from .findings import say_findings, summary

        say_findings(error.findings, error.excerpts, to_stderr=True)
        fail(summary(error.findings[0].mark.source, error.findings))
        sys.exit(1)
    except RegistryError as error:
        fail(str(error))
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain about it at exit.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        fail(f"cannot write the output: {error.strerror}")
        sys.stdout = None  # as above: what is left in it cannot be written either
        sys.exit(1)
