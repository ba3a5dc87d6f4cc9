"""Any sequence of manifests, leases, faults and meddling code: after each, the providers of the manifest are
exactly those of the manifest that was accepted last, whoever holds a lease still has it, and nothing else is
open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shadowcat_registry.catalog import Catalog
from shadowcat_registry.errors import RegistryError
from shadowcat_registry.load import parse_manifest
from shadowcat_registry.manifest import Manifest
from shadowcat_registry.plan import is_same
from shadowcat_registry.reconcile import make_plan, preview_reload, reconcile
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import Factory

NAMES = "abcd"
_entries = st.fixed_dictionaries(
    {"type": st.sampled_from(["fake", "other"])},
    optional={
        "config": st.sampled_from([{}, {"n": 1}, {"n": True}, {"in_place": 1}, {"in_place": 2}]),
        "display_name": st.sampled_from(["One", "Two"]),
        "protect": st.booleans(),
    },
)
_providers = st.dictionaries(st.sampled_from(NAMES), _entries, min_size=1)
_policies = st.fixed_dictionaries(
    {},
    optional={
        "on_removal_in_use": st.sampled_from(["retire", "reject"]),
        "allow_mass_removal": st.booleans(),
    },
)


class Offer:
    def apply(self) -> None:
        """It is nothing to a fake."""

    def discard(self) -> None:
        """Nor this."""


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.factories = [self._factory("fake"), self._factory("other")]
        self.catalog = Catalog(self.factories)
        self.registry = StorageProviderRegistry()
        self.accepted: Manifest | None = None
        self.leases: list[TapeStorage] = []
        self.by_code: set[str] = set()

    def _factory(self, name: str) -> Factory:
        def reconfigure(_: object, config: Any) -> Offer | None:
            return Offer() if "in_place" in config else None

        return Factory(name, on_create=self._create, on_reconfigure=reconfigure)

    def _create(self, *_: object) -> None:
        if self.fails:
            raise ConnectionRefusedError(111, "Connection refused")

    def teardown(self) -> None:
        for lease in self.leases:
            lease.close()
        self.registry.close()
        assert sum(factory.open_count for factory in self.factories) == 0

    @rule(
        providers=_providers,
        policy=_policies,
        default=st.none() | st.sampled_from(NAMES),
        fails=st.booleans(),
    )
    def declare(
        self, providers: dict[str, Any], policy: dict[str, Any], default: str | None, fails: bool
    ) -> None:
        defaults = {"provider": default} if default in providers else {}
        document = {"version": 1, "reload": policy, "defaults": defaults, "providers": providers}
        path = Path("registry.yaml").absolute()
        manifest = parse_manifest(json.dumps(document).encode(), path, self.catalog, {})
        before = self.registry.snapshot()
        report = None
        if self.accepted is not None:
            report = preview_reload(self.registry, manifest, self.accepted)
        self.fails = fails
        outcome = reconcile(self.registry, self.catalog, manifest, running=self.accepted)
        self.fails = False
        if outcome.findings:
            assert self.registry.snapshot() is before, "nothing at all of it was done"
            codes = {finding.code for finding in outcome.findings}
            assert codes <= {"SC306", "SC701", "SC706", "SC707", "SC708"}
            assert report is None or report.is_rejected or codes == {"SC701"}
            return
        assert report is None or not report.is_rejected, "the plan has said what would come"
        self.accepted = manifest
        assert outcome.generation == before.generation + bool(outcome.plan)
        assert not make_plan(self.registry.snapshot(), manifest, manifest)

    @rule(name=st.sampled_from(NAMES))
    def open(self, name: str) -> None:
        try:
            self.leases.append(self.registry.open_storage(name))
        except RegistryError:
            state = self.registry.snapshot().get(name)
            assert state is None or state.state == "retiring"

    @rule(index=st.integers(0, 5))
    def close(self, index: int) -> None:
        if index < len(self.leases):
            self.leases.pop(index).close()

    @rule(name=st.sampled_from([*NAMES, "mine"]))
    def register(self, name: str) -> None:
        if name not in self.registry:
            self.registry.register(Factory("code"), name=name)
            self.by_code.add(name)

    @rule(name=st.sampled_from([*NAMES, "mine"]))
    def unregister(self, name: str) -> None:
        if name in self.by_code and not self.registry.holders(name):
            self.registry.unregister(name)
            self.by_code.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def set_default(self, name: str) -> None:
        provider = self.registry.snapshot().get(name)
        if provider is not None and provider.state == "active":
            self.registry.set_default(name)

    @invariant()
    def what_runs_is_what_was_accepted(self) -> None:
        active = {
            name: provider
            for name, provider in self.registry.snapshot().items()
            if provider.origin == "manifest" and provider.state == "active"
        }
        declared = self.accepted.providers if self.accepted is not None else {}
        assert active.keys() == declared.keys()
        for name, provider in active.items():
            assert provider.type == declared[name].type
            assert provider.spec.display_name == declared[name].display_name
            assert provider.spec.protect == declared[name].protect
            assert is_same(provider.spec.config, declared[name].config)

    @invariant()
    def who_holds_a_lease_still_has_it(self) -> None:
        for lease in self.leases:
            lease.stats()

    @invariant()
    def who_retires_is_held(self) -> None:
        for name, provider in self.registry.snapshot().items():
            if provider.state == "retiring":
                assert self.registry.holders(name)

    @invariant()
    def nothing_else_is_open(self) -> None:
        held = {id(lease.use.source.backend) for lease in self.leases}
        kept = {
            id(provider.live.shared.backend)
            for provider in self.registry.snapshot().values()
            if provider.live.shared is not None
        }
        backends = [backend for factory in self.factories for backend in factory.backends]
        still_open = {id(backend) for backend in backends if not backend.close_count}
        assert still_open <= held | kept
        assert all(backend.close_count <= 1 for backend in backends)

    @invariant()
    def a_default_that_is_declared_is_there(self) -> None:
        snapshot = self.registry.snapshot()
        if self.accepted is not None and self.accepted.default is not None:
            assert snapshot.default in snapshot


def test_any_sequence_ends_on_what_was_accepted_last() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=25))
