"""A manifest with plugins beside it, and a runtime on it that reloads when it is asked to."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from shadowcat_registry.errors import Finding
from shadowcat_registry.events import Event
from shadowcat_registry.plan import Plan
from shadowcat_registry.runtime import Runtime
from shadowcat_registry.storage import TapeStorage

PLUGIN = '''
"""A storage whose tapes say which code has made them."""

from shadowcat_registry.backend import Durability
from shadowcat_registry.providers.memory import MemoryBackend

CODE = "{code}"


class Backend(MemoryBackend):
    durability = Durability("none")

    def new_tape_id(self):
        return CODE + "-" + super().new_tape_id()


class Factory:
    name = "{type}"
    display_name = "Ice"
    version = "{version}"
    description = "On ice"
    capabilities = frozenset()

    def config_schema(self):
        return {{
            "type": "object",
            "properties": {{
                "depth": {{"type": "integer", "default": 3}},
                "directory": {{"type": "string", "x-path": True}},
            }},
            "additionalProperties": False,
        }}

    def validate_config(self, config):
        if config["depth"] > 11:
            raise ValueError("depth: there is no ice so deep")

    def create(self, config, context):
        return Backend(context.logger, max_bytes=1 << 20, max_tapes=100)


PROVIDERS = (Factory,)
'''


def plugin(code: str = "one", *, type: str = "glacier", version: str = "1.0") -> str:  # noqa: A002 - its field
    return PLUGIN.format(code=code, type=type, version=version)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def manifest(plugins: dict[str, Any] | None = None, **providers: Any) -> str:
    """A provider is its config, or, as a text, its type. Plugins are not probed unless it is asked for."""
    entries = {
        name: {"type": given} if isinstance(given, str) else {"type": "glacier", "config": given}
        for name, given in providers.items()
    }
    section = {} if plugins is None else {"plugins": {"probe": False, **plugins}}
    return json.dumps({"version": 1, **section, "providers": entries}, indent=1)


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "registry.yaml"
        self.environ: dict[str, str] = {}
        self.events: list[Event] = []
        self.runtime = Runtime(self.path, environ=self.environ, watch=False)
        self.runtime.subscribe(self.events.append)

    def put(self, name: str, text: str) -> Path:
        """A file that nobody else may write, in one step."""
        path = self.directory / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
        return path

    def write(self, plugins: dict[str, Any] | None = None, **providers: Any) -> None:
        self.put("registry.yaml", manifest(plugins, **providers))

    def start(self, plugins: dict[str, Any] | None = None, **providers: Any) -> Runtime:
        self.write(plugins, **providers)
        self.runtime.start()
        return self.runtime

    def reload(self) -> str:
        """What came of it."""
        outcome = self.runtime.reload()
        assert outcome is not None
        return outcome.result

    def open(self, name: str = "cold") -> TapeStorage:
        return self.runtime.registry.open_storage(name)

    def code(self, name: str = "cold") -> str:
        with self.open(name) as storage:
            return code_of(storage)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.runtime.status().findings

    @property
    def said(self) -> list[str]:
        return [event.event for event in self.events]


def code_of(storage: TapeStorage) -> str:
    """Which code works behind a handle, by what it does now."""
    with storage.record("s") as recorder:
        return recorder.tape_id.partition("-")[0]


def kinds(plan: Plan) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(action.kind, action.name, action.changed) for action in plan]
