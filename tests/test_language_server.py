"""What an operator sees in an editor: the real YAML language server, spoken to as an editor does.

`long`, as it fetches the server from the npm registry; skipped where there is no node, or no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.editor import EDITOR_SCHEMA, editor_schema, render
from shadowcat_registry.schema_files import manifest_schema, provider_schema

from .test_editor import VAULT, catalog

pytestmark = pytest.mark.long

PACKAGE = "yaml-language-server@1.25.0"
HEAD = f"# yaml-language-server: $schema={EDITOR_SCHEMA}\nversion: 1\nproviders:\n  a:\n"
SETTINGS = {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}


class Editor:
    """Opens texts as files of a folder, and asks the server about them; it is at `|` in the text."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.last_id = self.opened = 0
        self.diagnosed: dict[str, list[dict[str, Any]]] = {}
        folders = [{"uri": folder.as_uri(), "name": "folder"}]
        markdown = {"documentationFormat": ["markdown"], "snippetSupport": True}
        capabilities = {
            "workspace": {"configuration": True},
            "textDocument": {
                "completion": {"completionItem": markdown},
                "hover": {"contentFormat": ["markdown"]},
                "publishDiagnostics": {},
            },
        }
        setup = {"processId": None, "rootUri": folder.as_uri(), "workspaceFolders": folders}
        self.ask("initialize", setup | {"capabilities": capabilities})
        self.send({"method": "initialized", "params": {}})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """One message, after what the server wanted to know first has been answered."""
        assert self.process.stdout is not None
        while True:
            size = 0
            while line := self.process.stdout.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            assert size, "the server has ended"
            message: dict[str, Any] = json.loads(self.process.stdout.read(size))
            if message.get("method") == "textDocument/publishDiagnostics":
                self.diagnosed[message["params"]["uri"]] = message["params"]["diagnostics"]
            if "method" in message and "id" in message:
                asked = message["params"].get("items", ()) if "params" in message else ()
                answer = [SETTINGS if item.get("section") == "yaml" else None for item in asked]
                self.send({"id": message["id"], "result": answer or None})
            else:
                return message

    def ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self.last_id += 1
        self.send({"id": self.last_id, "method": method, "params": parameters})
        while (message := self.receive()).get("id") != self.last_id:
            pass
        assert "error" not in message, message
        return message["result"]

    def open(self, text: str) -> dict[str, Any]:
        before, _, after = text.partition("|")
        self.opened += 1
        uri = (self.folder / f"{self.opened}.yaml").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": before + after}
        self.send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        position = {"line": before.count("\n"), "character": len(before) - before.rfind("\n") - 1}
        return {"textDocument": {"uri": uri}, "position": position}

    def complete(self, text: str) -> dict[str, str]:
        """What is offered, with its explanation."""
        items = self.ask("textDocument/completion", self.open(text))["items"]
        assert len({item["label"] for item in items}) == len(items), "nothing is offered twice"
        return {
            item["label"]: it["value"] if isinstance(it := item.get("documentation", ""), dict) else it
            for item in items
        }

    def hover(self, text: str) -> str:
        value: str = self.ask("textDocument/hover", self.open(text))["contents"]["value"]
        return value

    def diagnose(self, text: str) -> list[tuple[int, str]]:
        """Lines, from 1, with what is said of them."""
        uri = self.open(text)["textDocument"]["uri"]
        while uri not in self.diagnosed:
            self.receive()
        return [(it["range"]["start"]["line"] + 1, it["message"]) for it in self.diagnosed[uri]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    prefix = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(prefix), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr[:200]}")
    return prefix / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"


@pytest.fixture
def editor(server: Path, tmp_path: Path) -> Iterator[Editor]:
    (tmp_path / EDITOR_SCHEMA).write_text(render(editor_schema(catalog())), encoding="utf-8")
    command = [shutil.which("node") or "node", str(server), "--stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Editor(process, tmp_path)
        finally:
            process.kill()


class TestCompletion:
    def test_types_are_offered_and_explained(self, editor: Editor) -> None:
        offered = editor.complete(HEAD + "    type: |\n")
        assert offered.keys() == {"filesystem", "free", "memory", "sqlite", "vault"}
        assert "Tapes in the memory of the process" in offered["memory"]

    @pytest.mark.parametrize("type_name", ["filesystem", "memory", "sqlite"])
    def test_the_fields_of_a_config_are_those_of_its_type(self, editor: Editor, type_name: str) -> None:
        properties = provider_schema(type_name)["properties"]
        fields = properties.keys()
        offered = editor.complete(HEAD + f"    type: {type_name}\n    config:\n      |\n")
        assert offered.keys() == fields
        assert {name for name, text in offered.items() if "Default: " in text} == {
            name for name, field in properties.items() if "default" in field
        }
        beneath = f"defaults:\n  config:\n    {type_name}:\n      |\nproviders: {{}}\n"
        assert editor.complete(HEAD.split("providers")[0] + beneath).keys() == fields

    def test_fields_are_offered_with_and_without_defaults_beneath(self, editor: Editor) -> None:
        config = "    type: vault\n    config:\n      |\n"
        beneath = HEAD.replace("providers", "defaults: {config: {vault: {bucket: b}}}\nproviders")
        for text in (HEAD + config, beneath + config):
            assert VAULT["properties"].keys() <= editor.complete(text).keys()

    def test_the_fields_of_a_provider_are_offered_once(self, editor: Editor) -> None:
        assert editor.complete(HEAD + "    type: memory\n    |\n").keys() == (
            manifest_schema()["$defs"]["provider"]["properties"].keys() - {"type"}
        )

    def test_the_values_of_a_choice_are_offered_although_a_reference_may_stand_there(
        self, editor: Editor
    ) -> None:
        config = HEAD + "    type: vault\n    config:\n      "
        assert {"north", "south"} <= editor.complete(config + "region: |\n").keys()
        assert {"true", "false"} <= editor.complete(config + "sync: |\n").keys()


class TestHover:
    def test_a_field_is_explained_with_title_default_and_example(self, editor: Editor) -> None:
        shown = editor.hover(HEAD + "    type: memory\n    config:\n      max_b|ytes: 70000\n")
        for part in ("Largest size in bytes", "Of all tapes together", "Default: `67108864`", "1073741824"):
            assert part in shown

    def test_a_type_is_explained(self, editor: Editor) -> None:
        shown = editor.hover(HEAD + "    type: mem|ory\n")
        assert "`memory`: **Memory** 1.0.0: Tapes in the memory" in shown


class TestDiagnostics:
    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("    type: memry\n", 5, '"memory"'),
            ("    type: memory\n    confg: {}\n", 6, "confg"),
            ("    type: memory\n    config:\n      max_tapes: 1\n      max_byts: 1\n", 8, "max_byts"),
            ("    type: memory\n    config:\n      max_bytes: 3\n", 7, "65536"),
            ("    type: memory\n    config:\n      max_bytes: '70000'\n", 7, "without quotes"),
            ("    type: vault\n    config:\n      bucket: b\n      region: west\n", 8, '"north"'),
            ("    type: vault\n    config:\n      sync: false\n", 6, "bucket"),
        ],
    )
    def test_a_mistake_is_marked_on_its_line_and_once(
        self, editor: Editor, text: str, line: int, words: str
    ) -> None:
        ((at, message),) = editor.diagnose(HEAD + text)
        assert at == line
        assert words in message

    @pytest.mark.parametrize(
        "text",
        [
            "    type: filesystem\n",
            "    type: memory\n    config:\n      max_bytes: ${env:SIZE_BYTES:-70000}\n",
            "    type: vault\n    config:\n      bucket: ${env:B}\n      sync: ${env:SYNC}\n      size: 3M\n",
        ],
    )
    def test_what_is_right_is_not_marked(self, editor: Editor, text: str) -> None:
        assert editor.diagnose(HEAD + text) == []
