"""Plugins as the tests write them: the text of one, and its verified source as if it had been read."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

from shadowcat_registry.plugins.records import VerifiedSource

PLUGINS = Path("/opt/shadowcat/plugins")
"""Where they are said to have stood. There is nothing."""

GLACIER = '''
"""A storage on ice."""

import logging

from shadowcat_registry.providers.memory import MemoryBackend


class Glacier:
    name = "glacier"
    display_name = "Glacier"
    version = "1.2.0"
    description = "On ice"
    capabilities = frozenset()

    def config_schema(self):
        return {"type": "object", "properties": {"depth": {"type": "integer", "default": 3}}}

    def validate_config(self, config):
        if config["depth"] > 11:
            raise ValueError("depth: there is no ice so deep")

    def create(self, config, context):
        return MemoryBackend(context.logger, max_bytes=1 << 20, max_tapes=100)


PROVIDERS = (Glacier(),)
'''


def file(text: str, name: str = "glacier", directory: Path = PLUGINS) -> VerifiedSource:
    """A plugin of one file."""
    content = dedent(text).encode()
    path = directory / f"{name}.py"
    return VerifiedSource(name, path, False, {path.name: content}, sha256(content).hexdigest(), "ownership")


def package(files: Mapping[str, str], name: str = "arctic", directory: Path = PLUGINS) -> VerifiedSource:
    contents = {path: dedent(text).encode() for path, text in files.items()}
    lines = (f"{sha256(contents[path]).hexdigest()}  {path}\n" for path in sorted(contents))
    digest = sha256("".join(lines).encode()).hexdigest()
    return VerifiedSource(name, directory / name, True, contents, digest, "ownership")


def factory(*more: str, name: str = "glacier", export: str = "(Glacier,)") -> str:
    """The text of a plugin with one factory; `more` are lines of its class, which replace what is there."""
    lines = {
        "name": f"name = {name!r}",
        "display_name": "display_name = 'Glacier'",
        "version": "version = '1.2.0'",
        "description": "description = 'On ice'",
        "capabilities": "capabilities = frozenset()",
        "config_schema": "def config_schema(self): return None",
        "validate_config": "def validate_config(self, config): pass",
        "create": "def create(self, config, context): raise NotImplementedError",
    }
    for line in more:
        lines[line.removeprefix("@property ").removeprefix("def ").split(" ")[0].split("(")[0]] = line
    body = "\n".join(
        f"    {part.strip()}"
        for line in lines.values()
        if not line.endswith("= ...")
        for part in line.replace("@property ", "@property\n").split("\n")
    )
    return f"class Glacier:\n{body}\n\nPROVIDERS = {export}\n"
