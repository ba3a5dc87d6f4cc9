"""A marked secret in every place where one can be, and every output that exists for findings.

`test_load` has the same for what the loader itself says; here is what is made of it: lines with carets,
JSON, SARIF, workflow commands, `repr`, pickles, logs, and what the command prints as a process.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.cli.findings import render
from shadowcat_registry.cli.reports import github, sarif
from shadowcat_registry.control_socket import IS_SUPPORTED
from shadowcat_registry.errors import Excerpt, Finding, ManifestError
from shadowcat_registry.load import load_manifest
from shadowcat_registry.runtime import Runtime

from .cli.conftest import Command, command
from .fakes import until
from .test_load import VaultFactory

__all__ = ["command"]  # a fixture

CANARY = "Zq7canary"
ENVIRONMENT = {"E": f"{CANARY}-env", "LONG": CANARY * 10}

HEAD = "version: 1\nproviders:\n"
# `C` stands for the secret. In each there is a mistake, and the secret is in it, beside it, or above it.
CONFIGS = {
    "beside an unknown field": "{token: C, zzz: 1}",
    "under an unknown field": "{token: t, zzz: C}",
    "deep under an unknown field": "{token: t, zzz: {a: [C, {b: 'C'}], C: C}}",
    "under a misspelt field": "{token: t, tokn: C}",
    "of the wrong type": "{token: t, retries: C}",
    "a mapping for a text": "{token: {C: C, x: [C]}}",
    "a list for a text": "{token: [C, 'C']}",
    "a text for a list": "{token: t, tokens: C}",
    "too long": "{token: CCCCCC}",
    "an item that is too long": "{token: t, tokens: [CCCCCC, C]}",
    "in quotes": "{token: 'C C', url: \"C\\tC\", zzz: 1}",
    "a default of a reference": "{token: '${env:X:-C}', path: '${env:X:-C}', zzz: 1}",
    "a default of a misspelt reference": "{token: t, path: '${evn:X:-C}', labels: ['${X:-C}', '$X:-C']}",
    "out of the environment": "{token: '${env:LONG}', retries: '${env:E}'}",
    "out of a file": "{token: '${file:secret}${file:missing}', retries: '${file:secret}'}",
    "the password of a URL": "{token: t, path: 's3://key:C@host', labels: ['a://:C@b'], zzz: 1}",
    "with an anchor": "{token: &a C, labels: [*a], path: &b [x], zzz: *a}",
    "in an anchor that looks harmless": "{token: *p, zzz: 1}",
    "in a key, behind a colon without a space": "{token: t, zzz:C}",
    "in a known key, behind a colon without a space": "{token:C}",
    "in a key, behind a sign": "{token: t, zzz=C: 1}",
    "in a comment": "{token: t, zzz: 1}  # C",
    "a duplicate": "{token: C, token: C}",
    "beside a duplicate": "{path: C, retries: 1, retries: C, token: C}",
    "a bracket that is not closed": "{token: C, tokens: [C, C",
    "a quote that is not closed": "{token: 'C",
    "a quote that is closed too early": "{token: 'C'C', path: x}",
    "a colon in it": "{token: C: C}",
    "a colon behind it": "{token: t}\n    C: C: C",
    "an escape sequence in it": '{token: "C\\qC"}',
    "a sign in front of it": "{token: @C}",
    "a tag": "{token: !!str C, url: !C x}",
    "a leading zero": "{token: C, retries: 012}",
    "a reference without quotes": "{token: ${env:X:-C}}",
    "a tab": "\n\t token: C",
    "a block scalar": "\n      token: |\n        C\n        C # C\n      retries: >-\n        C",
    "an unknown block scalar": "\n      token: t\n      zzz: |  # C\n        C\n        C",
    "a text over lines": "\n      token: C\n        C\n        C\n      zzz: 'C\n\n        C'",
    "an indentation that is wrong": "\n      token: C\n     url: C\n       path: C",
    "a missing colon": "\n      token C\n      url: C",
    "a missing space": "\n      token:C\n",
    "of several documents": "{token: C}\n---\ntoken: C",
    "behind what is long": "{token: C, path: " + "p" * 300 + ", zzz: C}",
}


def manifest(directory: Path, config: str, type_name: str = "vault") -> Path:
    (directory / "secret").write_text(f"{CANARY}-file\n")
    path = directory / "registry.yaml"
    text = (
        HEAD
        + f"  a: {{type: memory, display_name: &p C}}\n  v:\n    type: {type_name}\n    config: {config}\n"
    )
    path.write_text(text.replace("C", CANARY))
    return path


def everything(findings: tuple[Finding, ...], excerpts: tuple[Excerpt, ...]) -> str:
    by_mark = {it.mark: it for it in excerpts}
    shown = [line for it in findings for line in render(it, by_mark.get(it.mark), color=True)]
    shown += [json.dumps([it.as_json() for it in findings]), json.dumps(sarif(findings)), *github(findings)]
    shown += [repr(findings), repr(excerpts), *map(str, findings), repr(pickle.dumps((findings, excerpts)))]
    return "\n".join(shown)


class TestTheCanary:
    @pytest.mark.parametrize("place", CONFIGS)
    def test_is_in_no_output(self, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
        path = manifest(tmp_path, CONFIGS[place])
        with caplog.at_level(logging.DEBUG), pytest.raises(ManifestError) as caught:
            load_manifest(path, Catalog([VaultFactory()]), environ=ENVIRONMENT)
        shown = everything(caught.value.findings, caught.value.excerpts) + repr(caught.value) + caplog.text
        assert CANARY not in shown, [line for line in shown.splitlines() if CANARY in line]

    @pytest.mark.parametrize("place", CONFIGS)
    def test_nor_where_references_stay_as_they_are(self, tmp_path: Path, place: str) -> None:
        try:
            loaded = load_manifest(
                manifest(tmp_path, CONFIGS[place]), Catalog([VaultFactory()]), unresolved=True
            )
        except ManifestError as error:
            shown = everything(error.findings, error.excerpts)
        else:
            spec = loaded.providers["v"]
            shown = repr(spec) + json.dumps(loaded.masked_config("v")) + everything((), loaded.excerpts)
        assert CANARY not in shown

    def test_is_in_no_line_of_a_warning(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.yaml"
        text = "version: 1\ndefaults: {config: {vault: {token: C}}} # C\nproviders: {a: {type: memory}}\n"
        path.write_text(text.replace("C", CANARY))
        loaded = load_manifest(path, Catalog([VaultFactory()]))
        assert {it.text for it in loaded.excerpts} == {"defaults: {config: {vault: {token: ***}}}"}
        assert CANARY not in everything(loaded.warnings, loaded.excerpts)

    @pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
    def test_nor_is_it_in_what_stands_beside_an_error(
        self, tmp_path: Path, command: Command, form: str
    ) -> None:
        path = tmp_path / "registry.yaml"
        path.write_text(
            "version: 1\ndefaults: {config: {filesystem: {directory: ./t}}} # Zq7canary\n"
            "providers: {a: {type: memory}, b: {type: memory, config: {zzz: Zq7canary}}}\n"
        )
        done = command("validate", "--format", form, "--log-level", "debug")
        assert done.returncode == 1
        assert b"SC201" in done.stdout
        assert b"SC305" in done.stdout
        assert CANARY.encode() not in done.stdout + done.stderr

    @pytest.mark.parametrize("form", ["text", "json", "sarif", "github"])
    def test_the_command_prints_none(self, tmp_path: Path, command: Command, form: str) -> None:
        # Of a type that is there: whatever a config holds that the type does not know may be a secret.
        config = "{token: C, directory: [C], zzz: {C: 1}, url: 's3://C:C@h'} # C"
        manifest(tmp_path, config, "filesystem")
        done = command("validate", "--format", form, "--log-level", "debug", **ENVIRONMENT)
        assert done.returncode == 1
        assert b"SC203" in done.stdout
        assert CANARY.encode() not in done.stdout + done.stderr

    @pytest.mark.parametrize("arguments", [("run",), ("providers",), ("tapes", "list")])
    def test_nor_does_a_start_that_fails(
        self, tmp_path: Path, command: Command, arguments: tuple[str, ...]
    ) -> None:
        manifest(tmp_path, "{directroy: C, directory: [C], token: C} # C", "filesystem")
        done = command(*arguments, "--log-level", "debug")
        assert done.returncode == 1
        assert b"config: {directroy: ***, directory: [***], token: ***}" in done.stderr
        assert CANARY.encode() not in done.stdout + done.stderr


@pytest.mark.skipif(not IS_SUPPORTED, reason="this system has no Unix domain sockets")
class TestARunningProcess:
    """With secrets in what runs, in what it would run, in what it has refused, and in what it keeps."""

    HEAD = "version: 1\ndefaults: {provider: m}\nproviders:\n  m: {type: memory}\n"

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        (tmp_path / "secret").write_text(f"{CANARY}-file\n")
        return tmp_path / "registry.yaml"

    def save(self, path: Path, config: str) -> None:
        path.write_text((self.HEAD + f"  v: {{type: vault, config: {config}}}\n").replace("C", CANARY))
        path.chmod(0o600)

    @contextmanager
    def runtime(self, path: Path) -> Iterator[Runtime]:
        catalog = Catalog([VaultFactory()])
        with Runtime(
            path,
            catalog=catalog,
            environ=ENVIRONMENT | os.environ,
            watch=False,
            control=True,
            last_good="keep",
        ) as runtime:
            runtime.start()
            yield runtime

    def said(self, command: Command) -> bytes:
        shown = b""
        for arguments in (
            ("status",),
            ("status", "--all"),
            ("status", "--history"),
            ("plan",),
            ("why", "v"),
            ("events",),
            ("reload", "--wait"),
        ):
            for form in ((), ("--json",)):
                done = command(*arguments, *form, "--log-level", "debug")
                assert done.returncode in (0, 1), done.stderr
                shown += done.stdout + done.stderr
        return shown

    @pytest.mark.parametrize(
        "config",
        [
            "{token: C, url: 's3://C:C@h', labels: ['a://k:C@b']}",
            "{token: '${file:secret}', tokens: ['${env:E}', C]}",
        ],
    )
    @pytest.mark.parametrize(
        "then",
        [
            "{token: 'C-2', url: 's3://C:D@h'}",
            "{token: C, zzz: C}",
            "{token: [C]}",
            "{token: 'C",
            "{token: C: C}",
        ],
    )
    def test_tells_nobody(
        self, path: Path, command: Command, caplog: pytest.LogCaptureFixture, config: str, then: str
    ) -> None:
        self.save(path, config)
        with caplog.at_level(logging.DEBUG), self.runtime(path) as runtime:
            shown = self.said(command)
            self.save(path, then)
            shown += command("plan").stdout + command("plan", "--json").stdout
            shown += self.said(command)
            shown += repr(runtime.status()).encode() + repr(runtime.history()).encode()
        assert CANARY.encode() not in shown, [line for line in shown.split(b"\n") if CANARY.encode() in line]
        assert CANARY not in caplog.text

    def test_keeps_no_secret(self, path: Path, tmp_path: Path) -> None:
        self.save(path, "{token: '${file:secret}', tokens: ['${env:E}']}")
        with self.runtime(path):
            pass
        self.save(path, "{token: C}")
        with self.runtime(path) as runtime:
            until(lambda: (it := runtime.status().last_good) is not None and it.problem)
        kept = [it for it in (tmp_path / "state").rglob("*") if it.is_file()]
        assert not [it for it in kept if CANARY in it.read_text()]
