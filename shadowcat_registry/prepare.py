"""Everything of a reconciliation that can fail, done before anything is changed.

Touches new objects only, without any lock, and each call of foreign code is a step that may take so long and
no longer. Every failure becomes a finding at the place of its provider. What was prepared is either committed
or disposed of, in reverse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from .backend import Reconfiguration, StorageProviderFactory
from .catalog import Catalog
from .errors import Finding, InitHookError, InvalidConfigError, RegistryError
from .generations import Change, SetDefault
from .guards import NAME_IS_TAKEN
from .interpolate import redact
from .leases import Opening
from .manifest import Manifest
from .marks import Mark
from .metadata import FALLBACK_DEFAULT, Config, ProviderSpec
from .plan import Action, Plan, is_same
from .progress import EscapedError, OverdueError, Progress
from .registry import StorageProviderRegistry
from .snapshot import Provider, Snapshot
from .translation import translate

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turnover:
    """A storage that is ready to take a new config in place; `provider` is what it is then."""

    provider: Provider
    reconfiguration: Reconfiguration


class Preparation:
    """Of one plan, against one snapshot."""

    def __init__(
        self,
        registry: StorageProviderRegistry,
        catalog: Catalog,
        manifest: Manifest,
        snapshot: Snapshot,
        progress: Progress,
        *,
        eager: bool,
    ) -> None:
        self.changes: list[Change] = []
        self.default: SetDefault | None = None
        self.findings: list[Finding] = []
        self.turnovers: list[Turnover] = []
        self.is_hopeless = False
        """Something of what failed will fail again as long as nobody changes anything."""
        self._staged: list[Provider] = []
        self._undo: list[tuple[str, str, Callable[[], object]]] = []
        self._registry = registry
        self._catalog = catalog if manifest.catalog is None else manifest.catalog
        self._manifest = manifest
        self._snapshot = snapshot
        self._progress = progress
        self._eager = eager
        self._timeout_seconds = manifest.reload.step_timeout_seconds

    def prepare(self, plan: Plan) -> None:
        """Carry out what can fail; see `findings` afterwards."""
        hooked: list[Provider] = []
        for action in plan:
            if action.kind == "default":
                self.default = SetDefault(action.name)
            elif action.new is None and action.old is not None:
                self.changes.append(Change(action.old.name, self._snapshot[action.old.name], None))
            elif action.new is not None:
                provider = self._stage(action.new, action)
                if provider in self._staged and action.kind in ("add", "replace"):
                    hooked.append(provider)
        with self._registry.staging(self._staged):
            refused = [provider for provider in hooked if not self._ask_hooks(provider)]
            for provider in self._to_warm() if self._eager else ():
                if provider not in refused:
                    what = f"opening the storage of provider {provider.name!r}"
                    self._try(what, provider.name, partial(self._registry.warm, provider))

    def dispose(self) -> None:
        """Nothing of it is needed any more."""
        while self._undo:
            what, name, undo = self._undo.pop()
            try:
                self._progress.run(what, name, undo, self._timeout_seconds, has_to_be=True)
            except Exception:
                _logger.exception("%s failed", what)

    # ------------------------------------------------------------------ steps

    def _stage(self, spec: ProviderSpec, action: Action) -> Provider | None:
        """The provider as it will be, and its change; a new revision unless the old one can stay."""
        name, existing = spec.name, self._snapshot.get(spec.name)
        if existing is not None and existing.origin == "code" and not existing.replaceable:
            self._find(name, "SC306", NAME_IS_TAKEN)
            self.is_hopeless = True
            return None
        types = self._try(f"loading the type {spec.type!r}", name, partial(self._catalog.factory, spec.type))
        if not types:
            return None
        make = partial(self._make, spec, types[0])
        made = self._try(f"asking type {spec.type!r} what it is", name, make, says_why=True)
        if not made:
            return None
        provider = made[0]
        is_same_code = (
            existing is not None
            and existing.origin == "manifest"
            and existing.type == spec.type
            and existing.spec.implementation == spec.implementation
        )
        if existing is not None and is_same_code and is_same(existing.spec.config, spec.config):
            # Only metadata differs, or it comes back before its last lease has gone: its storage stays open.
            provider = replace(existing, spec=spec, metadata=provider.metadata)
            self.changes.append(Change(name, existing, provider))
            return provider
        opening = None if existing is None or existing.state == "retiring" else existing.live.shared
        if existing is not None and opening is not None and opening.backend is not None:
            if is_same_code and action.kind == "update":
                turned = self._turn_over(existing, spec, provider, opening)
                if turned is None or turned.live is existing.live:
                    return turned
            if not self._may_be_closed(name, opening):
                return None
        self._staged.append(provider)
        what = f"closing the new storage of provider {name!r}"
        self._undo.append((what, name, partial(self._registry.discard, provider)))
        self.changes.append(Change(name, existing, provider))
        return provider

    def _make(self, spec: ProviderSpec, factory: StorageProviderFactory) -> Provider:
        base_directory = self._manifest.path.parent
        return self._registry.stage(spec, factory, origin="manifest", base_directory=base_directory)

    def _turn_over(
        self, existing: Provider, spec: ProviderSpec, fresh: Provider, opening: Opening
    ) -> Provider | None:
        """The provider on the storage that it has, if that can take the config in place; else `fresh`; None:
        it refuses the config."""
        backend: Any = opening.backend
        is_alone = set(existing.live.openings.copy()) == {opening}
        if existing.declared is not None or not is_alone:
            return fresh
        ask = partial(_offer, backend, deepcopy(dict(spec.config)))
        answers = self._try(f"reconfiguring provider {spec.name!r}", spec.name, ask, on_late=_discard)
        if not answers:
            return None
        offer = answers[0]
        if offer is None:
            return fresh
        provider = replace(existing, spec=spec, metadata=fresh.metadata)
        self.turnovers.append(Turnover(provider, offer))
        what = f"taking back the new config of provider {spec.name!r}"
        self._undo.append((what, spec.name, offer.discard))
        self.changes.append(Change(spec.name, existing, provider, in_place=True))
        return provider

    def _may_be_closed(self, name: str, opening: Opening) -> bool:
        """Whether nothing is lost with a storage that something else takes the place of."""
        backend: Any = opening.backend
        if opening.source is None or not opening.source.durability.volatile:
            return True
        counts = self._try(
            f"asking provider {name!r} for its tapes", name, lambda: backend.stats().tape_count
        )
        if not counts:
            return False
        if not counts[0] and not opening.leases:
            return True
        held = "1 tape" if counts[0] == 1 else f"{counts[0]} tapes"
        what = (
            f"holds {held} that would be lost" if counts[0] else "is in use, and would lose what it records"
        )
        hint = "export and delete the tapes, or give the new storage another name"
        self._find(name, "SC709", f"the storage of `{name}` {what}", hint)
        return False

    def _ask_hooks(self, provider: Provider) -> bool:
        for hook in self._registry.init_hooks():
            words = getattr(hook, "__qualname__", type(hook).__qualname__)
            what = f"init hook {words} of provider {provider.name!r}"
            ask = partial(self._registry.run_hooks, provider, [hook])
            if not self._try(what, provider.name, ask, is_hook=True):
                return False
        return True

    def _to_warm(self) -> list[Provider]:
        """The default, and whatever replaces a storage that is open."""
        by_name = {provider.name: provider for provider in self._staged}
        replaced = [p for p in self._staged if (old := self._snapshot.get(p.name)) and old.live.shared]
        default = self.default.name if self.default is not None else self._snapshot.default
        provider = by_name.get(default or FALLBACK_DEFAULT)
        if provider is None and self.default is not None and default is not None:
            provider = self._snapshot.get(default)
        return replaced if provider is None or provider in replaced else [*replaced, provider]

    def _try(
        self,
        what: str,
        name: str,
        step: Callable[[], _T],
        *,
        on_late: Callable[[_T], object] | None = None,
        is_hook: bool = False,
        says_why: bool = False,
    ) -> tuple[_T, ...]:
        """What came of one step; nothing, where it raised: that becomes findings. `says_why`: the text of a
        `TypeError` is our own."""
        try:
            return (self._progress.run(what, name, step, self._timeout_seconds, on_late),)
        except OverdueError as error:
            hint = "the status says where it is; `reload.step_timeout_seconds` is what it may take"
            self._find(name, "SC705", f"{what}: {error}", hint)
        except EscapedError as error:
            self._find(name, "SC702" if is_hook else "SC701", f"{what}: {error}")
            self.is_hopeless = True
        except InvalidConfigError as error:
            spec = self._manifest.providers[name]
            for problem in error.problems:
                self._find(name, "SC703", redact(problem, spec.config, spec.secrets))
            self.is_hopeless = True
        except InitHookError as error:
            self._find(name, "SC702", str(error))
            cause = error.__cause__
            self.is_hopeless |= not (isinstance(cause, OSError) or getattr(cause, "retryable", False))
        except RegistryError as error:
            self._find(name, "SC701", str(error))
            self.is_hopeless |= not error.retryable
        except (TypeError, ValueError) as error:
            self._find(
                name, "SC703", str(error) if says_why else f"{what} failed with {type(error).__name__}"
            )
            self.is_hopeless = True
        except OSError as error:
            self._find(name, "SC701", f"{what} failed: {translate(error)}")
        except Exception as error:  # noqa: BLE001 - foreign code; its text may hold anything, its type does not
            self._find(name, "SC701", f"{what} failed with {type(error).__name__}")
            self.is_hopeless = True
        return ()

    def _find(self, name: str, code: str, message: str, hint: str | None = None) -> None:
        mark = self._manifest.provider_marks.get(name) or Mark.at_start(str(self._manifest.path))
        self.findings.append(Finding(code, message, mark, ("providers", name), hint))


def _offer(backend: Any, config: Config) -> Reconfiguration | None:
    """What it would do to take this config in place; None: it cannot."""
    if not hasattr(backend, "reconfigure"):  # which is asking foreign code, too
        return None
    offer: Reconfiguration | None = backend.reconfigure(config)
    return offer


def _discard(offer: Reconfiguration | None) -> None:
    if offer is not None:
        offer.discard()
