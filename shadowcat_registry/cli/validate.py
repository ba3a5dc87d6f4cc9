"""`validate`: is this manifest right, and if not, where not."""

from __future__ import annotations

from pathlib import Path

import click

from ..catalog import Catalog
from ..errors import Finding, ManifestError, ManifestNotFoundError
from ..events import WIRE_VERSION
from ..load import load_manifest
from ..marks import Mark
from .options import json_option, manifest_options
from .output import printable, say, say_findings, say_json


@click.command()
@manifest_options(positional=True)
@json_option
@click.pass_context
def command(context: click.Context, manifest: Path, as_json: bool) -> None:
    """Check a manifest; opens, creates and writes nothing.

    Prints every finding as file:line:column. Exit code: 0 valid (warnings or not), 1 not.
    """
    findings: tuple[Finding, ...]
    digest, providers, default = None, 0, None
    try:
        loaded = load_manifest(manifest, Catalog())
        findings = loaded.warnings
        digest, providers, default = loaded.digest, len(loaded.providers), loaded.default
    except ManifestNotFoundError as error:
        findings = (Finding("SC117", str(error), Mark.at_start(str(manifest))),)
    except ManifestError as error:
        findings = error.findings
    valid = digest is not None
    if as_json:
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "valid": valid,
                "digest": digest,
                "findings": [finding.as_json() for finding in findings],
            }
        )
    else:
        say_findings(findings)
        if valid:
            count = "1 provider" if providers == 1 else f"{providers} providers"
            say(f"{printable(manifest)}: valid, {count}, default {default or 'not set'}")
    context.exit(0 if valid else 1)
