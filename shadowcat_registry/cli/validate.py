"""`validate`: is this manifest right, and if not, where not."""

from __future__ import annotations

from pathlib import Path

import click

from ..catalog import Catalog
from ..errors import Excerpt, Finding, ManifestError, ManifestNotFoundError
from ..events import WIRE_VERSION
from ..load import load_manifest
from ..manifest import Manifest
from ..marks import Mark
from .options import json_option, manifest_options
from .output import printable, say, say_json


@click.command()
@manifest_options(positional=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    help="text for people, json for programs, sarif for code scanning, github for the annotations of a"
    " workflow. [default: text]",
)
@json_option
@click.option(
    "--unresolved",
    is_flag=True,
    help="Let references stand for any value: checks a manifest where its variables and files are absent.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Import the plugins of the manifest, each in a process of its own, for the schemas of their types.",
)
@click.pass_context
def command(
    context: click.Context, manifest: Path, form: str | None, as_json: bool, unresolved: bool, probe: bool
) -> None:
    """Check a manifest; opens, creates and writes nothing. Without --probe, no plugin is imported.

    Prints every finding with file:line:column and the line, what may be secret masked. Exit code: 0 valid
    (warnings or not), 1 not.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError("--json is --format json; choose one format")
    if probe and unresolved:
        raise click.UsageError("--unresolved looks at no plugin: leave --probe out")
    findings: tuple[Finding, ...]
    excerpts: tuple[Excerpt, ...] = ()
    loaded: Manifest | None = None
    try:
        loaded = load_manifest(
            manifest, Catalog(), unresolved=unresolved, plugins="probe" if probe else "verify"
        )
        findings, excerpts = loaded.warnings, loaded.excerpts
    except ManifestNotFoundError as error:
        findings = (Finding("SC117", str(error), Mark.at_start(str(manifest))),)
    except ManifestError as error:
        findings, excerpts = error.findings, error.excerpts
    valid = loaded is not None
    # Where a secret may be, and is not known to be one, the digest is not that of a process.
    is_clear = not any(finding.code == "SC806" for finding in findings)
    if as_json or form == "json":
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "valid": valid,
                "digest": loaded.digest if loaded is not None and is_clear else None,
                "findings": [finding.as_json() for finding in findings],
            }
        )
    elif form == "sarif":
        from .reports import sarif

        say_json(sarif(findings))
    elif form == "github":
        from .reports import github

        for line in github(findings):
            say(line)
    else:
        from .findings import say_findings, summary

        say_findings(findings, excerpts)
        if loaded is not None:
            declared = len(loaded.provider_marks)
            count = "1 provider" if declared == 1 else f"{declared} providers"
            say(f"{printable(manifest)}: valid, {count}, default {loaded.serving_default or 'not set'}")
        else:
            say(summary(manifest, findings))
    context.exit(0 if valid else 1)
