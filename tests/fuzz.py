"""Mutants of manifests, and what has to hold for each. As a program, `fuzz.py SEED COUNT SECONDS` feeds them
to the whole loader, in a thread with a small stack. One that crashes it ends the process: its seed is less
than a hundred behind the last one printed.
"""

# ruff: noqa: T201 - a program prints

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.codes import CODES
from shadowcat_registry.document import Document
from shadowcat_registry.errors import Finding, ManifestError
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.parse import parse_document

STACK_BYTES = 256 * 1024

PIECES = [
    b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!x ", b"<<: ", b"\t", b"\n", b": ", b"- ", b"'", b'"', b"%",
    b"\\", b"\0", b"\xff", b"---\n", b"...\n", b"? ", b"012", b".inf", b"|", b">", b"\r", b"\xef\xbb\xbf",
    b"# ", b"${", b"@", b",", b"1e999",
]  # fmt: skip
WORDS = [
    b"version", b"providers", b"defaults", b"include", b"config", b"type", b"memory", b"filesystem",
    b"directory", b"max_tapes", b"${env:X}", b"${file:/dev/zero}", b"../..", b"/", b"null", b"true", b"-1",
    b"1.0", b"9" * 30,
    b"[" * 70, b"{a: " * 70, b"&a [*a, *a]", b"a.yaml", b"'*'", b"\xf0\x9f\x98\x80", b"x" * 300,
]  # fmt: skip
SEEDS = [
    b"""\
# comment
version: 1
defaults: {provider: "a\\tb", config: {x: [1, 0x1f, 'it''s', ~]}}
providers:
  a: &a {type: filesystem, config: {directory: "${env:X:-./tapes}"}}
  b: *a
  c:
    - |
      block
      text
    - >-
      folded
""",
    b"""\
version: 1
defaults:
  provider: fs
  config: {memory: {max_tapes: 5}}
providers:
  fs:
    type: filesystem
    display_name: "The \\u00e9 one"
    config:
      directory: ./tapes
  scratch: {type: memory, config: {max_bytes: 65536}}
""",
]


def mutant(seed: int) -> bytes:
    chance = random.Random(seed)
    text = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(5):
            case 0:
                text[at:at] = chance.choice(PIECES)
            case 1:
                del text[at : at + chance.randrange(12)]
            case 2:
                text[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                text[at:at] = chance.choice(WORDS)
            case _:
                other = chance.randrange(len(text) + 1)
                text[at:at] = text[other : other + chance.randrange(40)]
    return bytes(text)


def walk(
    value: object, pointer: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], object]]:
    yield pointer, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*pointer, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*pointer, index))


def parsed(text: bytes) -> Document | None:
    """A document whose every place can be asked for, or findings with places that exist; nothing else."""
    try:
        document = parse_document(text, "m")
    except ManifestError as error:
        check_places(error.findings, text)
        return None
    for pointer, _ in walk(document.value):
        document.mark(pointer)
        document.key_mark(pointer)
    return document


def check_places(findings: tuple[Finding, ...], text: bytes) -> None:
    assert findings
    lines = len(re.findall(rb"\r\n|\r|\n", text)) + 1
    for found in findings:
        assert found.code in CODES
        assert 1 <= found.mark.line <= lines
        assert (found.mark.end_line, found.mark.end_column) >= (found.mark.line, found.mark.column)


def load(text: bytes, catalog: Catalog) -> bool:
    """Whether it is a manifest; if not, it has findings with places that exist."""
    try:
        parse_manifest(text, Path("m"), catalog, {})
    except ManifestError as error:
        check_places(error.findings, text)
        return False
    return True


def run(seed: int, count: int, seconds: float) -> None:
    catalog, accepted, until = Catalog(), 0, time.monotonic() + seconds
    for number in range(seed, seed + count):
        if number % 100 == 0:
            print(number, flush=True)
        if time.monotonic() > until:
            break
        text = mutant(number)
        try:
            parsed(text)
            accepted += load(text, catalog)
        except BaseException:
            print(f"seed {number}: {text!r}", file=sys.stderr)
            raise
    print(f"survived {number - seed + 1}, {accepted} of them manifests")


if __name__ == "__main__":
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=run, args=(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
    thread.start()
    thread.join()
