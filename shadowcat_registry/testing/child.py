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
from ..plugins.decorator import declared_factory
from ..registry import StorageProviderRegistry


def message_of(number: int) -> bytes:
    """The frame of that number: of many lengths, some beyond what a pipe or a page holds."""
    return b'{"id":%d,"pad":"%s"}' % (
        number,
        b"x" * (number * 7919 % 70_000 if number % 16 == 0 else number % 600),
    )


def factory_of(make_factory: Callable[[], StorageProviderFactory]) -> StorageProviderFactory:
    """What a suite has as its `factory` makes one; a class below `@provider` is as good."""
    declared = declared_factory(make_factory) if isinstance(make_factory, type) else None
    return declared if declared is not None else make_factory()


def name_of(make_factory: Callable[..., object]) -> str | None:
    """By what another process finds it: `module:name` if it can be imported, a plugin's type by its place;
    else None."""
    reference = getattr(make_factory, "reference", None)
    if isinstance(reference, str):
        return reference
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


def _found(name: str) -> Any:
    """What `name_of` gave a name to."""
    module, _, rest = name.partition(":")
    if module == "plugin":
        from .plugins import PluginUnderTest

        return PluginUnderTest.of_reference(name)
    found: Any = import_module(module)
    for part in rest.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    factory = factory_of(_found(order["factory"]))
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
