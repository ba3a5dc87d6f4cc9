"""Reading a manifest: beside the parser below it, beside a loader and a validator put together, again when
one of its files has changed, and beside what others make of as many components. CPU time, the best of
several rounds taken in turn.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from shadowcat_registry import accelerate, schema
from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.load import ManifestLoader, parse_manifest
from shadowcat_registry.metadata import Config, ProviderCapability
from shadowcat_registry.parse import parse_document
from shadowcat_registry.schema_files import manifest_schema

ROUNDS = 7
FRAGMENTS = 20
PROVIDERS = 1_000

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "directory": TEXT | {"x-path": True, "x-exclusive": True},
        "bucket": TEXT | {"pattern": "^[a-z0-9-]+$"},
        "region": {"enum": ["eu-central-1", "us-east-1"]},
        "prefix": TEXT,
        "max_bytes": {"type": "integer", "minimum": 1},
        "compress": {"type": "boolean"},
        "level": {"type": "integer", "minimum": 1, "maximum": 9},
        "retry": {
            "type": "object",
            "properties": {"attempts": {"type": "integer"}, "backoff_seconds": {"type": "number"}},
            "additionalProperties": False,
        },
        "labels": {"type": "array", "items": TEXT},
        "note": {"type": "string"},
    },
    "required": ["directory"],
    "additionalProperties": False,
}


class Demo:
    """A type with a config of a common size."""

    name = "demo"
    display_name = "Demo"
    version = "1.0"
    description = "For a benchmark"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def config_schema(self) -> Mapping[str, Any]:
        return SCHEMA

    def validate_config(self, config: Config) -> None:
        """The schema says it all."""

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        raise NotImplementedError


def config(number: int) -> dict[str, Any]:
    return {
        "directory": f"/srv/tapes/{number:06d}",
        "bucket": f"tapes-{number}",
        "region": "eu-central-1",
        "prefix": f"team/{number % 7}/",
        "max_bytes": 1_000_000 + number,
        "compress": True,
        "level": 3,
        "retry": {"attempts": 5, "backoff_seconds": 0.5},
        "labels": ["alpha", "beta"],
        "note": "kept for a year, then deleted",
    }


def manifest(start: int, stop: int) -> bytes:
    providers = {
        f"p{i}": {"type": "demo", "display_name": f"No. {i}", "config": config(i)} for i in range(start, stop)
    }
    return yaml.dump(
        {"version": 1, "providers": providers}, Dumper=yaml.CSafeDumper, sort_keys=False
    ).encode()


def best(ways: Mapping[str, Callable[[], object]], calls: int = 1, rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds of CPU for each."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):  # in turn, so that a busy moment meets all of them
        for name, way in ways.items():
            began = time.process_time()
            for _ in range(calls):
                way()
            found[name] = min(found[name], (time.process_time() - began) / calls * 1000)
    return found


def drain(data: bytes) -> None:
    parser = yaml.CSafeLoader(data)
    while parser.get_event() is not None:
        pass


def parsing() -> None:
    print(f"{'providers':>10}{'drain ms':>12}{'parse ms':>12}{'ratio':>8}{'CSafeLoader ms':>16}{'ratio':>8}")
    for count in (10, 100, 1_000, 10_000):
        data = manifest(0, count)
        ways: dict[str, Callable[[], object]] = {
            "drain": partial(drain, data),
            "parse": partial(parse_document, data, "m"),
            "load": partial(yaml.load, data, yaml.CSafeLoader),
        }
        times = best(ways, max(1, 1_000 // count))
        base = times["drain"]
        print(
            f"{count:>10,}{base:>12.2f}{times['parse']:>12.2f}{times['parse'] / base:>8.2f}"
            f"{times['load']:>16.2f}{times['load'] / base:>8.2f}"
        )


@contextmanager
def only_jsonschema() -> Iterator[None]:
    """As it is where the extra `fast` is not installed."""
    library = accelerate._library  # noqa: SLF001 - there is no switch for it, as nobody needs one
    accelerate._library = lambda: None  # type: ignore[assignment]  # noqa: SLF001
    schema._compiled.clear()  # noqa: SLF001
    try:
        yield
    finally:
        accelerate._library = library  # noqa: SLF001
        schema._compiled.clear()  # noqa: SLF001


def loading() -> None:
    data = manifest(0, PROVIDERS)
    catalog = Catalog([Demo()])
    whole = jsonschema.Draft202012Validator(manifest_schema())
    one = jsonschema.Draft202012Validator(SCHEMA)

    def put_together() -> None:
        value = yaml.load(data, yaml.CSafeLoader)
        assert not list(whole.iter_errors(value))
        for entry in value["providers"].values():
            assert not list(one.iter_errors(entry["config"]))

    def ours() -> None:
        parse_manifest(data, Path("registry.yaml"), catalog, {})

    is_fast = accelerate._library() is not None  # noqa: SLF001
    if not is_fast:
        print("jsonschema-rs is not installed (the extra `fast`)")
    times: dict[str, float] = {}
    for _ in range(ROUNDS):
        found = best({"CSafeLoader + prebuilt jsonschema": put_together}, rounds=1)
        if is_fast:
            ours()
            found |= best({"cold load, with [fast]": ours}, rounds=1)
        with only_jsonschema():
            ours()  # it compiles the schemas anew
            found |= best({"cold load, jsonschema alone": ours}, rounds=1)
        times = {name: min(spent, times.get(name, spent)) for name, spent in found.items()}
    show(f"{PROVIDERS:,} providers in one file", times)


def including() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "registry.yaml").write_text("version: 1\ninclude: ['*.yml']\n")
        size = PROVIDERS // FRAGMENTS
        for number in range(FRAGMENTS):
            (directory / f"{number:02d}.yml").write_bytes(manifest(number * size, (number + 1) * size))
        catalog, turn = Catalog([Demo()]), 0
        path = directory / "registry.yaml"
        loader = ManifestLoader(path, catalog, environ={})
        loader.load()

        def cold() -> None:
            ManifestLoader(path, catalog, environ={}).load()

        def warm() -> None:
            nonlocal turn
            turn += 1
            changed = manifest(3 * size, 4 * size).replace(b"level: 3", b"level: %d" % (turn % 9 + 1), 1)
            (directory / "03.yml").write_bytes(changed)
            began = time.process_time()
            loader.load()
            spent.append(time.process_time() - began)

        spent: list[float] = []
        times = best({"cold": cold})
        for _ in range(ROUNDS * 3):
            warm()
        times["warm, one file changed"] = min(spent) * 1000
        times |= best({"warm, nothing changed": loader.load})
        show(f"{PROVIDERS:,} providers in {FRAGMENTS} files", times)


def show(title: str, times: Mapping[str, float]) -> None:
    base = next(iter(times.values()))
    print(f"\n{title:44}{'ms':>10}{'ratio':>10}")
    for name, spent in times.items():
        print(f"{name:44}{spent:>10.1f}{spent / base:>10.2f}")


class Component:
    """What the others make of one entry."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields


def kedro(directory: Path) -> Callable[[], object]:
    from kedro.io import DataCatalog  # type: ignore[import-not-found, unused-ignore]

    entries = {f"p{i}": {"type": "kedro.io.MemoryDataset", "metadata": config(i)} for i in range(PROVIDERS)}
    path = _dump(directory / "kedro.yaml", entries)

    def load() -> None:
        catalog = DataCatalog.from_config(yaml.load(path.read_bytes(), yaml.CSafeLoader))
        for name in entries:  # it makes them when they are asked for
            catalog.get(name)

    return load


def intake(directory: Path) -> Callable[[], object]:
    import intake  # type: ignore[import-not-found, unused-ignore]

    data = {f"p{i}": {"kind": "intake.readers.datatypes:CSV", **config(i)} for i in range(PROVIDERS)}
    catalog = intake.entry.Catalog()
    for name, fields in data.items():
        catalog[name] = intake.readers.datatypes.CSV(url=fields["directory"], metadata=fields)
    path = directory / "intake.yaml"
    catalog.to_yaml_file(str(path))

    def load() -> None:
        list(intake.entry.Catalog.from_yaml_file(str(path)).entries.values())

    return load


def dynaconf(directory: Path) -> Callable[[], object]:
    from dynaconf import Dynaconf  # type: ignore[import-not-found, unused-ignore]

    path = _dump(directory / "dynaconf.yaml", {"providers": {f"p{i}": config(i) for i in range(PROVIDERS)}})
    return lambda: Dynaconf(settings_files=[str(path)]).PROVIDERS


def omegaconf(directory: Path) -> Callable[[], object]:
    # It refuses more than 10,000 values unless told otherwise.
    os.environ["OMEGACONF_MAX_YAML_EXPANDED_NODES"] = "none"
    from omegaconf import OmegaConf  # type: ignore[import-not-found, unused-ignore]

    path = _dump(directory / "omegaconf.yaml", {"providers": {f"p{i}": config(i) for i in range(PROVIDERS)}})
    return lambda: OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def dependency_injector(directory: Path) -> Callable[[], object]:
    from dependency_injector import providers  # type: ignore[import-not-found, unused-ignore]

    path = _dump(directory / "injector.yaml", {f"p{i}": config(i) for i in range(PROVIDERS)})

    def load() -> None:
        settings = providers.Configuration()
        settings.from_yaml(path)
        for i in range(PROVIDERS):
            providers.Factory(Component, **settings.get(f"p{i}"))

    return load


PEERS = {
    "Kedro, DataCatalog.from_config": kedro,
    "intake, Catalog.from_yaml_file": intake,
    "dynaconf": dynaconf,
    "OmegaConf": omegaconf,
    "dependency-injector, from_yaml": dependency_injector,
}


def _dump(path: Path, value: object) -> Path:
    path.write_text(yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False))
    return path


def comparing() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / "registry.yaml"
        path.write_bytes(manifest(0, PROVIDERS))
        catalog = Catalog([Demo()])
        ways: dict[str, Callable[[], object]] = {
            "this, with places and all checks": lambda: ManifestLoader(path, catalog, environ={}).load()
        }
        missing = []
        for peer, prepare in PEERS.items():
            try:
                ways[peer] = prepare(directory)
            except ImportError:
                missing.append(peer)
        show(f"{PROVIDERS:,} components out of a file", best(ways))
        for peer in missing:
            print(f"{peer:44}{'not installed':>20}")


def main() -> None:
    parsing()
    loading()
    including()
    comparing()
