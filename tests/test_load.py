"""A path → a manifest, or every finding at once, with its place, and never a secret."""

# ruff: noqa: E501 - one case a line reads better than seven lines a case
from __future__ import annotations

import io
import json
import logging
import os
import pickle
import random
import re
import stat
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry import candidate, interpolate
from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import InvalidConfigError, ManifestError, ManifestNotFoundError
from shadowcat_registry.load import load_manifest, parse_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.metadata import Config, HealthPolicy, ProviderCapability
from shadowcat_registry.parse import MAX_BYTES, MAX_FINDINGS
from shadowcat_registry.sight import read_settled

VAULT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "x-path": True, "default": "./vault"},
        "token": {"type": "string", "x-secret": True, "maxLength": 40},
        "tokens": {"type": "array", "items": {"type": "string", "x-secret": True, "maxLength": 40}},
        "url": {"type": "string", "x-secret": True},
        "retries": {"type": "integer", "default": 3, "minimum": 0},
        "on": {"type": "boolean"},
        "options": {"type": "object", "properties": {"deep": {"type": "integer", "default": 1}}},
        "labels": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["token"],
    "additionalProperties": False,
}


class VaultFactory:
    """A type with everything that a schema can have; nothing of it is ever created."""

    name = "vault"
    display_name = "Vault"
    version = "1.0"
    description = "For a test"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def __init__(
        self, schema: Mapping[str, Any] | None = VAULT_SCHEMA, refusal: Exception | None = None
    ) -> None:
        self.schema, self.refusal = schema, refusal

    def config_schema(self) -> Mapping[str, Any] | None:
        return self.schema

    def validate_config(self, config: Config) -> None:
        if self.refusal is not None:
            raise self.refusal

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        raise AssertionError("loading a manifest creates nothing")


PATH = Path("r.yaml")


def parse(text: str, environ: Mapping[str, str] | None = None, catalog: Catalog | None = None) -> Manifest:
    return parse_manifest(text.encode(), PATH, catalog or Catalog([VaultFactory()]), environ or {})


def lines(text: str, environ: Mapping[str, str] | None = None, catalog: Catalog | None = None) -> list[str]:
    """Every finding as `code line:column`."""
    with pytest.raises(ManifestError) as caught:
        parse(text, environ, catalog)
    return [f"{it.code} {it.mark.line}:{it.mark.column}" for it in caught.value.findings]


def provider(config: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The complete config of one vault."""
    text = f"version: 1\nproviders:\n  v: {{type: vault, config: {config}}}\n"
    return dict(parse(text, environ).providers["v"].config)


class TestAGoodManifest:
    TEXT = """\
version: 1
defaults:
  provider: b
  config:
    vault: {token: shared, options: {x: 1}, labels: [a, b]}
providers:
  b:
    type: vault
    display_name: The vault
    config: {labels: [c], options: {y: 2}, path: ./mine}
  a: {type: memory}
"""

    def test_everything_is_in_it(self) -> None:
        manifest = parse(self.TEXT)
        assert manifest.path == Path("r.yaml").absolute()
        assert list(manifest.providers) == ["b", "a"]
        assert manifest.default == "b"
        assert manifest.files == (manifest.path,)
        assert manifest.warnings == ()
        assert {name: str(mark) for name, mark in manifest.provider_marks.items()} == {
            "b": "r.yaml:7:3",
            "a": "r.yaml:11:3",
        }
        assert manifest.providers["b"].display_name == "The vault"
        assert manifest.providers["a"].display_name is None

    def test_a_config_is_complete(self) -> None:
        assert parse(self.TEXT).providers["b"].config == {
            "token": "shared",
            "options": {"x": 1, "y": 2, "deep": 1},
            "labels": ["c"],
            "path": str(Path("mine").absolute()),
            "retries": 3,
        }

    def test_there_may_be_no_default(self) -> None:
        assert parse("version: 1\nproviders: {a: {type: memory}}").default is None

    def test_a_type_without_a_schema_takes_any_config(self) -> None:
        catalog = Catalog([VaultFactory(schema=None)])
        text = "version: 1\nproviders: {a: {type: vault, config: {x: {y: '${env:E}'}}}}"
        assert parse(text, {"E": "5"}, catalog).providers["a"].config == {"x": {"y": "5"}}

    def test_configs_of_providers_share_nothing(self) -> None:
        text = "version: 1\ndefaults: {config: {vault: {token: t, labels: [x]}}}\n"
        text += "providers:\n  a: {type: vault}\n  b: {type: vault}\n  c: &c {type: vault, config: {options: {}}}\n  d: *c\n"
        manifest = parse(text)
        manifest.providers["a"].config["labels"].append("y")
        manifest.providers["c"].config["options"]["z"] = 1
        assert manifest.providers["b"].config["labels"] == ["x"]
        assert "z" not in manifest.providers["d"].config["options"]

    def test_the_shipped_one_is_valid(self) -> None:
        path = Path(__file__).parent.parent / "registry.yaml"
        if not path.is_file():
            pytest.skip("the tests run outside of a checkout")
        manifest = load_manifest(path, Catalog(), environ={})
        assert manifest.default == "filesystem"
        assert manifest.providers["filesystem"].config["directory"] == str(path.parent / "tapes")
        assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schemas/")


class TestFindings:
    def test_all_come_at_once_sorted_by_place(self) -> None:
        text = """\
version: 2
defalts: {}
defaults:
  provider: filesytem
  config:
    memory: {max_tapes: 0}
    foo: {}
providers:
  filesystem:
    typ: filesystem
  b:
    type: memory
    config: {max_byte: 3, max_bytes: no}
  c: {type: s3}
  d: {type: memroy}
  e:
    type: filesystem
    config:
      directory: ${env:X}
  F: {type: filesystem, config: {directory: "${file:nope}"}}
  g: {type: filesystem, config: }
  h: {type: filesystem, config: {directory: "${foo}"}}
  i: {type: memory, config: {max_tapes: "${env:A:-x}"}}
  j: 5
  k: {type: filesystem, config: {directory: 7}}
"""
        assert lines(text) == [
            "SC204 1:10", "SC201 2:1", "SC301 4:13", "SC205 6:25", "SC304 7:5", "SC201 10:5", "SC201 13:14",
            "SC203 13:38", "SC303 14:13", "SC302 15:13", "SC401 19:18", "SC208 20:3", "SC405 20:45", "SC203 21:25",
            "SC402 22:45", "SC203 23:41", "SC203 24:6", "SC203 25:45",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", ["SC103 1:1"]),
            ("version: 1\n", ["SC202 1:1"]),
            ("version: 1\nproviders: {}\n", ["SC206 2:12"]),
            ("version: 1\nproviders:\n", ["SC203 2:1"]),
            ("providers: {a: {type: memory}}\n", ["SC202 1:1"]),
            ("[]", ["SC203 1:1"]),
            ("text", ["SC203 1:1"]),
            ("null", ["SC203 1:1"]),
            ("version: '1'\nproviders: {a: {type: memory}}", ["SC203 1:10", "SC204 1:10"]),
            ("version: 1\nproviders: [a]", ["SC203 2:12"]),
            ("version: 1\nproviders: {a: {}}", ["SC202 2:13"]),
            ("version: 1\nproviders: {a: {type: }}", ["SC203 2:17"]),
            ("version: 1\nproviders: {a: {type: ''}}", ["SC206 2:23"]),
            ("version: 1\nproviders: {a: {type: [memory]}}", ["SC203 2:23"]),
            ("version: 1\nproviders: {a: {type: memory, required: [b]}}", ["SC201 2:31"]),
            ("version: 1\nproviders: {a: {type: memory, requires: [b]}}", ["SC313 2:42"]),
            ("version: 1\nproviders: {a: {type: memory, requires: b}}", ["SC203 2:41"]),
            ("version: 1\nproviders: {a: {type: memory, requires: [a]}}", ["SC312 2:42"]),
            ("version: 1\nproviders: {a: {type: memory, requires: ['${env:B}']}}", ["SC404 2:42"]),
            ("version: 1\nproviders: {a: {type: memory, version: one}}", ["SC207 2:40"]),
            ("version: 1\nproviders: {a: {type: memory, version: '>=2'}}", ["SC314 2:40"]),
            ("version: 1\nproviders: {a: {type: memory, version: '${env:V}'}}", ["SC404 2:40"]),
            ("version: 1\nproviders: {a: {type: memory, protect: 1}}", ["SC203 2:40"]),
            ("version: 1\nproviders: {a: {type: memory}}\nreload: {on_removal_in_use: wait}", ["SC204 3:29"]),
            ("version: 1\nproviders: {a: {type: memory}}\nreload: {step_timeout_seconds: 0}", ["SC205 3:32"]),
            ("version: 1\nproviders: {a: {type: memory, display_name: ''}}", ["SC206 2:45"]),
            ("version: 1\ndefaults: {provider: 5}\nproviders: {a: {type: memory}}", ["SC203 2:22"]),
            ("version: 1\ndefaults: {config: {memory: 5}}\nproviders: {a: {type: memory}}", ["SC203 2:29"]),
            ("version: 1\ndefaults: {config: {memroy: {}}}\nproviders: {a: {type: memory}}", ["SC304 2:21"]),
            ("version: 1\ndefaults: {config: {s3: {}}}\nproviders: {a: {type: memory}}", ["SC303 2:21"]),
            ("version: 1\nproviders: {a: {type: '${env:T}'}}", ["SC404 2:23"]),
            ("version: 1\nproviders: {a: {type: memory, display_name: '${env:T}'}}", ["SC404 2:45"]),
            ("version: 1\ndefaults: {provider: '${env:T}'}\nproviders: {a: {type: memory}}", ["SC404 2:22"]),
            ("version: 1\nproviders: {'${env:T}': {type: memory}}", ["SC208 2:13", "SC404 2:13"]),
            ("version: 1\nproviders: {a: {type: vault, config: {token: t, '${env:T}': x}}}", ["SC201 2:49", "SC404 2:49"]),
            ("version: 1\nproviders: {a: {type: vault, config: {path: p}}}", ["SC202 2:30"]),
            ("version: 1\nproviders: {a: {type: vault}}", ["SC202 2:13"]),
            ("version: 1\nproviders: {a: {type: vault, config: {toke: t}}}", ["SC201 2:39"]),
            ('version: 1\nproviders: {a: {type: vault, config: {token: "${env:T}"}}}', ["SC401 2:46"]),
            ("version: 1\nproviders: {a: {type: vault, config: {token: t, on: off}}}", ["SC203 2:53"]),
        ],
    )  # fmt: skip
    def test_each_has_its_exact_place(self, text: str, expected: list[str]) -> None:
        assert lines(text) == expected

    def test_no_providers_never_means_that_all_are_to_go(self) -> None:
        for text in ("version: 1", "version: 1\nproviders: {}"):
            with pytest.raises(ManifestError, match="never means that all are to go"):
                parse(text)

    def test_an_undeclared_default_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ManifestError, match="did you mean `archive`"):
            parse("version: 1\ndefaults: {provider: archiv}\nproviders: {archive: {type: memory}}")

    def test_a_planned_type_says_so_honestly(self) -> None:
        with pytest.raises(ManifestError, match="is planned, this version does not have it yet"):
            parse("version: 1\nproviders: {a: {type: s3}}")

    def test_a_fault_in_the_defaults_is_found_there_once(self) -> None:
        text = "version: 1\ndefaults: {config: {memory: {max_tapes: 0}}}\nproviders: {a: {type: memory}, b: {type: memory}}"
        assert lines(text) == ["SC205 2:41"]

    def test_a_default_that_every_provider_replaces_is_not_resolved(self) -> None:
        text = "version: 1\ndefaults: {config: {vault: {token: '${env:NOT}'}}}\nproviders: {a: {type: vault, config: {token: t}}}"
        assert parse(text).providers["a"].config["token"] == "t"

    def test_a_default_that_nobody_uses_is_a_warning(self) -> None:
        text = "version: 1\ndefaults: {config: {vault: {token: t}}}\nproviders: {a: {type: memory}}"
        (warning,) = parse(text).warnings
        assert (warning.code, warning.severity, str(warning.mark)) == ("SC305", "warning", "r.yaml:2:21")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("version: 1\ndefaults: {config: {vault: {}}}\nproviders: {a: {type: memory, config: {max_tapes: 0}}}",
             ["warning SC305 2:21", "error SC205 3:51"]),
            ("version: 1\nproviders: {a: {type: filesystem, config: {directory: ../x, max_tapes: 0}}}",
             ["warning SC311 2:55", "error SC201 2:61"]),
            # Each of these would only follow from the error.
            ("version: 1\ndefaults: {config: {vault: {}}}\nproviders: {a: {type: vualt}}", ["error SC302 3:23"]),
            ("version: 1\ndefaults: {config: {vault: {}}}\nproviders: {a: {tpye: vault}}", ["error SC201 3:17"]),
            ("version: 1\ndefaults: {config: {vault: {}}}\nproviders: {a: {type: memory}, b: [vault]}", ["error SC203 3:35"]),
            ("version: 1\ndefaults: {config: {vault: {}}}\ninclude: [not_there.yaml]\nproviders: {a: {type: memory}}",
             ["error SC117 3:11"]),
        ],
    )  # fmt: skip
    def test_warnings_come_along(self, text: str, expected: list[str]) -> None:
        with pytest.raises(ManifestError) as caught:
            parse(text)
        found = caught.value.findings
        assert [f"{it.severity} {it.code} {it.mark.line}:{it.mark.column}" for it in found] == expected

    def test_a_secret_that_all_may_read_is_said_beside_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_text("version: 1\nproviders: {v: {type: vault, config: {token: t, retries: -1}}}")
        path.chmod(0o644)
        with pytest.raises(ManifestError) as caught:
            load_manifest(path, Catalog([VaultFactory()]))
        assert [it.code for it in caught.value.findings] == [*["SC406"] * (os.name == "posix"), "SC205"]

    def test_warnings_never_push_out_an_error(self) -> None:
        many = "".join(f"  p{i:02}: {{type: filesystem, config: {{directory: ../{i}}}}}\n" for i in range(70))
        text = f"version: 1\nproviders:\n{many}  last: {{type: nope}}\n"
        with pytest.raises(ManifestError) as caught:
            parse(text)
        *shown, more = caught.value.findings
        assert len(shown) == MAX_FINDINGS
        assert [it.code for it in shown] == ["SC311"] * (MAX_FINDINGS - 1) + ["SC302"]
        assert (more.message, more.severity) == ("and 21 more findings", "warning")
        warnings = parse(text.replace("nope", "memory")).warnings
        assert (len(warnings), warnings[-1].severity) == (MAX_FINDINGS + 1, "warning")

    def test_there_are_not_more_than_somebody_reads(self) -> None:
        text = "version: 1\nproviders:\n" + "".join(f"  p{i}: {{type: nope}}\n" for i in range(70))
        with pytest.raises(ManifestError) as caught:
            parse(text)
        assert len(caught.value.findings) == MAX_FINDINGS + 1
        assert caught.value.findings[-1].message == "and 20 more findings"

    def test_a_fault_in_a_shared_anchor_is_one_finding(self) -> None:
        text = "version: 1\nproviders:\n  a: &a {type: memory, config: {max_tapes: 0}}\n  b: *a\n"
        assert lines(text) == ["SC205 3:44"]


class TestFactories:
    TEXT = "version: 1\nproviders: {v: {type: vault, config: {token: canary1234}}}"

    def test_what_a_type_refuses_is_a_finding_without_the_secret(self) -> None:
        catalog = Catalog([VaultFactory(refusal=ValueError("the token 'canary1234' is too weak"))])
        with pytest.raises(ManifestError) as caught:
            parse(self.TEXT, catalog=catalog)
        (finding,) = caught.value.findings
        assert (finding.code, finding.message) == ("SC210", "the token '***' is too weak")

    def test_each_problem_of_a_type_is_a_finding(self) -> None:
        catalog = Catalog([VaultFactory(refusal=InvalidConfigError("v", ["first", "second"]))])
        assert lines(self.TEXT, catalog=catalog) == ["SC210 2:38", "SC210 2:38"]

    def test_a_check_that_crashes_is_named_by_its_type_only(self) -> None:
        catalog = Catalog([VaultFactory(refusal=RuntimeError("canary1234"))])
        with pytest.raises(ManifestError, match=r"SC502.*RuntimeError") as caught:
            parse(self.TEXT, catalog=catalog)
        assert "canary" not in str(caught.value)

    def test_a_type_is_not_asked_about_what_its_schema_refuses(self) -> None:
        catalog = Catalog([VaultFactory(refusal=ValueError("not to be seen"))])
        assert lines("version: 1\nproviders: {v: {type: vault}}", catalog=catalog) == ["SC202 2:13"]

    def test_a_broken_schema_is_the_fault_of_its_type(self) -> None:
        catalog = Catalog([VaultFactory(schema={"requierd": ["a"]})])
        with pytest.raises(ManifestError, match=r"SC501.*did you mean `required`"):
            parse(self.TEXT, catalog=catalog)

    def test_nothing_of_a_provider_is_opened_created_or_imported(self, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text("version: 1\nproviders: {f: {type: filesystem}, m: {type: memory}}")
        script = (
            "import sys; from pathlib import Path\n"
            "from shadowcat_registry.load import load_manifest\n"
            "from shadowcat_registry.catalog import Catalog\n"
            "print(list(load_manifest(Path('r.yaml'), Catalog()).providers))\n"
            "print([m for m in ('watchdog', 'asyncio', 'shadowcat_registry.registry') if m in sys.modules])\n"
        )
        environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, env=environ, timeout=50
        )
        assert done.stdout.split(b"\n")[:2] == [b"['f', 'm']", b"[]"], done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


class TestBudgets:
    """What is short to write and long to check is refused before it is checked."""

    def test_as_many_providers_as_nobody_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(candidate, "MAX_PROVIDERS", 3)
        names = "".join(f"  p{i}: {{type: memory}}\n" for i in range(3))
        assert len(parse(f"version: 1\nproviders:\n{names}").providers) == 3
        assert lines(f"version: 1\nproviders:\n{names}  q: {{}}\n  r: []\n") == ["SC610 6:3"]

    def test_defaults_for_as_many_types(self) -> None:
        types = "".join(f"t{i}: {{}}, " for i in range(candidate.MAX_DEFAULT_CONFIGS + 1))
        text = f"version: 1\ndefaults: {{config: {{{types}}}}}\nproviders: {{a: {{type: memory}}}}"
        assert lines(text) == ["SC610 2:12"]

    @pytest.mark.parametrize(
        "default",
        [
            "[" + "1," * 5_000 + "]",
            f"'{'x' * 200_000}'",
            "{" + "".join(f"{'y' * 990}{i}: 1," for i in range(200)) + "}",
        ],
    )
    def test_defaults_count_in_each_provider_that_they_are_merged_into(self, default: str) -> None:
        text = f"version: 1\ndefaults: {{config: {{memory: {{x: {default}}}}}}}\nproviders:\n"
        few = "".join(f"  p{i}: {{type: memory}}\n" for i in range(2))
        many = "".join(f"  p{i}: {{type: memory}}\n" for i in range(100))
        assert lines(text + few) == ["SC201 2:30"]
        assert lines(text + many) == ["SC611 2:21"]

    def test_what_references_give_counts_together(self, tmp_path: Path) -> None:
        (tmp_path / "long").write_text("x" * 60_000)
        path = tmp_path / "r.yaml"
        whole = "${file:long}" * 200
        path.write_text(
            f"version: 1\nproviders: {{a: {{type: filesystem, config: {{directory: '{whole}'}}}}}}"
        )
        assert len(load_manifest(path, Catalog()).providers["a"].config["directory"]) > 200 * 60_000
        second = f"b: {{type: filesystem, config: {{directory: 'b{whole}'}}}}"
        path.write_text(path.read_text()[:-1] + f", {second}}}")
        with pytest.raises(ManifestError) as caught:
            load_manifest(path, Catalog())
        assert [it.code for it in caught.value.findings] == ["SC407"]

    def test_a_file_is_read_once_for_all_that_refer_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []
        real = read_settled

        def counted(path: Path, *, limit_bytes: int) -> bytes:
            read.append(path)
            return real(path, limit_bytes=limit_bytes)

        monkeypatch.setattr(interpolate, "read_settled", counted)
        (tmp_path / "dir").write_text("tapes")
        path = tmp_path / "r.yaml"
        config = "{directory: '${file:dir}/NAME'}"
        entries = "".join(
            f"  {name}: {{type: filesystem, config: {config.replace('NAME', name)}}}\n" for name in "abc"
        )
        path.write_text(f"version: 1\nproviders:\n{entries}")
        assert len(load_manifest(path, Catalog()).providers) == 3
        assert read == [tmp_path / "dir"]

    def test_findings_stop_being_looked_for(self) -> None:
        unknown = "".join(f"k{i}: 1, " for i in range(3_000))
        text = f"version: 1\nproviders: {{a: {{type: memory, config: {{{unknown}}}}}}}"
        with pytest.raises(ManifestError) as caught:
            parse(text)
        assert caught.value.findings[-1].message == "and at least 950 more findings"
        wrong = "".join(f"  p{i}: {{type: nope}}\n" for i in range(1_500))
        with pytest.raises(ManifestError) as caught:
            parse(f"version: 1\nproviders:\n{wrong}")
        assert caught.value.findings[-1].message == "and at least 950 more findings"

    def test_a_valid_manifest_may_have_any_number_of_warnings(self) -> None:
        many = "".join(f"  p{i}: {{type: filesystem, config: {{directory: ../{i}}}}}\n" for i in range(1_100))
        loaded = parse(f"version: 1\nproviders:\n{many}")
        assert len(loaded.providers) == 1_100
        assert loaded.warnings[-1].message == "and at least 950 more findings"


class TestRobustness:
    def test_the_work_does_not_grow_with_the_square_of_what_is_wrong(self) -> None:
        # Each of 4,000 providers is wrong in two places, far apart. With a search from the start of the
        # file for each, this takes minutes; pytest-timeout ends it.
        text = "version: 1\ndefaults: {config: {memory: {max_tapes: 0}}}\nproviders:\n"
        text += "".join(f"  p{i}: {{type: memory, config: {{max_bytes: {i % 9}}}}}\n" for i in range(4_000))
        assert len(lines(text)) == MAX_FINDINGS + 1

    @pytest.mark.parametrize("text", ["ok", "{deep: nothing}"], ids=["right", "wrong"])
    @pytest.mark.parametrize("is_fast", [True, False])
    def test_a_thread_with_a_small_stack_validates_the_deepest_config(self, text: str, is_fast: bool) -> None:
        # In a process of its own: an overflow would end this one.
        script = """
import sys, threading
from pathlib import Path
from shadowcat_registry import accelerate
from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import ManifestError
from shadowcat_registry.load import parse_manifest
class Deep:
    name, display_name, version, description, capabilities = "deep", "Deep", "1", "", frozenset()
    def config_schema(self):
        node = {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"},
                "properties": {"a": {"allOf": [{"$ref": "#/$defs/n"}]}}, "propertyNames": {"maxLength": 1}}]}
        return {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": node}}
    def validate_config(self, config): pass
    def create(self, config, context): pass
if sys.argv[2] == "False":
    accelerate._library = lambda: None
data = b"version: 1\\nproviders: {d: {type: deep, config: " + b"{a: " * 58 + sys.argv[1].encode() + b"}" * 60
def run():
    try: parse_manifest(data, Path("m"), Catalog([Deep()]), {})
    except ManifestError as error: print(error.findings[0].code)
    print("survived")
threading.stack_size(256 * 1024)
thread = threading.Thread(target=run); thread.start(); thread.join()
"""
        command = [sys.executable, "-c", script, text, str(is_fast)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
        assert done.returncode == 0, done.stderr[-500:]
        assert done.stdout.split() in (["survived"], ["SC208", "survived"]), done.stderr[-2000:]
        assert (len(done.stdout.split()) == 1) == (text == "ok")

    def test_any_shape_of_manifest_gives_a_manifest_or_findings(self) -> None:
        chance = random.Random(20261122)
        atoms = [
            "1",
            "vault",
            "memory",
            "sqlite",
            "x",
            "no",
            "",
            "'${env:E}'",
            "'${'",
            "[x]",
            "{}",
            "{x: 1}",
            "[]",
            "1.5",
        ]
        keys = [
            "version",
            "defaults",
            "providers",
            "provider",
            "config",
            "type",
            "display_name",
            "vault",
            "memory",
            "token",
        ]
        keys += ["tokens", "retries", "options", "path", "a", "'${env:E}'", "max_tapes"]

        def value(depth: int) -> str:
            if depth == 0 or chance.random() < 0.2:
                return chance.choice(atoms)
            if chance.random() < 0.1:
                return f"[{value(depth - 1)}, {value(depth - 1)}]"
            some = chance.sample(keys, chance.randint(0, 4))
            return "{" + ", ".join(f"{key}: {value(depth - 1)}" for key in some) + "}"

        for _ in range(400):
            text = f"version: 1\ndefaults: {value(3)}\nproviders: {{a: {value(3)}, v: {{type: vault, config: {value(2)}}}}}"
            try:
                parse(text, {"E": "e"})
            except ManifestError as error:
                assert error.findings  # noqa: PT017 - either outcome is right


class TestReferences:
    def test_they_are_resolved_and_converted(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("from-file\n")
        path = tmp_path / "r.yaml"
        path.write_text(
            "version: 1\nproviders:\n  v:\n    type: vault\n    config:\n"
            "      token: ${file:secret}\n      retries: ${env:N}\n      on: ${env:ON:-true}\n      path: ${env:P:-x}/y\n"
        )
        manifest = load_manifest(path, Catalog([VaultFactory()]), environ={"N": "7"})
        assert manifest.providers["v"].config == {
            "token": "from-file", "retries": 7, "on": True, "path": str(tmp_path / "x" / "y"),
        }  # fmt: skip
        assert manifest.files == (path, tmp_path / "secret")

    def test_the_environment_is_that_of_the_process(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SHADOWCAT_TEST_TOKEN", "abc")
        path = tmp_path / "r.yaml"
        path.write_text(
            "version: 1\nproviders: {v: {type: vault, config: {token: '${env:SHADOWCAT_TEST_TOKEN}'}}}"
        )
        assert load_manifest(path, Catalog([VaultFactory()])).providers["v"].config["token"] == "abc"

    def test_what_an_unset_one_would_break_is_not_said_too(self) -> None:
        text = "version: 1\nproviders: {v: {type: vault, config: {token: t, retries: '${env:R}'}}}"
        assert lines(text) == ["SC401 2:58"]

    def test_what_a_reference_gives_is_checked(self) -> None:
        text = "version: 1\nproviders: {v: {type: vault, config: {token: t, retries: '${env:R}'}}}"
        assert lines(text, {"R": "-1"}) == ["SC205 2:58"]
        with pytest.raises(ManifestError, match="what the reference gives does not read as one"):
            parse(text, {"R": "no"})


class TestTheFile:
    def test_a_missing_one_is_its_own_error(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestNotFoundError, match="there is no such file"):
            load_manifest(tmp_path / "r.yaml", Catalog())

    def test_a_directory_is_none(self, tmp_path: Path) -> None:
        # Windows does not even open one, and calls that a matter of permission.
        with pytest.raises(ManifestNotFoundError, match=r"directory|[Pp]ermission"):
            load_manifest(tmp_path, Catalog())

    def test_a_path_below_a_file_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        with pytest.raises(ManifestNotFoundError):
            load_manifest(tmp_path / "f" / "r.yaml", Catalog())

    def test_a_path_with_a_nul_is_none(self) -> None:
        with pytest.raises(ManifestNotFoundError):
            load_manifest(Path("a\0b"), Catalog())

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_one_that_may_not_be_read_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.touch(mode=0)
        with pytest.raises(ManifestNotFoundError, match="Permission denied"):
            load_manifest(path, Catalog())

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "r.yaml")
        with pytest.raises(ManifestNotFoundError, match="not a regular file"):
            load_manifest(tmp_path / "r.yaml", Catalog())

    def test_a_large_one_is_a_finding(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 10)
        with pytest.raises(ManifestError, match="SC601"):
            load_manifest(path, Catalog())

    def test_places_name_the_file_as_it_was_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("r.yaml").write_text("version: 1")
        with pytest.raises(ManifestError) as caught:
            load_manifest(Path("r.yaml"), Catalog())
        assert str(caught.value).startswith("r.yaml:1:1: ")

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
    def test_paths_are_relative_to_the_name_not_to_what_it_links_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "r.yaml").write_text("version: 1\nproviders: {f: {type: filesystem}}")
        (tmp_path / "r.yaml").symlink_to(tmp_path / "real" / "r.yaml")
        manifest = load_manifest(tmp_path / "r.yaml", Catalog())
        assert manifest.providers["f"].config["directory"] == str(tmp_path / "tapes")
        assert stat.S_ISLNK(manifest.path.lstat().st_mode)


class TestDigest:
    def test_it_is_that_of_the_text(self) -> None:
        text = "version: 1\nproviders: {a: {type: memory}}"
        assert parse(text).digest == parse(text).digest
        assert parse(text).digest != parse(text + "\n").digest
        assert len(parse(text).digest) == 64

    def test_a_literal_secret_does_not_count_its_reference_does(self) -> None:
        def digest(token: str) -> str:
            text = f"version: 1\nproviders: {{v: {{type: vault, config: {{token: {token}}}}}, w: {{type: memory}}}}"
            return parse(text, {"A": "x", "B": "y"}).digest

        assert digest("one") == digest("'two'")
        assert digest('"${env:A}"') != digest('"${env:B}"')
        assert digest('"${env:N:-one}"') == digest('"${env:N:-two}"')  # the default is a literal

    def test_a_secret_in_defaults_that_nobody_uses_does_not_count(self) -> None:
        text = "version: 1\ndefaults: {config: {vault: {token: X}}}\nproviders: {a: {type: memory}}"
        assert parse(text).digest == parse(text.replace("X", "Y")).digest

    def test_secrets_in_defaults_lists_and_anchors_do_not_count(self) -> None:
        def digest(secret: str) -> str:
            return parse(
                f"version: 1\ndefaults: {{config: {{vault: {{token: &s {secret}}}}}}}\n"
                f"providers:\n  v: {{type: vault, config: {{tokens: [x, *s, '{secret}']}}}}\n  w: {{type: vault}}\n"
            ).digest

        assert digest("one") == digest("other")


CANARY = "canary-5f1c"


class TestTheCanary:
    """A secret in every place where one can be shows up in nothing that is said."""

    GOOD = f"""\
version: 1
defaults:
  config:
    vault: {{token: {CANARY}0}}
providers:
  v:
    type: vault
    config:
      token: ${{file:secret}}
      tokens: [{CANARY}1, "${{env:E}}", "x${{env:UNSET:-{CANARY}2}}"]
      url: s3://key:{CANARY}3@host/
  w: {{type: vault}}
"""
    BAD = (
        "token: {c: 1}", "token: [c]", "token: {x: c, 1: c}", "token: c, token: c", "token: t, tokn: c", "token: ${env:E",
        "token: ${cc}", "token: ${env:E:-${env:c}}", "token: t, tokens: {c: c}", "token: t, tokens: [[c]]", "token: *c",
        "token: !c c", "token: 'c", "token: c: c", "token: [c", 'token: "c\\q"', "token: &c", "token: @c", "token: t, retries: c",
        "token: '${env:LONG}'", "tokens: ['${env:LONG}'], token: t", "token: ccccccccccccccc", "token: t, url: {c: c}",
        "token: t, path: [c]", "token: t, on: 'c'", "token: t, retries: '${env:E}'", "token: t, labels: {c: c}",
        "token: '${file:secret}${file:missing}'", "token: '${env:E}${c'", "{token: c, {", "token: t, retries: '${file:secret}'",
    )  # fmt: skip

    def load(self, tmp_path: Path, text: str) -> Manifest:
        (tmp_path / "secret").write_text(f"{CANARY}-file\n")
        (tmp_path / "r.yaml").write_text(text)
        environ = {"E": f"{CANARY}-env", "LONG": CANARY * 10}
        return load_manifest(tmp_path / "r.yaml", Catalog([VaultFactory()]), environ=environ)

    def test_a_good_manifest_shows_none(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            manifest = self.load(tmp_path, self.GOOD)
        assert manifest.providers["v"].config["token"] == f"{CANARY}-file"
        shown = [repr(manifest), str(manifest), caplog.text, manifest.digest, str(manifest.warnings)]
        shown += [json.dumps(manifest.masked_config(name)) for name in manifest.providers]
        shown += [repr(spec) for spec in manifest.providers.values()]
        assert CANARY not in "".join(shown)

    def test_the_frames_of_a_refusal_hold_none(self) -> None:
        data = f"version: 1\nproviders: {{v: {{type: vault, config: {{token: {CANARY}, x: 1}}}}}}".encode()
        with pytest.raises(ManifestError) as caught:
            parse_manifest(data, PATH, Catalog([VaultFactory()]), {"E": CANARY})
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        ours = [frame for frame in report.stack if Path(frame.filename).name != Path(__file__).name]
        assert ours
        assert all(CANARY not in str(frame.locals) for frame in ours)

    def test_neither_a_manifest_nor_a_spec_is_pickled(self, tmp_path: Path) -> None:
        manifest = self.load(tmp_path, self.GOOD)
        for value in (manifest, manifest.providers["v"]):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(value)

    @pytest.mark.parametrize("config", BAD)
    def test_a_bad_manifest_shows_none(
        self, tmp_path: Path, config: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Only where `c` stands alone: it is the secret.
        secret = re.sub(r"(?<![a-zA-Z])c+(?![a-zA-Z])", lambda found: CANARY * len(found[0]), config)
        # As a key, an anchor or a tag, something is a name and not a value; those are shown, cut short.
        names = {f"{CANARY}: 1", f"&{CANARY}", f"*{CANARY}", f"!{CANARY}"}
        text = f"version: 1\nproviders:\n  v: {{type: vault, config: {{{secret}}}}}\n"
        with caplog.at_level(logging.DEBUG), pytest.raises(ManifestError) as caught:
            self.load(tmp_path, text)
        output = io.StringIO()
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        # The frames of this test hold the text; those of the package must not.
        report.stack[:] = [
            frame for frame in report.stack if Path(frame.filename).name != Path(__file__).name
        ]
        print("".join(report.format()), file=output)
        shown = output.getvalue() + caplog.text + repr(caught.value) + str(caught.value)
        shown += json.dumps([finding.as_json() for finding in caught.value.findings])
        shown += repr(pickle.dumps(caught.value))
        assert caught.value.findings
        assert CANARY not in shown or any(name in secret for name in names), shown


class TestHealth:
    def test_is_part_of_a_declaration_with_its_defaults(self) -> None:
        text = (
            b"version: 1\nproviders: {m: {type: memory, health: {interval_seconds: 7}}, n: {type: memory}}\n"
        )
        manifest = parse_manifest(text, PATH, Catalog())
        assert manifest.providers["m"].health == HealthPolicy(interval_seconds=7, timeout_seconds=5)
        assert manifest.providers["n"].health is None
        assert manifest.warnings == ()

    @pytest.mark.parametrize(
        "health", ["{interval_seconds: 0}", "{timeout_seconds: no}", "[]", "{interval: 1}"]
    )
    def test_of_the_wrong_form_is_a_finding(self, health: str) -> None:
        text = f"version: 1\nproviders: {{m: {{type: memory, health: {health}}}}}\n"
        with pytest.raises(ManifestError, match="SC20"):
            parse_manifest(text.encode(), PATH, Catalog())

    def test_of_a_type_that_cannot_be_asked_is_a_warning(self) -> None:
        text = b"version: 1\nproviders: {v: {type: vault, health: {}, config: {token: '${env:T}'}}}\n"
        manifest = parse_manifest(text, PATH, Catalog([VaultFactory()]), {"T": "t"})
        assert [(it.code, it.mark.line, it.mark.column) for it in manifest.warnings] == [("SC315", 2, 30)]
