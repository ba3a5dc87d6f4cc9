"""`status`: how a running process stands, in one line, and all about it below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ..events import WIRE_VERSION
from .options import json_option, manifest_options, pid_option
from .output import fail, moment, printable, say, say_json, say_table, short_digest
from .processes import GoneError, NoAnswerError, Process, nobody, processes_of, the_process

_REFUSED_PLUGINS: Final = ("SC801", "SC802", "SC803", "SC804", "SC805")


@click.command()
@manifest_options()
@pid_option
@click.option("--all", "show_all", is_flag=True, help="Each process that follows the manifest, in a line.")
@click.option("--history", is_flag=True, help="The last commits, refusals and retirements instead.")
@json_option
@click.pass_context
def command(
    context: click.Context, manifest: Path, pid: int | None, show_all: bool, history: bool, as_json: bool
) -> None:
    """How a running process stands.

    Exit code: 0 it runs what the manifest says, and no provider is failing; 1 it does not, or there is none,
    or it does not answer; with --all also where the processes do not all run the same.
    """
    if show_all and (history or pid is not None):
        raise click.UsageError("--all goes with neither --history nor --pid")
    if show_all:
        context.exit(_show_all(manifest, as_json=as_json))
    process = the_process(manifest, pid)
    if history:
        answer = process.ask("/v1/history")
        if as_json:
            say_json(answer)
        else:
            for entry in answer["history"]:
                say(_history_line(entry))
        return
    status = process.ask("/v1/status")
    if as_json:
        say_json(status)
    else:
        for line in _headline(status):
            say(printable(line))
        say()
        _say_providers(status)
        if status["plugins"]:
            say()
            _say_plugins(status["plugins"])
    context.exit(1 if _is_bad(status) else 0)


def _is_bad(status: Mapping[str, Any]) -> bool:
    failing = any(provider["health"]["state"] == "failing" for provider in status["providers"])
    return status["state"] != "ok" or failing


def _headline(status: Mapping[str, Any]) -> Iterator[str]:
    """What is so, and what to do about it."""
    state, generation = status["state"], status["generation"]
    digest = short_digest(status["digest"])
    conditions = {condition["name"]: condition for condition in status["conditions"]}
    since = conditions["applied"]["since"] if "applied" in conditions else None
    where = f"generation {generation}, digest {digest}, default {status['default'] or 'not set'}"
    when = f", since {moment(since)}" if since else ""
    yield f"{state}: pid {status['pid']}, {where}{when}"
    errors = [finding for finding in status["findings"] if finding["severity"] == "error"]
    for finding in status["findings"]:
        yield f"  {_finding_line(finding)}"
    held = [finding for finding in errors if finding["code"] == "SC708"]
    if held:
        name = held[0]["pointer"].rpartition("/")[2]
        yield f"  to do: have its leases closed (`shadowcat-registry why {name}`), or declare it again"
    elif state == "rejected" and any(finding["code"] in _REFUSED_PLUGINS for finding in status["findings"]):
        yield "  to do: mend the plugin that is refused; what runs is not affected"
    elif state == "rejected":
        file = errors[0]["file"] if errors else status["manifest"]
        yield f"  to do: mend {file}; what runs is not affected"
    elif state == "degraded":
        yield f"  to do: put a good manifest at {status['manifest']}; it is taken at once"
    if status["retry_in_seconds"] is not None:
        yield f"  it is tried again in {status['retry_in_seconds']:.0f} s"
    if status["phase"] is not None:
        phase = status["phase"]
        step = f": {phase['step']['what']}, {phase['step']['at'] or 'no line known'}" if phase["step"] else ""
        yield f"reloading: {phase['name']} for {phase['age_seconds']:.1f} s{step}"
    for name, condition in conditions.items():
        is_good = condition["is_true"] is (name in ("applied", "healthy"))
        if name != "applied" and not is_good:
            at = f" since {moment(condition['since'])}" if condition["since"] else ""
            hint = _retiring_hint(status) if name == "retiring" else ""
            yield f"{name if condition['is_true'] else 'not ' + name}{at}: {condition['message']}{hint}"
    if (kept := status["last_good"]) is not None and kept["problem"] is not None:
        yield f"not kept for a later start: {kept['problem']}"
    yield from _watch_lines(status["watch"])


def _watch_lines(watch: Mapping[str, Any] | None) -> Iterator[str]:
    """How a change would be noticed."""
    if watch is None or not watch["is_running"]:
        yield "follows the file: no; changes are taken when `shadowcat-registry reload` asks for it"
        return
    how = "by events, and " if watch["mode"] == "events" else ""
    check = moment(watch["last_check_at"])
    yield f"follows the file: {how}by a look every {watch['poll_interval_seconds']:g} s, last at {check}"
    if watch["degraded"] is not None:
        yield f"  less than it should be: {watch['degraded']}"
    for directory in watch["unobserved"]:
        yield f"  without events: {directory}"


def _retiring_hint(status: Mapping[str, Any]) -> str:
    names = [provider["name"] for provider in status["providers"] if provider["state"] == "retiring"]
    return f"; `shadowcat-registry why {names[0]}` says who holds it" if names else ""


def _finding_line(finding: Mapping[str, Any]) -> str:
    place = f"{finding['file']}:{finding['line']}:{finding['column']}"
    hint = f" ({finding['hint']})" if finding["hint"] else ""
    return f"{place}: {finding['severity']} {finding['code']}: {finding['message']}{hint}"


def _say_providers(status: Mapping[str, Any]) -> None:
    rows = []
    for provider in status["providers"]:
        name, health = provider["name"], provider["health"]
        rows.append(
            (
                name + (" (default)" if provider["is_default"] else ""),
                provider["type"],
                provider["state"],
                _revisions(provider, status["revisions"].get(name, ())),
                provider["instance_count"],
                health["state"] + (f": {health['error']}" if health["error"] else ""),
            )
        )
    say_table(("PROVIDER", "TYPE", "STATE", "REVISION", "LEASES", "HEALTH"), rows)


def _say_plugins(plugins: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            it["name"],
            it["state"],
            ", ".join(f"{name} {version}" for name, version in it["types"].items()) or "-",
            it["distribution"] or short_digest(it["sha256"]),
            it["generations"],
            it["problem"] or "",
        )
        for it in plugins
    ]
    say_table(("PLUGIN", "STATE", "TYPES", "CODE", "GENERATIONS", "PROBLEM"), rows)


def _revisions(provider: Mapping[str, Any], revisions: Sequence[Mapping[str, Any]]) -> str:
    """The current one, and the older ones that wait for their last lease."""
    old = [
        f"{it['revision']} with {it['lease_count']}"
        for it in revisions
        if it["revision"] != provider["revision"]
    ]
    return f"{provider['revision']}" + (f" ({', '.join(old)})" if old else "")


def _history_line(entry: Mapping[str, Any]) -> str:
    head = f"{moment(entry['at'])}  generation {entry['generation']:<4} {short_digest(entry['digest']):<12}"
    return printable(f"{head}  {entry['outcome']:<9}  {entry['summary']}")


def _show_all(manifest: Path, *, as_json: bool) -> int:
    answers: list[tuple[Process, dict[str, Any] | None, str]] = []
    for process in processes_of(manifest):
        try:
            answers.append((process, process.ask("/v1/status"), ""))
        except GoneError:
            continue
        except NoAnswerError as error:
            answers.append((process, None, str(error)))
    digests = {status["digest"] for _, status, _ in answers if status is not None}
    is_split = len(digests) > 1
    if as_json:
        processes = [status or {"pid": process.pid, "error": why} for process, status, why in answers]
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "is_split": is_split,
                "processes": processes,
            }
        )
    elif answers:
        rows = [
            (process.pid, *_row(status)) if status is not None else (process.pid, "no answer", "", "", "", "")
            for process, status, _ in answers
        ]
        say_table(("PID", "STATE", "GENERATION", "DIGEST", "DEFAULT", "STARTED"), rows)
    if not answers:
        fail(nobody(manifest))
    for _, _, reason in answers:
        if reason:
            fail(reason)
    if is_split:
        fail(
            f"these processes run {len(digests)} different manifests:"
            " `shadowcat-registry reload --wait --pid PID` tells why one has not followed"
        )
    is_bad = any(status is None or _is_bad(status) for _, status, _ in answers)
    return 1 if is_bad or is_split or not answers else 0


def _row(status: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        status["state"],
        status["generation"],
        short_digest(status["digest"]),
        status["default"],
        moment(status["started_at"]),
    )
