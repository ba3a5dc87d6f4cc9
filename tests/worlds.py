"""A manifest in a file, a runtime that follows it when it is asked to, and what that has said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.events import Event
from shadowcat_registry.runtime import Runtime

from .fakes import Factory

SECRET = {"type": "object", "properties": {"token": {"type": "string", "x-secret": True}}}


class World:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "registry.yaml"
        self.fake, self.other = Factory("fake"), Factory("other")
        self.vault = Factory("vault", schema=SECRET)
        self.environ: dict[str, str] = {}
        catalog = Catalog([self.fake, self.other, self.vault])
        self.runtime = Runtime(self.path, catalog=catalog, environ=self.environ, watch=False)
        self.events: list[Event] = []
        self.runtime.subscribe(self.events.append)

    def write(
        self, default: str | None = None, reload: dict[str, Any] | None = None, **providers: Any
    ) -> str:
        """A provider is its config, or, as a text, its type."""
        entries = {
            name: {"type": given} if isinstance(given, str) else {"type": "fake", "config": given}
            for name, given in providers.items()
        }
        defaults = {} if default is None else {"provider": default}
        return self.put({"version": 1, "defaults": defaults, "reload": reload or {}, "providers": entries})

    def put(self, document: object) -> str:
        text = document if isinstance(document, str) else json.dumps(document, indent=1)
        self.path.write_text(text, encoding="utf-8")
        return text

    def start(
        self, default: str | None = None, reload: dict[str, Any] | None = None, **providers: Any
    ) -> Runtime:
        self.write(default, reload, **providers)
        self.runtime.start()
        return self.runtime

    def serves(self) -> dict[str, Any]:
        return {n: dict(p.spec.config) for n, p in self.runtime.registry.snapshot().items()}

    @property
    def said(self) -> list[str]:
        return [event.event for event in self.events]


def refuse_connection(*_: object) -> None:
    """What the factory of a service does that is down."""
    raise ConnectionRefusedError(111, "Connection refused")
