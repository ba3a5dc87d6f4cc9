"""`plugins test`: what every storage has to do, tried on a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ...errors import ManifestNotFoundError, RegistryError
from ...events import WIRE_VERSION
from ...interpolate import describe
from ...parse import parse_document
from ..options import json_option, logging_options
from ..output import fail, say_json


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, metavar="[-- PYTEST_OPTION...]", type=click.UNPROCESSED)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML or JSON with the config of each type under its name, as in `defaults.config` of a manifest.",
)
@json_option
@logging_options
@click.pass_context
def test(
    context: click.Context, path: Path, options: tuple[str, ...], config_file: Path | None, as_json: bool
) -> None:
    """Run the suite of what every storage has to do over each type of a plugin: a file NAME.py, or a package.

    Relative paths in a config are relative to a directory that each test gets anew. The code runs with all
    your rights, whoever could have written it. Needs the extra `[testing]`. Exit code: 0 all is as it should
    be, 1 a test failed, or the plugin cannot be loaded.
    """
    from ...testing import check_plugin  # which nobody else has a use for

    try:
        report = check_plugin(path, configs=_configs(config_file), options=options, quiet=as_json)
    except RegistryError:
        raise
    except ImportError as error:
        fail(str(error))
        context.exit(2)
    except RuntimeError as error:  # pytest could not do what its options say, and has said why
        fail(str(error))
        context.exit(2)
    if as_json:
        say_json({"version": WIRE_VERSION, "path": str(path), **report.as_json()})
    elif not report.ok and not report.failed:
        fail("every test was skipped")
    context.exit(0 if report.ok else 1)


def _configs(file: Path | None) -> Mapping[str, Mapping[str, Any]]:
    if file is None:
        return {}
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ManifestNotFoundError(str(file), describe(error)) from None
    configs = parse_document(data, str(file)).value or {}
    if not isinstance(configs, dict) or not all(isinstance(it, dict) for it in configs.values()):
        raise click.UsageError(f"{file} has to hold a mapping for each type, under its name")
    return configs
