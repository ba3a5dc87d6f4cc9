"""The manifest as everything behind the loader sees it: typed, complete, valid, immutable.

Knows nothing of YAML, schemas or files: `load` makes it, `plan` compares what it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from .catalog import Catalog
from .errors import Excerpt, Finding
from .interpolate import mask
from .marks import Mark
from .metadata import ProviderSpec, serving_default
from .supervise import WatchMode

if TYPE_CHECKING:
    from .plugins.loading import LoadedPlugins


@dataclass(frozen=True, slots=True)
class ReloadPolicy:
    """What a manifest says about its own reloads."""

    on_removal_in_use: Literal["retire", "reject"] = "retire"
    """What becomes of a provider that is removed while it is in use; `reject`: the reload is refused."""
    allow_mass_removal: bool = False
    """Whether more than half of the providers (and more than two), or all of them, may go in one reload."""
    step_timeout_seconds: float = 30.0
    """What each init hook, and each opening of a storage, has before the reload gives up."""
    mode: WatchMode = "auto"
    """How changes are noticed."""
    poll_interval_seconds: float = 1.0
    require_end_marker: bool = False
    """Whether a file counts only when its last line is `...`."""

    def with_stricter(self, running: ReloadPolicy) -> ReloadPolicy:
        """This policy, in a reload from a manifest whose policy is `running`."""
        is_strict = "reject" in (self.on_removal_in_use, running.on_removal_in_use)
        return replace(self, on_removal_in_use="reject" if is_strict else "retire")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A valid `registry.yaml`, references resolved. Holds secrets: shown by `masked_config()` only."""

    path: Path
    """Absolute; links are not followed."""
    digest: str
    """SHA-256 of the text, in hexadecimal, with the secrets that stand in it masked."""
    providers: Mapping[str, ProviderSpec]
    """By name, in the order of the file; every config is complete."""
    default: str | None
    provider_marks: Mapping[str, Mark]
    """Where each provider is declared."""
    files: tuple[Path, ...]
    """Every file whose change is a change of the manifest: itself, and those of `${file:…}`."""
    warnings: tuple[Finding, ...] = ()
    excerpts: tuple[Excerpt, ...] = ()
    """The lines of the warnings."""
    reload: ReloadPolicy = ReloadPolicy()
    texts: Mapping[Path, str] = field(repr=False, compare=False, default_factory=dict)
    """What stands in each file that declares something, itself first; references as they are written."""
    literal_secret: Mark | None = None
    """Where a secret is written into one of them."""
    catalog: Catalog | None = field(repr=False, compare=False, default=None)
    """The types that it was checked with, those of its plugins included; None: whatever there is."""
    plugins: LoadedPlugins | None = field(repr=False, compare=False, default=None)
    """What came of those that it asks for; None: it asks for none."""

    @property
    def serving_default(self) -> str | None:
        """Which provider is used where none is named; `default` is what was written."""
        return serving_default(self.default, self.providers)

    def masked_config(self, name: str) -> dict[str, Any]:
        """The config of a provider, to show: every secret in it is replaced by `***`.

        Raises:
            KeyError: it is not declared.
        """
        spec = self.providers[name]
        return mask(spec.config, spec.secrets)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Manifest is not pickled: it may hold secrets")
