"""The README's reference of the manifest, made of the schemas.

`python -m tests.reference` at the top of a checkout writes it; a test says when that is due. It is here
and no command, as nobody but whoever edits a schema needs it: everybody else has the README itself, and
`schema`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shadowcat_registry.catalog import BUILTIN_TYPES
from shadowcat_registry.schema_files import manifest_schema, provider_schema

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- reference: made of schemas/ by `python -m tests.reference` -->"
END = "<!-- reference: end -->"

_KINDS = {"string": "text", "boolean": "true or false", "object": "mapping"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference() -> str:
    """Tables of all fields: of the manifest, and of the config of each built-in type."""
    schema = manifest_schema()
    lines = _table("A manifest", schema, schema)
    for name in sorted(BUILTIN_TYPES):
        own = provider_schema(name)
        lines += _table(f"`config` of type `{name}`", own, own)
    return "\n".join(lines).rstrip("\n") + "\n"


def with_reference(text: str) -> str:
    """The README with the reference as it should be between its two markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _table(title: str, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    lines = [f"**{title}.** {schema['description']}", ""]
    lines += ["| field | value | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
    for path, part, is_required in _fields(schema, root, ""):
        default = "required" if is_required else _code(part["default"]) if "default" in part else "–"
        examples = ", ".join(_code(example) for example in part["examples"])
        cells = (f"`{path}`", _value(part), default, part["description"], examples)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _fields(
    schema: dict[str, Any], root: dict[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Each field below `schema` with its path, the outer ones first."""
    children = [
        (name, part, name in schema.get("required", ()))
        for name, part in schema.get("properties", {}).items()
    ]
    if isinstance(free := schema.get("additionalProperties"), dict):
        children.append(("<name>", free, False))
    for name, child, is_required in children:
        part = _followed(child, root)
        path = f"{prefix}{name}"
        yield path, part, is_required
        yield from _fields(part, root, f"{path}.")
        if (items := _followed(part.get("items", {}), root)).get("type") == "object":
            yield from _fields(items, root, f"{path}[].")


def _followed(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["$defs"][part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else part
    return found


def _value(part: dict[str, Any]) -> str:
    if "const" in part:
        return _code(part["const"])
    if "enum" in part:
        return " or ".join(map(_code, part["enum"]))
    if part["type"] == "array":
        return f"list of {_value(part['items'])}s" if "type" in part["items"] else "list of mappings"
    if isinstance(part["type"], list):
        kinds: list[str] = part["type"]
        return " or ".join(_KINDS.get(kind, kind) for kind in kinds)
    bounds = [f"{sign} {part[keyword]:,}" for keyword, sign in _BOUNDS.items() if keyword in part]
    return " ".join([_KINDS.get(part["type"], part["type"]), *bounds])


def _code(value: object) -> str:
    """As it may be written in YAML."""
    text = json.dumps(value, ensure_ascii=False)
    return f"`{value if isinstance(value, str) and value else text}`"


if __name__ == "__main__":
    text = with_reference(README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8", newline="\n")
