"""The schema for editors: one file, valid, current, and of one mind with the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.editor import EDITOR_SCHEMA, editor_schema, render
from shadowcat_registry.errors import InvalidConfigError, ManifestError
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.parse import parse_document
from shadowcat_registry.schema_faults import check_schema
from shadowcat_registry.schema_files import schema_directory

from .fakes import Factory

VAULT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/vault.json",
    "title": "Config of a vault",
    "description": "A type with everything that a schema can have.",
    "type": "object",
    "properties": {
        "bucket": {"title": "Bucket", "description": "Where.", "type": "string", "pattern": "^[a-z]+$"},
        "region": {"enum": ["north", "south"], "default": "north", "description": "Which one."},
        "token": {"type": "string", "minLength": 12, "x-secret": True},
        "sync": {"type": "boolean", "default": False},
        "retries": {"$ref": "#/$defs/count"},
        "ratio": {"type": ["number", "null"], "exclusiveMaximum": 1},
        "level": {"type": "integer", "enum": [1, 3, 9]},
        "size": {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+[kM]$"}]},
        "limits": {"$ref": "#limits"},
        "servers": {"type": "array", "items": {"$ref": "#/$defs/server"}, "minItems": 1},
        "labels": {"propertyNames": {"$ref": "#/$defs/label"}, "additionalProperties": {"type": "string"}},
        "next": {"$ref": "#"},
    },
    "required": ["bucket", "region"],
    "dependentRequired": {"token": ["sync"], "labels": ["level"]},
    "if": {"properties": {"sync": {"const": True}}, "required": ["sync"]},
    "then": {"required": ["retries"]},
    "additionalProperties": False,
    "$defs": {
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "label": {"pattern": "^[a-z]+$"},
        "l": {
            "$anchor": "limits",
            "type": "object",
            "properties": {"bytes": {"$ref": "#/$defs/count"}, "tapes": {"type": "integer", "default": 1}},
            "required": ["bytes", "tapes"],
            "additionalProperties": False,
        },
        "server": {"type": "object", "properties": {"port": {"type": "integer"}}, "required": ["port"]},
    },
}


def catalog() -> Catalog:
    return Catalog([Factory("vault", schema=VAULT), Factory("free")])


def manifest(config: str, type_name: str = "vault", defaults: str = "{}") -> str:
    return f"version: 1\ndefaults: {{config: {defaults}}}\nproviders: {{p: {{type: {type_name}{config}}}}}\n"


def vault(config: str, defaults: str | None = None) -> str:
    return manifest(
        f", config: {{{config}}}", defaults="{}" if defaults is None else f"{{vault: {{{defaults}}}}}"
    )


GOOD = [
    "version: 1\nproviders: {a: {type: filesystem}}",
    "version: 1\nproviders: {a: {type: memory, display_name: A, config: {max_tapes: 1}}}",
    'version: 1\nproviders: {a: {type: memory, config: {max_tapes: "${env:N}"}}}',
    'version: 1\nproviders: {a: {type: memory, config: {max_tapes: "${env:N:-3}"}}}',
    manifest("", "free"),
    manifest(", config: {any: [thing]}", "free"),
    vault("bucket: b"),
    vault("bucket: '${env:B}'"),
    vault("bucket: 'b${env:B}'"),
    vault("bucket: b, region: '${env:R}'"),
    vault("bucket: b, token: '${env:T}', sync: false"),
    vault("bucket: b, sync: '${env:YES}', retries: 1"),
    vault("bucket: b, ratio: '${env:F}'"),
    vault("bucket: b, ratio: null"),
    vault("bucket: b, level: '${env:NINE}'"),
    vault("bucket: b, size: 3"),
    vault("bucket: b, size: '${env:M}'"),
    vault("bucket: b, limits: {bytes: '${env:N}'}"),
    vault("bucket: b, servers: [{port: '${env:N}'}]"),
    vault("bucket: b, labels: {x: y}, level: 1"),
    vault("bucket: b, token: long enough it is"),
    vault("bucket: b, next: {bucket: c, retries: '${env:N}'}"),
    vault("retries: 1", defaults="bucket: b"),
    vault("limits: {tapes: 3}", defaults="bucket: b, limits: {bytes: 3}"),
    manifest("", defaults="{vault: {bucket: b}}"),
    vault("sync: true", defaults="bucket: b, retries: 1"),
]

BAD = [
    "{}",
    "[]",
    "providers: {a: {type: memory}}",
    "version: 2\nproviders: {a: {type: memory}}",
    "version: 1\nproviders: {}",
    "version: 1\nproviders: {A: {type: memory}}",
    "version: 1\nproviders: {a: {}}",
    "version: 1\nproviders: {a: {type: memry}}",
    "version: 1\nproviders: {a: {type: memory, confg: {}}}",
    "version: 1\nproviders: {a: {type: memory, config: null}}",
    "version: 1\nproviders: {a: {type: memory, display_name: ''}}",
    "version: 1\nproviders: {a: {type: memory, config: {max_tapes: 0}}}",
    "version: 1\nproviders: {a: {type: memory, config: {max_tapes: '3'}}}",
    "version: 1\nproviders: {a: {type: memory, config: {max_tapes: 'x${env:N}'}}}",
    "version: 1\nproviders: {a: {type: memory, config: {directory: x}}}",
    "version: 1\nproviders: {a: {type: filesystem, config: {directory: ''}}}",
    "version: 1\nproviders: {a: {type: filesystem}}\ndefaults: {config: {filesytem: {}}}",
    "version: 1\nproviders: {a: {type: filesystem}}\ndefaults: {config: {filesystem: {directroy: x}}}",
    "version: 1\nproviders: {a: {type: filesystem}}\nextra: 1",
    manifest(""),
    vault(""),
    vault("region: north"),
    vault("bucket: B"),
    vault("bucket: b, region: west"),
    vault("bucket: b, token: short, sync: false"),
    vault("bucket: b, sync: 'true'"),
    vault("bucket: b, sync: true"),
    vault("bucket: b, retries: 10"),
    vault("bucket: b, retries: '3'"),
    vault("bucket: b, ratio: 1"),
    vault("bucket: b, level: 2"),
    vault("bucket: b, size: 3G"),
    vault("bucket: b, limits: {}"),
    vault("bucket: b, limits: {bytes: 1, x: 1}"),
    vault("bucket: b, servers: []"),
    vault("bucket: b, servers: [{}]"),
    vault("bucket: b, servers: '${env:X}'"),
    vault("bucket: b, labels: {X: y}, level: 1"),
    vault("bucket: b, labels: {x: y}"),
    vault("bucket: b, next: {}"),
    vault("retries: 10", defaults="bucket: b"),
    vault("x: 1", defaults="bucket: b"),
    vault("retries: 1", defaults="bucket: b, x: 1"),
]

ENVIRONMENT = {
    "B": "b", "R": "south", "T": "0123456789ab", "YES": "true", "F": "0.5", "NINE": "9", "M": "3M", "N": "5",
    "X": "x",
}  # fmt: skip


def editor_accepts(text: str) -> bool:
    schema = editor_schema(catalog())
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    return validator.is_valid(parse_document(text.encode(), "t").value)


def loader_accepts(text: str) -> bool:
    try:
        parse_manifest(text.encode(), Path("registry.yaml"), catalog(), ENVIRONMENT)
    except ManifestError as error:
        # A default that is not declared is nothing that a schema could say.
        return all(finding.code == "SC301" for finding in error.findings)
    return True


class TestVerdicts:
    @pytest.mark.parametrize("text", GOOD)
    def test_what_the_loader_accepts_the_editor_accepts(self, text: str) -> None:
        assert (loader_accepts(text), editor_accepts(text)) == (True, True)

    @pytest.mark.parametrize("text", BAD)
    def test_what_the_loader_refuses_the_editor_refuses(self, text: str) -> None:
        assert (loader_accepts(text), editor_accepts(text)) == (False, False)

    @pytest.mark.parametrize(
        "text",
        [
            # What a missing field would be is known only when both are laid over each other.
            vault("retries: 1", defaults="region: north"),
            # What a reference stands for is known only at run time.
            "version: 1\nproviders: {a: {type: memory, config: {max_tapes: '${env:UNSET}'}}}",
            "version: 1\nproviders: {a: {type: memory, config: {max_tapes: '${env:X}'}}}",
        ],
    )
    def test_what_no_schema_of_one_file_can_know_is_left_to_the_loader(self, text: str) -> None:
        assert (loader_accepts(text), editor_accepts(text)) == (False, True)


class TestSchema:
    @pytest.mark.parametrize("factories", [Catalog(), catalog()])
    def test_it_is_valid_and_in_one_piece(self, factories: Catalog) -> None:
        schema = editor_schema(factories)
        assert check_schema(schema) == ()  # every reference leads to a place inside it

    def test_the_shipped_one_is_current(self) -> None:
        text = (schema_directory() / EDITOR_SCHEMA).read_text(encoding="utf-8")
        assert text == render(editor_schema(Catalog())), (
            f"run: shadowcat-registry schema --editor -o schemas/{EDITOR_SCHEMA}"
        )

    def test_every_type_is_offered_and_explained(self) -> None:
        schema = editor_schema(catalog())
        choice = schema["$defs"]["provider"]["properties"]["type"]["anyOf"][0]
        assert choice["enum"] == ["filesystem", "free", "memory", "sqlite", "vault"]
        assert len(choice["markdownEnumDescriptions"]) == 5
        assert "does as it is told" in choice["markdownEnumDescriptions"][1]
        assert schema["properties"]["defaults"]["properties"]["config"]["properties"].keys() == {
            *choice["enum"]
        }

    def test_a_default_is_said_with_the_description(self) -> None:
        fields = editor_schema(catalog())["$defs"]["config.vault"]["properties"]
        assert fields["region"]["markdownDescription"] == 'Which one.\n\nDefault: `"north"`'
        assert fields["bucket"]["markdownDescription"] == "Where."

    def test_a_type_whose_schema_is_broken_is_named(self) -> None:
        with pytest.raises(InvalidConfigError, match=r"'bad'.*did you mean `required`"):
            editor_schema(Catalog([Factory("bad", schema={"requierd": []})]))

    def test_nothing_of_a_type_is_changed(self) -> None:
        before = json.dumps(VAULT)
        editor_schema(catalog())
        assert json.dumps(VAULT) == before
