"""The ways to save of `../shared/tools/save_styles.py`, where that is at hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType | None:
    path = Path(__file__).resolve().parents[2] / "shared" / "tools" / "save_styles.py"
    if sys.platform != "linux" or not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("save_styles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


save_styles = _load()
STYLES: list[str] = [] if save_styles is None else save_styles.STYLES

needs_save_styles = pytest.mark.skipif(
    save_styles is None, reason="needs Linux and ../shared/tools/save_styles.py"
)


def apply(style: str, path: Path, text: str, scratch: Path) -> None:
    """Change the file at `path` in this style; `scratch` is a directory outside of what is watched."""
    assert save_styles is not None
    if style != "nano":
        save_styles.apply(style, path, text)
        return
    # It forks: from a process with threads that is asking for trouble.
    draft = scratch / "new-text"
    draft.write_text(text, encoding="utf-8", newline="")
    command = [sys.executable, str(save_styles.__file__), "apply", style, str(path)]
    subprocess.run([*command, "--text-file", str(draft)], check=True)
