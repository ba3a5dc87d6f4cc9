"""Finds the JSON Schemas that ship with the package: in a wheel beside the code, in a checkout and
an editable install beside the package. Knows where they are, not what they say.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_MANIFEST = "registry.schema.json"


@cache
def schema_directory() -> Path:
    """The directory that holds `registry.schema.json` and `providers/`.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for directory in (package / "schemas", package.parent / "schemas"):
        if (directory / _MANIFEST).is_file():
            return directory
    raise FileNotFoundError(
        f"{_MANIFEST} is missing from this installation: install shadowcat-registry again"
    )


@cache
def _read(name: str) -> str:
    return (schema_directory() / name).read_text(encoding="utf-8")


def starter_manifest() -> str:
    """The text of the commented `registry.yaml` that ships with the package."""
    # Beside the folder of the schemas: in a wheel inside of the package, in a checkout at the top.
    return (schema_directory().parent / "registry.yaml").read_text(encoding="utf-8")


def manifest_schema() -> dict[str, Any]:
    """A copy of the schema of `registry.yaml`."""
    schema: dict[str, Any] = json.loads(_read(_MANIFEST))
    return schema


def fragment_schema() -> dict[str, Any]:
    """The schema of an included file: that of `registry.yaml` without what there is one of for all files,
    nothing but its version required."""
    schema = manifest_schema()
    for field in ("defaults", "plugins", "reload"):
        del schema["properties"][field]
    del schema["if"], schema["else"]
    return schema


def provider_schema(type_name: str) -> dict[str, Any]:
    """A copy of the config schema of a built-in provider type.

    Raises:
        FileNotFoundError: the type is none of the built-in ones.
    """
    schema: dict[str, Any] = json.loads(_read(f"providers/{type_name}.schema.json"))
    return schema
