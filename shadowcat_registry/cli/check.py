"""`check`: could each storage be opened now, and with --probe: does it keep a tape."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import click

from ..errors import RegistryError
from ..events import WIRE_VERSION
from ..registry import StorageProviderRegistry
from ..runtime import Runtime
from ..tapes.probing import ProbeCancelledError, probe_storage
from .options import json_option, manifest_options
from .output import answers_only, fail, say_json, say_table

_TIDYING_SECONDS: Final = 10.0
"""What a probe that is interrupted has for removing its tape."""


@dataclass(frozen=True, slots=True)
class _Result:
    provider: str
    type: str
    error: str | None
    seconds: float
    supported: bool = True

    @property
    def verdict(self) -> str:
        if not self.supported:
            return "unknown"
        return "healthy" if self.error is None else f"failing: {self.error}"

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "type": self.type,
            "healthy": self.error is None if self.supported else None,
            "error": self.error,
            "seconds": round(self.seconds, 3),
        }


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@manifest_options()
@click.option("--probe", is_flag=True, help="Open each, and write, read and delete a tape there.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="What each has for it.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    manifest: Path,
    names: tuple[str, ...],
    probe: bool,
    timeout_seconds: float,
    as_json: bool,
) -> None:
    """Whether the storages that the manifest declares could be opened now: all, or those that are named.

    Without --probe it touches nothing. With it, each is opened as a process would open it (what that makes,
    such as a directory, stays), and the tape of the probe is gone afterwards, also if it fails or is
    interrupted. Exit code: 0 all is well, 1 one failed, or there is none of that name.
    """
    with answers_only(), Runtime(manifest, eager=False, watch=False) as runtime:
        runtime.start()
        registry = runtime.registry
        infos = [
            registry.get_provider_info(name) for name in dict.fromkeys(names)
        ] or registry.list_providers()
        results = []
        for info in infos:
            began = monotonic()
            supported = True
            if probe:
                error = _probe(registry, info.name, timeout_seconds)
            else:
                health = registry.check(info.name, timeout_seconds)
                error, supported = health.error, health.state != "unknown"
            results.append(_Result(info.name, info.type, error, monotonic() - began, supported))
    if as_json:
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "probed": probe,
                "results": [result.as_json() for result in results],
            }
        )
    else:
        rows = [(it.provider, it.type, f"{it.seconds:.3f} s", it.verdict) for it in results]
        say_table(("PROVIDER", "TYPE", "TOOK", "HEALTH"), rows)
    bad = [result.provider for result in results if result.error is not None]
    if bad:
        fail(f"{len(bad)} of {len(results)} failed: {', '.join(bad)}")
    context.exit(1 if bad else 0)


def _probe(registry: StorageProviderRegistry, name: str, timeout_seconds: float) -> str | None:
    """What is wrong with a storage. The probe runs in a thread of its own, so that neither a signal nor a
    storage that hangs keeps it from removing its tape."""
    cancelled, ended = threading.Event(), threading.Event()
    errors: list[str] = []

    def run() -> None:
        try:
            with registry.open_storage(name) as storage:
                probe_storage(storage, cancelled)
        except ProbeCancelledError:
            errors.append("interrupted")
        except RegistryError as error:
            errors.append(str(error))
        except Exception as error:  # noqa: BLE001 - foreign code; its text may hold anything, its type does not
            errors.append(f"failed with {type(error).__name__}")
        finally:
            ended.set()

    thread = threading.Thread(target=run, name=f"shadowcat-probe-{name}", daemon=True)
    thread.start()
    try:
        # Not `join`: one that a signal interrupts takes the thread for ended, on Python 3.11.
        if not ended.wait(timeout_seconds):
            cancelled.set()
            rest = "" if ended.wait(_TIDYING_SECONDS) else "; it hangs, and its tape may be left"
            return f"no answer within {timeout_seconds:g} s{rest}"
    except BaseException:  # Ctrl-C
        cancelled.set()
        ended.wait(_TIDYING_SECONDS)
        raise
    return errors[0] if errors else None
