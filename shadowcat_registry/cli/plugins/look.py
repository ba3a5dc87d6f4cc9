"""`plugins list` and `plugins verify`: what there is, and whether it may run. None of it is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ...catalog import Catalog
from ...control_socket import IS_SUPPORTED
from ...errors import PluginError
from ...events import WIRE_VERSION
from ...location import MANIFEST_NAME
from ...metadata import PluginInfo
from ...plugins.loading import LoadedPlugins, PluginLoader
from ...plugins.refusals import PIN_COMMAND, quoted
from ...plugins.section import Wanted
from ..options import json_option, manifest_options
from ..output import fail, printable, say, say_json, say_table, short_digest
from ..processes import NoAnswerError, processes_of
from .asked import outside_of_manifests, say_whose, wanted_here


@dataclass(frozen=True, slots=True)
class _Verdict:
    """On one plugin, or on what a whole source names."""

    info: PluginInfo
    error: PluginError | None

    def as_json(self) -> dict[str, Any]:
        error = self.error
        return self.info.as_json() | {
            "ok": error is None,
            "rule": error.rule if error is not None else None,
            "reason": error.reason if error is not None else None,
            "remedy": error.remedy if error is not None else None,
        }


@click.command("list")
@manifest_options()
@json_option
def list_(manifest: Path, as_json: bool) -> None:
    """Every built-in type, and every plugin that the manifest or $SHADOWCAT_PLUGIN_DIR names: its state, and
    what it registers.

    No plugin is imported here: each is asked in a process of its own.
    """
    wanted, fault = wanted_here(manifest)
    infos = [*_built_in(), *_as_running(_load(wanted).infos, manifest)]
    if as_json:
        plugins = [info.as_json() for info in infos]
        say_json({"version": WIRE_VERSION, "manifest": str(manifest), "plugins": plugins})
        return
    rows = [
        (
            info.name,
            info.state,
            _types(info) or "-",
            info.distribution or "-",
            short_digest(info.sha256),
            info.path or "-",
        )
        for info in infos
    ]
    say_table(("NAME", "STATE", "TYPES", "DISTRIBUTION", "SHA256", "PATH"), rows)
    bad = sum(info.problem is not None for info in infos)
    if bad or fault is not None:
        what = f"{bad} of the plugins cannot be used" if bad else "none of the pinned plugins can be used"
        fail(f"{what}: `shadowcat-registry plugins verify` says why, and what to do")


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@manifest_options()
@json_option
@click.pass_context
def verify(context: click.Context, manifest: Path, paths: tuple[Path, ...], as_json: bool) -> None:
    """Check whose the plugins of the manifest are, and import each in a process of its own.

    With PATH, those there instead, whether or not a manifest names them: a file, a package, or a directory of
    plugins. Run it as the user whose process is to load them: that is whom they have to belong to, if not to
    root. Exit code: 0 all may run, 1 one is refused.
    """
    if paths:
        verdicts = list(_verdicts(_load(outside_of_manifests(paths)), manifest))
    else:
        wanted, fault = wanted_here(manifest)
        verdicts = list(_verdicts(_load(wanted), manifest))
        if fault is not None:
            problem = f"{fault.rule}: {fault.reason}"
            info = PluginInfo(str(manifest), "refused", str(manifest), problem=problem)
            verdicts.insert(0, _Verdict(info, fault))
    is_good = all(verdict.error is None for verdict in verdicts)
    if as_json:
        plugins = [verdict.as_json() for verdict in verdicts]
        say_json({"version": WIRE_VERSION, "ok": is_good, "plugins": plugins})
    elif verdicts:
        _say(verdicts)
    else:
        where = "there" if paths else f"in {manifest}, nor by $SHADOWCAT_PLUGIN_DIR"
        fail(f"no plugin is named {where}")
    say_whose(verdict.error for verdict in verdicts if verdict.error is not None)
    context.exit(0 if is_good else 1)


def _say(verdicts: Sequence[_Verdict]) -> None:
    width = max(len(printable(verdict.info.name)) for verdict in verdicts)
    for verdict in verdicts:
        info, error = verdict.info, verdict.error
        name = printable(info.name).ljust(width)
        if error is None:
            what = f"{info.state}, sha256 {short_digest(info.sha256)}" if info.sha256 else info.state
            say(f"ok       {name}  {what}, registers {printable(_types(info))}")
            continue
        say(f"{info.state:<8} {name}  {error.rule}: {printable(error.reason)}")
        if info.path and info.path not in error.reason:
            say(f"         at {printable(info.path)}")
        if error.remedy:
            say(f"         to mend it: {printable(error.remedy)}")


def _load(wanted: Wanted) -> LoadedPlugins:
    return PluginLoader().load(wanted, Catalog(), "probe")


def _with_manifest(error: PluginError, manifest: Path) -> PluginError:
    """A remedy that is a command about the manifest says which one is meant."""
    if error.remedy is None or PIN_COMMAND not in error.remedy or manifest == Path(MANIFEST_NAME):
        return error
    remedy = error.remedy.replace(PIN_COMMAND, f"{PIN_COMMAND} -f {quoted(manifest)}")
    return PluginError(error.plugin, error.rule, error.reason, remedy, error.path)


def _verdicts(loaded: LoadedPlugins, manifest: Path) -> Iterator[_Verdict]:
    # Those of the refused ones, in the same order.
    errors = (_with_manifest(refusal.error, manifest) for refusal in loaded.refusals)
    for info in loaded.infos:
        yield _Verdict(info, next(errors) if info.problem is not None else None)


def _built_in() -> Iterator[PluginInfo]:
    catalog = Catalog()
    for name in catalog.names():
        yield PluginInfo(name, "built-in", types={name: catalog.factory(name).version})


def _as_running(infos: Sequence[PluginInfo], manifest: Path) -> Iterator[PluginInfo]:
    """What only a process that has imported it can tell: that another version is installed by now."""
    waiting: set[str] = set()
    if any(info.distribution for info in infos) and IS_SUPPORTED:
        for process in processes_of(manifest):
            try:
                plugins = process.ask("/v1/status")["plugins"]
            except (NoAnswerError, KeyError) as error:
                fail(str(error))
                continue
            waiting |= {it["name"] for it in plugins if it["state"] == "restart needed"}
    for info in infos:
        yield replace(info, state="restart needed") if info.name in waiting else info


def _types(info: PluginInfo) -> str:
    return ", ".join(f"{name} {version}" for name, version in info.types.items())
