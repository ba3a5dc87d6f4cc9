"""Carry out what a manifest asks for: plan, prepare, commit, retire.

Prepare touches new objects only and runs without any lock; whatever fails there, everything that was
prepared is disposed of, in reverse, and nothing was changed. Commit is one swap. Retire closes what
nobody uses any more. The manifest owns the providers that came from it, and no others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .catalog import Catalog
from .errors import Finding, ProviderInUseError, ProviderNotFoundError, StalePlanError
from .generations import Change, Committed, Terms
from .guards import as_findings, blockers, in_use
from .manifest import Manifest, ReloadPolicy
from .marks import Mark
from .metadata import Holder
from .openings import CLOSE_PATIENCE_SECONDS
from .plan import Action, Plan, State, diff
from .prepare import Preparation, Turnover
from .preview import PlanReport, preview
from .progress import Progress
from .registry import StorageProviderRegistry
from .snapshot import Snapshot

_ATTEMPTS: Final = 5
"""How often to plan anew when code changes the very providers that are being reconciled."""

_logger = logging.getLogger(__name__)


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
    retryable: bool = False
    """The same may succeed later without anybody changing the manifest."""

    @classmethod
    def nothing(cls, generation: int) -> Report:
        """There was nothing to do."""
        return cls(generation, Plan())


def reconcile(
    registry: StorageProviderRegistry,
    catalog: Catalog,
    manifest: Manifest,
    *,
    running: Manifest | None,
    eager: bool = True,
    cancelled: threading.Event | None = None,
    progress: Progress | None = None,
) -> Report:
    """Bring the manifest's providers in `registry` to what `manifest` says.

    `running` is the manifest that was applied last, None: there was none. A default that code has set since
    then holds until the manifest's own changes, and of the policies of the two the stricter counts. Unless
    `eager`, nothing is opened before it is used, the default neither. Once `cancelled` is set, nothing is
    committed any more. `progress` is told what is going on, and runs what is foreign.

    Raises:
        RuntimeClosedError: it was cancelled. Nothing was changed.
    """
    own = progress or Progress()
    try:
        return _reconcile(registry, catalog, manifest, running, own, cancelled, eager=eager)
    finally:
        own.enter(None)
        if progress is None:
            own.close()


def _reconcile(
    registry: StorageProviderRegistry,
    catalog: Catalog,
    manifest: Manifest,
    running: Manifest | None,
    progress: Progress,
    cancelled: threading.Event | None,
    *,
    eager: bool,
) -> Report:
    policy = manifest.reload if running is None else manifest.reload.with_stricter(running.reload)
    for _ in range(_ATTEMPTS):
        progress.enter("plan")
        snapshot = registry.snapshot()
        plan = make_plan(snapshot, manifest, running)
        if not plan:
            return Report.nothing(snapshot.generation)
        if refused := _refused(registry, plan, snapshot, manifest, running, policy):
            return refused
        progress.enter("prepare")
        preparation = Preparation(registry, catalog, manifest, snapshot, progress, eager=eager)
        try:
            preparation.prepare(plan)
            if preparation.findings:
                preparation.dispose()
                return _failed(preparation, plan, snapshot)
            progress.enter("commit")
            terms = Terms(snapshot.default, policy.on_removal_in_use == "reject", cancelled)
            committed = registry.commit(preparation.changes, preparation.default, terms)
        except StalePlanError as error:
            preparation.dispose()
            stale = error
            continue
        except ProviderInUseError as error:  # since the look before the preparation
            preparation.dispose()
            findings = as_findings([in_use(error.name, error.holders, rejects=True)], manifest)
            return Report(snapshot.generation, plan, findings=tuple(findings), retryable=True)
        except BaseException:
            preparation.dispose()
            raise
        progress.enter("retire")
        for turnover in preparation.turnovers:
            _apply(registry, turnover, manifest, progress)
        registry.retire(committed, CLOSE_PATIENCE_SECONDS)
        return _succeeded(committed, plan)
    start = Mark.at_start(str(manifest.path))
    mark = manifest.provider_marks.get(stale.provider or "", start)
    pointer = ("providers", stale.provider) if stale.provider else ("defaults", "provider")
    finding = Finding("SC704", str(stale), mark, pointer)
    return Report(registry.snapshot().generation, plan, findings=(finding,), retryable=True)


def make_plan(snapshot: Snapshot, manifest: Manifest, running: Manifest | None) -> Plan:
    """What `manifest` would change. Providers that code registered are not part of it."""
    owned = {
        name: provider.declared or provider.spec
        for name, provider in snapshot.items()
        if provider.origin == "manifest" and provider.state == "active"
    }
    applied_default = running.default if running is not None else None
    desired = State(manifest.providers, manifest.default)
    plan = diff(State(owned, applied_default), desired)
    serving = snapshot.get(snapshot.default) if snapshot.default is not None else None
    leaves = serving is not None and serving.origin == "manifest" and serving.name not in desired.providers
    if leaves and desired.default == applied_default:
        # The default that code has set goes away: the manifest's own takes over again.
        plan = Plan((*plan, Action("default", desired.default, old_default=snapshot.default)))
    return plan


def preview_reload(registry: StorageProviderRegistry, manifest: Manifest, running: Manifest) -> PlanReport:
    """What `reconcile` would do now, as far as can be told without doing it."""
    snapshot = registry.snapshot()
    plan = make_plan(snapshot, manifest, running)
    return preview(
        plan, snapshot, manifest, running, holders_of(registry, plan.names("remove", "update", "replace"))
    )


def holders_of(registry: StorageProviderRegistry, names: Sequence[str]) -> Mapping[str, Sequence[Holder]]:
    """Who has leases of these, by name; one that has left is left out."""
    found: dict[str, Sequence[Holder]] = {}
    for name in names:
        with suppress(ProviderNotFoundError):  # it has left since
            found[name] = registry.holders(name)
    return found


def _refused(
    registry: StorageProviderRegistry,
    plan: Plan,
    snapshot: Snapshot,
    manifest: Manifest,
    running: Manifest | None,
    policy: ReloadPolicy,
) -> Report | None:
    """What is refused before anything is prepared."""
    removed = plan.names("remove")
    declared_count = len(running.providers) if running is not None else 0
    found = blockers(plan, snapshot, policy, holders_of(registry, removed), declared_count)
    # A name that is taken is found by the preparation too, along with all that it finds.
    findings = as_findings([blocker for blocker in found if blocker.code != "SC306"], manifest)
    if not findings:
        return None
    is_only_in_use = all(finding.code == "SC708" for finding in findings)
    return Report(snapshot.generation, plan, findings=tuple(findings), retryable=is_only_in_use)


def _failed(preparation: Preparation, plan: Plan, snapshot: Snapshot) -> Report:
    return Report(
        snapshot.generation,
        plan,
        findings=tuple(preparation.findings),
        retryable=not preparation.is_hopeless,
    )


def _succeeded(committed: Committed, plan: Plan) -> Report:
    return Report(
        committed.generation,
        plan,
        added=plan.names("add"),
        updated=plan.names("update", "replace", "metadata"),
        removed=tuple(name for name in plan.names("remove") if name not in committed.retiring),
        retiring=committed.retiring,
    )


def _apply(
    registry: StorageProviderRegistry, turnover: Turnover, manifest: Manifest, progress: Progress
) -> None:
    """Let a storage take its new config. It has promised that this cannot fail; where it does, another
    revision takes its place, with that config from the start."""
    provider = turnover.provider
    what = f"applying the new config of provider {provider.name!r}"
    try:
        timeout_seconds = manifest.reload.step_timeout_seconds
        apply = turnover.reconfiguration.apply
        progress.run(what, provider.name, apply, timeout_seconds, has_to_be=True)
    except Exception:
        _logger.exception("%s failed, although it had been accepted; a new revision takes its place", what)
        current = registry.snapshot().get(provider.name)
        if current is None or current.live is not provider.live:
            return  # code has put something else there
        fresh = registry.stage(
            provider.spec, provider.factory, origin="manifest", base_directory=provider.base_directory
        )
        with suppress(StalePlanError):
            registry.retire(registry.commit([Change(provider.name, current, fresh)]), CLOSE_PATIENCE_SECONDS)
