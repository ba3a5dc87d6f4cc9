"""`doctor`: how changes of the manifest are noticed where it lies."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from ..doctor import Diagnosis, diagnose
from ..events import WIRE_VERSION
from .options import json_option, manifest_options
from .output import fail, say, say_json, say_table


@click.command()
@manifest_options(positional=True)
@json_option
@click.pass_context
def command(context: click.Context, manifest: Path, as_json: bool) -> None:
    """Try the ways to save a file beside the manifest, and tell which of them file events report there, which
    only the regular look finds, and after how long. The scratch directory for it is gone afterwards.

    Exit code: 0 every change was found, 1 something is wrong. Takes some seconds.
    """
    # What they say is among the problems, once.
    logging.getLogger("shadowcat_registry.supervise").setLevel(logging.CRITICAL)
    cancelled = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
        cancelled.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        diagnosis = diagnose(manifest.absolute().parent, cancelled)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if cancelled.is_set():
        raise click.Abort
    if as_json:
        say_json({"version": WIRE_VERSION, "manifest": str(manifest), **diagnosis.as_json()})
    else:
        _show(manifest, diagnosis)
    context.exit(1 if diagnosis.problems else 0)


def _show(manifest: Path, diagnosis: Diagnosis) -> None:
    kind = diagnosis.filesystem or "a file system of unknown type"
    note = ", a network file system: `mode: auto` only looks regularly" if diagnosis.is_of_a_network else ""
    if diagnosis.trials:
        say(f"{manifest.absolute().parent}: {kind}{note}")
        say()
    rows = [
        (
            trial.way,
            trial.found_by or "-",
            "-" if trial.seconds is None else f"{trial.seconds * 1e3:.0f} ms",
            trial.problem or "",
        )
        for trial in diagnosis.trials
    ]
    if rows:
        say_table(("THE FILE IS", "FOUND BY", "AFTER", ""), rows)
        say()
    if diagnosis.inotify is not None:
        it = diagnosis.inotify
        say(
            f"inotify of this user: {it.watches} of {it.max_watches} watches, "
            f"{it.instances} of {it.max_instances} instances; a queue holds {it.max_queued_events} events"
        )
    for problem in diagnosis.problems:
        fail(problem)
