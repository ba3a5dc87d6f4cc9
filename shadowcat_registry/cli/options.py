"""The options that every command has, in one place: the manifest, JSON, logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from ..location import MANIFEST_NAME, MANIFEST_VARIABLE, find_manifest
from .output import JsonLogFormatter

MANIFEST_PATH: Final[click.ParamType[Any]] = click.Path(path_type=Path, readable=False)
"""Not for click to refuse: that a manifest cannot be read is a finding, whatever the reason."""

_Command = Callable[..., Any]


def manifest_options(*, positional: bool = False) -> Callable[[_Command], _Command]:
    """`-f/--manifest` (for some commands also as the one argument) and the logging options; the command
    gets `manifest: Path`."""

    def decorate(function: _Command) -> _Command:
        @wraps(function)
        def run(manifest_option: Path | None, manifest_argument: Path | None = None, **others: Any) -> object:
            if manifest_option is not None and manifest_argument is not None:
                raise click.UsageError("name the manifest once: with -f, or as the argument")
            return function(manifest=find_manifest(manifest_option or manifest_argument), **others)

        command = click.option(
            "-f",
            "--manifest",
            "manifest_option",
            type=MANIFEST_PATH,
            metavar="FILE",
            help=f"The manifest. [default: ${MANIFEST_VARIABLE}, then ./{MANIFEST_NAME}]",
        )(run)
        if positional:
            argument = click.argument(
                "manifest_argument",
                type=MANIFEST_PATH,
                metavar="[MANIFEST]",
                required=False,
            )
            command = argument(command)
        return logging_options(command)

    return decorate


def logging_options(function: _Command) -> _Command:
    """`--log-level` and `--log-format`, which take effect before the command begins."""

    @wraps(function)
    def run(log_level: str, log_format: str, **others: Any) -> object:
        configure_logging(log_level, log_format)
        return function(**others)

    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="warning",
        show_default=True,
        help="The least that is logged, to standard error.",
    )
    form = click.option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How."
    )
    return level(form(run))


json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")

pid_option = click.option(
    "--pid", type=int, metavar="PID", help="Which process, where several follow the manifest."
)

provider_option = click.option(
    "--provider", metavar="NAME", help="Which storage to use. [default: the manifest's default]"
)


def configure_logging(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLogFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
