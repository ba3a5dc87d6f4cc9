"""Carry out what a manifest asks for: prepare, commit, retire.

Prepare touches new objects only and runs without any lock; whatever fails there, everything that was
prepared is disposed of, in reverse, and nothing was changed. Commit is one swap. Retire closes what
nobody uses any more. The manifest owns the providers that came from it, and no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from .catalog import Catalog
from .errors import (
    Finding,
    InitHookError,
    InvalidConfigError,
    RegistryError,
    StalePlanError,
)
from .generations import FALLBACK_DEFAULT, Change, SetDefault
from .manifest import Manifest
from .marks import Mark
from .metadata import ProviderSpec
from .openings import CLOSE_PATIENCE_SECONDS
from .plan import Action, Plan, State, diff, is_same
from .registry import StorageProviderRegistry
from .snapshot import Provider, Snapshot

_ATTEMPTS: Final = 5
"""How often to plan anew when code changes the very providers that are being reconciled."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a reconciliation; the tuples hold names of providers.

    With findings, nothing was changed at all. Without, `generation` is the one that now serves the
    manifest; it is the old one when there was nothing to do.
    """

    generation: int
    plan: Plan
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    retiring: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @classmethod
    def nothing(cls, generation: int) -> Report:
        """There was nothing to do."""
        return cls(generation, Plan())


def reconcile(
    registry: StorageProviderRegistry,
    catalog: Catalog,
    manifest: Manifest,
    *,
    applied_default: str | None,
    eager: bool = True,
    cancelled: threading.Event | None = None,
) -> Report:
    """Bring the manifest's providers in `registry` to what `manifest` says.

    `applied_default` is the default of the manifest that was applied last: one that code has set since
    then holds until the manifest's own changes. Unless `eager`, nothing is opened before it is used, the
    default neither. Once `cancelled` is set, nothing is committed any more.

    Raises:
        RuntimeClosedError: it was cancelled. Nothing was changed.
    """
    for _ in range(_ATTEMPTS):
        snapshot = registry.snapshot()
        plan = make_plan(snapshot, manifest, applied_default)
        if not plan:
            return Report.nothing(snapshot.generation)
        attempt = _Attempt(registry, catalog, manifest, snapshot, eager)
        try:
            attempt.prepare(plan)
            if attempt.findings:
                attempt.dispose()
                return Report(snapshot.generation, plan, findings=tuple(attempt.findings))
            committed = registry.commit(attempt.changes, attempt.default, cancelled=cancelled)
        except StalePlanError as error:
            attempt.dispose()
            stale = error
            continue
        except BaseException:
            attempt.dispose()
            raise
        registry.retire(committed, CLOSE_PATIENCE_SECONDS)
        removed = [action.name for action in plan if action.kind == "remove" and action.name]
        return Report(
            committed.generation,
            plan,
            added=tuple(a.name for a in plan if a.kind == "add" and a.name),
            updated=tuple(a.name for a in plan if a.kind in ("update", "replace", "relabel") and a.name),
            removed=tuple(name for name in removed if name not in committed.retiring),
            retiring=committed.retiring,
        )
    mark = manifest.provider_marks.get(stale.provider, Mark.at_start(str(manifest.path)))
    finding = Finding("SC704", str(stale), mark, ("providers", stale.provider))
    return Report(registry.snapshot().generation, plan, findings=(finding,))


def make_plan(snapshot: Snapshot, manifest: Manifest, applied_default: str | None) -> Plan:
    """What `manifest` would change. Providers that code registered are not part of it."""
    owned = {
        name: provider.declared or provider.spec
        for name, provider in snapshot.items()
        if provider.origin == "manifest" and provider.state == "active"
    }
    desired = State(manifest.providers, manifest.default)
    plan = diff(State(owned, applied_default), desired)
    serving = snapshot.get(snapshot.default) if snapshot.default is not None else None
    leaves = serving is not None and serving.origin == "manifest" and serving.name not in desired.providers
    if leaves and desired.default == applied_default:
        # The default that code has set goes away: the manifest's own takes over again.
        plan = Plan((*plan, Action("default", desired.default)))
    return plan


class _Attempt:
    """One pass over one plan, against one snapshot."""

    def __init__(
        self,
        registry: StorageProviderRegistry,
        catalog: Catalog,
        manifest: Manifest,
        snapshot: Snapshot,
        eager: bool,
    ) -> None:
        self.changes: list[Change] = []
        self.default: SetDefault | None = None
        self.findings: list[Finding] = []
        self._staged: list[Provider] = []
        self._registry = registry
        self._catalog = catalog
        self._manifest = manifest
        self._snapshot = snapshot
        self._eager = eager

    def prepare(self, plan: Plan) -> None:
        """Everything that can fail; each failure becomes a finding at the provider's place."""
        hooked: list[Provider] = []
        for action in plan:
            if action.kind == "default":
                self.default = SetDefault(action.name)
            elif action.old is not None and action.new is None:
                self.changes.append(Change(action.old.name, self._snapshot[action.old.name], None))
            elif action.new is not None:
                provider = self._stage(action.new)
                if provider is not None and provider in self._staged and action.kind in ("add", "replace"):
                    hooked.append(provider)
        with self._registry.staging(self._staged):
            refused = [
                provider
                for provider in hooked
                if not self._try(provider.name, partial(self._registry.run_hooks, provider))
            ]
            for provider in self._to_warm() if self._eager else ():
                if provider in refused:
                    continue
                self._try(provider.name, partial(self._registry.warm, provider))

    def dispose(self) -> None:
        for provider in reversed(self._staged):
            self._registry.discard(provider)

    def _stage(self, spec: ProviderSpec) -> Provider | None:
        """The provider as it will be, and its change; a new revision unless the old one can stay."""
        existing = self._snapshot.get(spec.name)
        if existing is not None and existing.origin == "code" and not existing.replaceable:
            self._find(
                spec.name, "SC306", "code of this process has registered a provider of this name already"
            )
            return None
        staged: list[Provider] = []

        def stage() -> None:
            factory = self._catalog.factory(spec.type)
            base_directory = self._manifest.path.parent
            staged.append(
                self._registry.stage(spec, factory, origin="manifest", base_directory=base_directory)
            )

        if not self._try(spec.name, stage):
            return None
        provider = staged[0]
        same = existing is not None and existing.origin == "manifest" and existing.type == spec.type
        if same and existing is not None and is_same(existing.spec.config, spec.config):
            # Only labels differ, or it comes back before its last lease has gone: its storage stays open.
            provider = replace(existing, spec=spec, metadata=provider.metadata)
        else:
            self._staged.append(provider)
        self.changes.append(Change(spec.name, existing, provider))
        return provider

    def _to_warm(self) -> list[Provider]:
        """The default, and whatever replaces a storage that is open."""
        by_name = {provider.name: provider for provider in self._staged}
        replaced = [p for p in self._staged if (old := self._snapshot.get(p.name)) and old.live.shared]
        default = self.default.name if self.default is not None else self._snapshot.default
        provider = by_name.get(default or FALLBACK_DEFAULT)
        if provider is None and self.default is not None and default is not None:
            provider = self._snapshot.get(default)
        return replaced if provider is None or provider in replaced else [*replaced, provider]

    def _try(self, name: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except InvalidConfigError as error:
            for problem in error.problems:
                self._find(name, "SC703", problem)
        except InitHookError as error:
            self._find(name, "SC702", str(error))
        except RegistryError as error:
            self._find(name, "SC701", str(error))
        except TypeError as error:
            self._find(name, "SC703", str(error))
        else:
            return True
        return False

    def _find(self, name: str, code: str, message: str) -> None:
        mark = self._manifest.provider_marks.get(name) or Mark.at_start(str(self._manifest.path))
        self.findings.append(Finding(code, message, mark, ("providers", name)))
