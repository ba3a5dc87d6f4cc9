"""The suite over the provider types of a plugin, which no import statement reaches.

A plugin is tested as it runs: out of its bytes, read once, after a probe; also in the processes that the
suite starts. Whose the file is does not matter here: it is its author who runs this.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from ..backend import StorageProviderFactory
from ..defaults import fill_defaults
from ..errors import InvalidConfigError, UnknownTypeError
from ..marks import format_dotted
from ..metadata import Config
from ..plugins import modules, sources
from ..plugins.probe import probe
from ..plugins.records import SourceDeclaration, TypeReport, VerifiedSource
from ..schema import problems

_PROGRAM: Final = """\
from shadowcat_registry.testing.plugins import suites

globals().update(suites({told}))
"""
_OPTIONS: Final = (
    "-p no:cacheprovider -p no:xdist --rootdir . -c tests.ini --import-mode=importlib test_plugin.py"
)
_INI: Final = """\
[pytest]
filterwarnings = error::pytest.PytestUnhandledThreadExceptionWarning
"""
"""What fails in a thread has failed, too."""


@dataclass(frozen=True)
class PluginUnderTest:
    """One type of the plugin at a path, as the `factory` of a suite:

        class TestGlacier(TapeStorageConformance):
            factory = PluginUnderTest(Path("plugins/glacier.py"), "glacier")

    A call gives the factory. With `sha256`, exactly these bytes are loaded.
    """

    path: Path
    type_name: str
    sha256: str | None = None

    def __call__(self) -> StorageProviderFactory:
        """Raises: PluginError; UnknownTypeError: the plugin has no type of that name."""
        plugin = _loaded(self.path.absolute(), self.sha256)
        known = {factory.name: factory for factory in plugin.factories}
        if self.type_name not in known:
            raise UnknownTypeError(self.type_name, tuple(known))
        return known[self.type_name]

    @property
    def reference(self) -> str:
        """As another process is told which one is meant."""
        return "plugin:" + json.dumps([str(self.path.absolute()), self.type_name, self.sha256])

    @classmethod
    def of_reference(cls, text: str) -> PluginUnderTest:
        path, type_name, sha256 = json.loads(text.removeprefix("plugin:"))
        return cls(Path(path), type_name, sha256)


@dataclass(frozen=True, slots=True)
class PluginTestReport:
    """What came of the suite over one plugin."""

    types: tuple[str, ...]
    passed: int
    failed: int
    skipped: int
    failures: tuple[str, ...] = field(default=())
    """`TestGlacier::test_…`, of each test that failed."""

    @property
    def ok(self) -> bool:
        return self.failed == 0 and self.passed > 0

    def as_json(self) -> dict[str, Any]:
        return {
            "types": list(self.types),
            "passed": self.passed,
            "failed": self.failed,
            "skipped": self.skipped,
            "failures": list(self.failures),
            "ok": self.ok,
        }


def check_plugin(
    path: Path,
    *,
    configs: Mapping[str, Config] | None = None,
    options: Sequence[str] = (),
    quiet: bool = False,
    timeout_seconds: float = 10.0,
) -> PluginTestReport:
    """Run `TapeStorageConformance` over each type of the plugin at `path`, a file or a package's directory.

    `configs` are by type; without one, the defaults of the type's schema have to do. Relative paths in one
    are relative to a directory that is fresh for each test; a storage that is elsewhere wants a class of its
    own, with a fixture `config`. `options` go to pytest, whose output is shown unless it is to be `quiet`.
    `timeout_seconds` are for the import of the plugin, which is probed first.

    Raises:
        PluginError: it cannot be loaded.
        UnknownTypeError: it has no type that one of `configs` is for.
        InvalidConfigError: the config of a type is refused, or it has to have one.
        ImportError: pytest or hypothesis is missing.
    """
    for module in ("pytest", "hypothesis"):
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"the suite needs {module}: python -m pip install 'shadowcat-registry[testing]'", name=module
            )
    source = _read(path.absolute(), None)
    reports = probe(source, timeout_seconds=timeout_seconds)
    names = tuple(report.name for report in reports)
    configs = dict(configs or {})
    for name in configs:
        if name not in names:
            raise UnknownTypeError(name, names)
    told = []
    for report in reports:
        config = configs.get(report.name, {})
        _check(report, config)
        told.append([str(source.path), report.name, source.sha256, config])
    with tempfile.TemporaryDirectory(prefix="shadowcat-") as directory:
        (Path(directory) / "test_plugin.py").write_text(_PROGRAM.format(told=repr(told)), encoding="utf-8")
        (Path(directory) / "tests.ini").write_text(_INI, encoding="utf-8")
        results = Path(directory) / "results.xml"
        command = [sys.executable, "-m", "pytest", *_OPTIONS.split(), f"--junit-xml={results}", *options]
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(it) for it in sys.path)  # noqa: PTH100 - links stay
        done = subprocess.run(command, cwd=directory, env=environment, check=False, capture_output=quiet)
        return _outcome(names, results, done.returncode)


def suites(told: Sequence[tuple[str, str, str, Config]]) -> dict[str, type]:
    """Test classes, one for each type: path, name, digest and config."""
    from . import TapeStorageConformance

    found: dict[str, type] = {}
    for path, name, sha256, config in told:
        import pytest

        def fixture(_: object, config: Config = config) -> Config:
            return config

        title = "Test" + "".join(part.title() for part in name.replace("-", "_").split("_"))
        members = {
            "factory": PluginUnderTest(Path(path), name, sha256),
            "config": pytest.fixture(name="config")(fixture),
        }
        found[title] = type(title, (TapeStorageConformance,), members)
    return found


@cache
def _loaded(path: Path, sha256: str | None) -> modules.LoadedPlugin:
    return modules.load(_read(path, sha256))


def _read(path: Path, sha256: str | None) -> VerifiedSource:
    if sha256 is None:
        found, refusals = sources.digests(SourceDeclaration(path, is_directory=False))
        if refusals:
            raise refusals[0]
        sha256 = found[path.name]
    declaration = SourceDeclaration(path, is_directory=False, trust="pinned", pins={path.name: sha256})
    verification = sources.verify(declaration)
    if verification.refusals:
        raise verification.refusals[0]
    return verification.sources[0]


def _check(report: TypeReport, config: Config) -> None:
    wrong = problems(report.schema, fill_defaults(report.schema, config))
    if wrong:
        texts = [f"{format_dotted(it.pointer) or 'config'}: {it.message}" for it in wrong]
        raise InvalidConfigError(report.name, texts)


def _outcome(types: tuple[str, ...], results: Path, status: int) -> PluginTestReport:
    if status not in (0, 1):
        raise RuntimeError(f"pytest ended with exit code {status}")
    passed, skipped, failures = 0, 0, []
    for case in ElementTree.parse(results).iter("testcase"):  # noqa: S314 - pytest has just written it
        if case.find("failure") is not None or case.find("error") is not None:
            failures.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return PluginTestReport(types, passed, len(failures), skipped, tuple(failures))
