"""Runs the benchmarks that are named, or all."""

from __future__ import annotations

import sys

from . import (
    append,
    compression,
    concurrency,
    imports,
    lookups,
    manifest,
    reading,
    reconcile,
    reload,
    sqlite,
    tapes,
)

BENCHMARKS = {
    "append": append.main,
    "compression": compression.main,
    "concurrency": concurrency.main,
    "imports": imports.main,
    "lookups": lookups.main,
    "manifest": manifest.main,
    "reading": reading.main,
    "reconcile": reconcile.main,
    "reload": reload.main,
    "sqlite": sqlite.main,
    "tapes": tapes.main,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there is: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(f"== {name}")
        BENCHMARKS[name]()
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
