"""What every storage has to do, as tests that a provider author runs over a provider of his own.

    from pathlib import Path
    import pytest
    from shadowcat_registry.testing import TapeStorageConformance
    from my_plugin import BucketProviderFactory

    class TestBucket(TapeStorageConformance):
        factory = BucketProviderFactory

        @pytest.fixture
        def config(self, tmp_path: Path) -> dict[str, object]:
            return {"bucket": str(tmp_path)}

That is all. The tests are gated by what an opened storage claims: what it does not, has to fail with
`UnsupportedCapabilityError`; one that claims neither `local_storage` nor `remote_storage` need not outlive
its process. They take some seconds. `TapeStorageEndurance`, with the same two members, has what takes longer:
kills in a loop (`kills`, 10), a hundred thousand frames, a frame of 22 MB. Give that class what marks you
like; none is needed, and no plugin of pytest.

A plugin that is a file or a package is nothing that an import statement finds: `factory =
PluginUnderTest(Path("plugins/glacier.py"), "glacier")`. Without any file of tests, `check_plugin(path)` runs
the suite over all types of one, as `shadowcat-registry plugins test` does.

`FaultyFactory` and `faulty_system` let a storage fail in a test of your own.

Needs the extra `[testing]`: pytest and hypothesis. Only the command `plugins test` imports this, and
importing it loads neither: a name is loaded when it is used (PEP 562), and its asserts explain themselves
then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conformance import TapeStorageConformance
    from .endurance import TapeStorageEndurance
    from .faults import Faults, FaultyFactory, SystemFaults, faulty_system
    from .places import Place
    from .plugins import PluginTestReport, PluginUnderTest, check_plugin

_HOMES = {
    "conformance": "TapeStorageConformance",
    "endurance": "TapeStorageEndurance",
    "faults": "Faults FaultyFactory SystemFaults faulty_system",
    "places": "Place",
    "plugins": "PluginTestReport PluginUnderTest check_plugin",
}
_home_of = {name: module for module, names in _HOMES.items() for name in names.split()}

_SUITES = (
    "capabilities",
    "endurance",
    "failures",
    "following",
    "keeping",
    "listing",
    "places",
    "processes",
    "readers",
    "reading",
    "recording",
)
"""Where the asserts are that should explain themselves."""

__all__ = [
    "Faults",
    "FaultyFactory",
    "Place",
    "PluginTestReport",
    "PluginUnderTest",
    "SystemFaults",
    "TapeStorageConformance",
    "TapeStorageEndurance",
    "check_plugin",
    "faulty_system",
]


def __getattr__(name: str) -> object:
    module = _home_of.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys
    from importlib import import_module

    import pytest

    suites = (f"{__name__}.{suite}" for suite in _SUITES)
    pytest.register_assert_rewrite(*(suite for suite in suites if suite not in sys.modules))
    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
