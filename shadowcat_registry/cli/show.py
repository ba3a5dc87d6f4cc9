"""`show`: everything that is known about one provider."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..document import Document
from ..errors import ManifestNotFoundError
from ..events import WIRE_VERSION
from ..interpolate import describe
from ..manifest import Manifest
from ..marks import Pointer, format_dotted, format_pointer
from ..parse import parse_document
from ..runtime import Runtime
from .options import json_option, manifest_options
from .output import answers_only, printable, say, say_json, say_table


@click.command()
@click.argument("name")
@manifest_options()
@json_option
@click.pass_context
def command(context: click.Context, name: str, manifest: Path, as_json: bool) -> None:
    """All about one provider of the manifest: where it comes from, what it is, how it stands.

    Looks without touching: nothing is created. Secrets are masked. Exit code: 0 it could be opened now,
    1 it could not, or there is none of that name.
    """
    with answers_only(), Runtime(manifest, eager=False, watch=False) as runtime:
        runtime.start()
        loaded = runtime.manifest
        info = runtime.registry.get_provider_info(name)
        health = runtime.registry.check(name)
    if loaded is None:
        raise RuntimeError("a started runtime has its manifest")
    mark = loaded.provider_marks[name]
    config = loaded.masked_config(name)
    origins = _Origins.of(loaded, name, info.type)
    if as_json:
        say_json(
            {
                "version": WIRE_VERSION,
                "manifest": str(manifest),
                "digest": loaded.digest,
                "provider": info.as_json()
                | {
                    "health": health.as_json(),
                    "mark": str(mark),
                    "config": config,
                    "origins": {format_pointer(at): origins.origin(at) for at, _ in _values(config)},
                },
            }
        )
    else:
        facts = (
            ("name", info.name),
            ("display name", info.display_name),
            ("type", f"{info.type} {info.version}"),
            ("description", info.description),
            ("capabilities", ", ".join(sorted(info.capabilities)) or "-"),
            ("declared at", mark),
            ("default", "yes" if name == loaded.serving_default else "no"),
            ("health", health),
        )
        for label, fact in facts:
            say(f"{label + ':':<14}{printable(fact)}")
        say()
        rows = [(format_dotted(at), _text(value), origins.origin(at)) for at, value in _values(config)]
        if rows:
            say_table(("CONFIG", "VALUE", "FROM"), rows)
        else:
            say("config:       -")
    context.exit(1 if health.state == "failing" else 0)


def _values(config: Mapping[str, Any]) -> Iterator[tuple[Pointer, Any]]:
    """Each value that is not a mapping with something in it."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from (((key, *pointer), inner) for pointer, inner in _values(value))
        else:
            yield (key,), value


def _text(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


@dataclass(frozen=True)
class _Origins:
    """Where the values of a config come from."""

    own: tuple[Document, Pointer]
    beneath: tuple[Document, Pointer]

    @classmethod
    def of(cls, manifest: Manifest, name: str, type_name: str) -> _Origins:
        # Read once more: what is loaded knows no places but those of the providers. Should the file have
        # changed in between, a place is that in the file as it is now.
        root = _read(manifest.path)
        declared_in = Path(manifest.provider_marks[name].source)
        declared = root if declared_in == manifest.path else _read(declared_in)
        return cls((declared, ("providers", name, "config")), (root, ("defaults", "config", type_name)))

    def origin(self, pointer: Pointer) -> str:
        """`file:line:column`, or `default of the type`."""
        for document, at in (self.own, self.beneath):
            if _has(document.value, (*at, *pointer)):
                return str(document.mark((*at, *pointer)))
        return "default of the type"


def _read(path: Path) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestNotFoundError(str(path), describe(error)) from None
    return parse_document(data, str(path))


def _has(value: Any, pointer: Pointer) -> bool:
    for key in pointer:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True
