"""Distributions as the tests make them: a real wheel of a few modules, installed into a directory."""

from __future__ import annotations

import base64
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

GROUP = "shadowcat_registry.providers"


def wheel(
    directory: Path,
    files: Mapping[str, str],
    *,
    name: str = "shadowcat_glacier",
    version: str = "1.2.0",
    entries: str = "glacier = glacier_of_ours",
    told_name: str | None = None,
    told_version: str | None = None,
) -> Path:
    """Build a wheel (PEP 427); with `told_…`, its metadata says something else than its file name."""
    info = f"{name}-{version}.dist-info"
    contents = dict(files) | {
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {told_name or name.replace('_', '-')}\n"
            f"Version: {told_version or version}\n"
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{GROUP}]\n{entries}\n" if entries else "[console_scripts]\n",
    }
    lines = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in contents.items():
            archive.writestr(file, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(sha256(text.encode()).digest()).decode().rstrip("=")


def unpack(built: Path, site: Path) -> Path:
    """Install a wheel as an installer does with one of pure Python, without its checks."""
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    return site


def new_environment(directory: Path) -> Path:
    """A virtual environment; returns its directory for distributions."""
    _python("-m", "venv", "--without-pip", str(directory))
    (site,) = [*directory.glob("lib/*/site-packages"), *directory.glob("Lib/site-packages")]
    return site


def pip_install(built: Path, environment: Path) -> None:
    """With the installer itself, which takes away what is there of that name."""
    options = "--quiet --no-deps --no-index --no-compile --disable-pip-version-check"
    _python("-m", "pip", "--python", str(environment), "install", *options.split(), str(built))


def hatch(project: Path) -> Path:
    """Build the wheel of a project with its build backend."""
    _python("-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=project)
    (built,) = (project / "dist").glob("*.whl")
    return built


def _python(*arguments: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
