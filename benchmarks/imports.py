"""What `import` costs, beside the imports that it is measured against, without the interpreter's start."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

ROUNDS = 15
STATEMENTS = {
    "(the interpreter)": "",
    "import yaml": "import yaml",
    "import shadowcat_registry": "import shadowcat_registry",
    "… and open_registry": "import shadowcat_registry as sr; sr.open_registry",
    "import jsonschema": "import jsonschema",
    "import watchdog.observers": "import watchdog.observers",
}


def cpu_seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):  # in turn, so that a busy moment meets all of them
        for name, statement in STATEMENTS.items():
            samples[name].append(cpu_seconds(statement))
    bare = median(samples["(the interpreter)"])
    yaml = median(samples["import yaml"]) - bare
    print(f"{'CPU above the interpreter':34}{'ms':>10}{'× yaml':>10}")
    for name, times in samples.items():
        above = median(times) - bare
        print(f"{name:34}{above * 1000:>10.1f}{above / yaml:>10.2f}")
