"""The program of a child process in the tests: it records, and says which frames were acknowledged.

Knows no pytest: `python -m shadowcat_registry.testing.child` reads its order, a JSON object, from its
standard input, and writes a line for each thing that it has done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from ..backend import StorageProviderFactory
from ..errors import StorageError
from ..registry import StorageProviderRegistry


def message_of(number: int) -> bytes:
    """The frame of that number: of many lengths, some beyond what a pipe or a page holds."""
    return b'{"id":%d,"pad":"%s"}' % (
        number,
        b"x" * (number * 7919 % 70_000 if number % 16 == 0 else number % 600),
    )


def name_of(make_factory: Callable[..., object]) -> str | None:
    """`module:name`, if another process can import it by that; else None."""
    module, name = getattr(make_factory, "__module__", ""), getattr(make_factory, "__qualname__", "")
    try:
        found: object = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return f"{module}:{name}" if found is make_factory else None


@contextmanager
def recording(
    factory: str, config: Mapping[str, Any], directory: Path, **order: object
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A child that carries out an order; it is killed at the end. The second is what it says."""
    text = json.dumps({"factory": factory, "config": config, "directory": str(directory), **order})
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        yield process, process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())  # at once, and not lost with the process


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    module, _, name = order["factory"].partition(":")
    make: Any = import_module(module)
    for part in name.split("."):
        make = getattr(make, part)
    factory: StorageProviderFactory = make()
    if order.get("limit_bytes"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit_bytes"], order["limit_bytes"]))
    registry = StorageProviderRegistry(base_directory=Path(order["directory"]))
    registry.register(factory, config=order["config"])
    with registry.create_storage(factory.name) as storage:
        if order.get("resume"):
            recorder, _ = storage.resume(order["tape_id"])
        else:
            recorder = storage.record("s", tape_id=order["tape_id"])
        _say("open")
        number = recorder.accepted_seq + 1
        while number < order["frames"]:
            batch = [
                ("client_to_server", message_of(n)) for n in range(number, number + order.get("batch", 1))
            ]
            try:
                recorder.append_many(batch)  # type: ignore[arg-type]
            except StorageError as error:
                _say(f"{type(error).__name__} {number - 1}")
                break
            number += len(batch)
            _say(str(number - 1))
        _say("done")
        sys.stdin.buffer.read()  # until the parent lets go
        recorder.detach()


if __name__ == "__main__":
    main()
