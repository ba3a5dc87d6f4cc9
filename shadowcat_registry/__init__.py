"""Configuration-driven storage for MCP tapes: a manifest, a live registry, hot reload.

    import shadowcat_registry as sr

    with sr.open_registry("registry.yaml") as runtime:
        with runtime.registry.get_default_storage() as storage:
            with storage.record(session_id="s-1") as tape:
                tape.append("client_to_server", b'{"jsonrpc":"2.0","id":1,"method":"ping"}')

The public names are those in `__all__`. Importing the package loads none of them: each comes out of its
module, named in the table below, when it is first used (PEP 562). That keeps `import` fast, and free of
effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backend import (
        Appender,
        CreateContext,
        Durability,
        FrameReader,
        Page,
        Reconfiguration,
        RepairReport,
        SearchableBackend,
        SearchHit,
        SearchPage,
        StorageProviderFactory,
        StorageStats,
        TapeQuery,
        TapeStorageBackend,
        TransactionalBackend,
    )
    from .catalog import Catalog
    from .errors import (
        AlreadyInitializedError,
        ConstructionTimeoutError,
        CreationFailedError,
        DefaultNotSetError,
        DependencyCycleError,
        Finding,
        FrameNotFoundError,
        InitHookError,
        InstanceExistsError,
        InstanceNotFoundError,
        InvalidConfigError,
        InvalidMessageError,
        InvalidMetadataError,
        InvalidNameError,
        InvalidTapeError,
        InvalidTapeIdError,
        ManifestError,
        ManifestNotFoundError,
        MetadataConflictError,
        PluginError,
        ProviderExistsError,
        ProviderInUseError,
        ProviderNotFoundError,
        ProviderProtectedError,
        ProviderRetiringError,
        RecorderOpenError,
        RegistryError,
        RegistryForkedError,
        RunningLoopError,
        RuntimeClosedError,
        StalePlanError,
        StorageClosedError,
        StorageDamagedError,
        StorageError,
        StorageFullError,
        StorageUnavailableError,
        SyncFailedError,
        TapeBusyError,
        TapeExistsError,
        TapeNotFoundError,
        TransactionError,
        UnknownTypeError,
        UnsupportedCapabilityError,
    )
    from .events import Event
    from .guards import Blocker
    from .housekeeping import PruneReport
    from .last_good import Keeping
    from .load import load_manifest
    from .manifest import Manifest, ReloadPolicy
    from .marks import Mark
    from .metadata import (
        Health,
        HealthPolicy,
        Holder,
        PluginInfo,
        ProviderCapability,
        ProviderInfo,
        ProviderMetadata,
        ProviderSpec,
        RevisionInfo,
        Unclosed,
    )
    from .notify import ServiceNotifier
    from .plan import FieldChange
    from .plugins.decorator import provider
    from .preview import PlannedAction, PlanReport
    from .reader import TapeReader
    from .recorder import TapeRecorder
    from .registry import StorageProviderRegistry
    from .retention import Removal, Retention
    from .runtime import Runtime
    from .snapshot import Provider, Snapshot
    from .startup import (
        STORAGE_REGISTRY,
        initialize_storage,
        load_plugin_providers,
        open_registry,
        register_builtin_providers,
    )
    from .status import Condition, HistoryEntry, Outcome, Phase, Status, Step
    from .storage import TapeStorage
    from .tape import Direction
    from .tapes.copying import CopyProgress, CopyResult, copy_tapes
    from .tapes.exporting import export_tape
    from .tapes.importing import ImportResult, import_tape
    from .tapes.pruning import prune_tapes
    from .tapes.verifying import Flaw, VerifyReport, verify_tape
    from .tapes.wholes import back_up, find_damages

_HOMES = {
    "backend": (
        "Appender CreateContext Durability FrameReader Page Reconfiguration RepairReport SearchableBackend "
        "SearchHit SearchPage StorageProviderFactory StorageStats TapeQuery TapeStorageBackend "
        "TransactionalBackend"
    ),
    "catalog": "Catalog",
    "errors": (
        "AlreadyInitializedError ConstructionTimeoutError CreationFailedError DefaultNotSetError "
        "DependencyCycleError Finding FrameNotFoundError InitHookError InstanceExistsError "
        "InstanceNotFoundError InvalidConfigError InvalidMessageError InvalidMetadataError "
        "InvalidNameError InvalidTapeError InvalidTapeIdError ManifestError ManifestNotFoundError "
        "MetadataConflictError PluginError ProviderExistsError ProviderInUseError ProviderNotFoundError "
        "ProviderProtectedError ProviderRetiringError RecorderOpenError RegistryError "
        "RegistryForkedError RunningLoopError RuntimeClosedError StalePlanError StorageClosedError "
        "StorageDamagedError StorageError StorageFullError StorageUnavailableError SyncFailedError "
        "TapeBusyError TapeExistsError TapeNotFoundError TransactionError UnknownTypeError "
        "UnsupportedCapabilityError"
    ),
    "events": "Event",
    "guards": "Blocker",
    "housekeeping": "PruneReport",
    "last_good": "Keeping",
    "load": "load_manifest",
    "manifest": "Manifest ReloadPolicy",
    "marks": "Mark",
    "metadata": (
        "Health HealthPolicy Holder PluginInfo ProviderCapability ProviderInfo ProviderMetadata ProviderSpec "
        "RevisionInfo Unclosed"
    ),
    "reader": "TapeReader",
    "recorder": "TapeRecorder",
    "registry": "StorageProviderRegistry",
    "runtime": "Runtime",
    "notify": "ServiceNotifier",
    "plan": "FieldChange",
    "plugins.decorator": "provider",
    "preview": "PlannedAction PlanReport",
    "retention": "Removal Retention",
    "snapshot": "Provider Snapshot",
    "status": "Condition HistoryEntry Outcome Phase Status Step",
    "startup": (
        "STORAGE_REGISTRY initialize_storage load_plugin_providers open_registry register_builtin_providers"
    ),
    "storage": "TapeStorage",
    "tape": "Direction",
    "tapes.copying": "CopyProgress CopyResult copy_tapes",
    "tapes.exporting": "export_tape",
    "tapes.importing": "ImportResult import_tape",
    "tapes.pruning": "prune_tapes",
    "tapes.verifying": "Flaw VerifyReport verify_tape",
    "tapes.wholes": "back_up find_damages",
}
_home_of = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "STORAGE_REGISTRY",
    "AlreadyInitializedError",
    "Appender",
    "Blocker",
    "Catalog",
    "Condition",
    "ConstructionTimeoutError",
    "CopyProgress",
    "CopyResult",
    "CreateContext",
    "CreationFailedError",
    "DefaultNotSetError",
    "DependencyCycleError",
    "Direction",
    "Durability",
    "Event",
    "FieldChange",
    "Finding",
    "Flaw",
    "FrameNotFoundError",
    "FrameReader",
    "Health",
    "HealthPolicy",
    "HistoryEntry",
    "Holder",
    "ImportResult",
    "InitHookError",
    "InstanceExistsError",
    "InstanceNotFoundError",
    "InvalidConfigError",
    "InvalidMessageError",
    "InvalidMetadataError",
    "InvalidNameError",
    "InvalidTapeError",
    "InvalidTapeIdError",
    "Keeping",
    "Manifest",
    "ManifestError",
    "ManifestNotFoundError",
    "Mark",
    "MetadataConflictError",
    "Outcome",
    "Page",
    "Phase",
    "PlanReport",
    "PlannedAction",
    "PluginError",
    "PluginInfo",
    "Provider",
    "ProviderCapability",
    "ProviderExistsError",
    "ProviderInUseError",
    "ProviderInfo",
    "ProviderMetadata",
    "ProviderNotFoundError",
    "ProviderProtectedError",
    "ProviderRetiringError",
    "ProviderSpec",
    "PruneReport",
    "Reconfiguration",
    "RecorderOpenError",
    "RegistryError",
    "RegistryForkedError",
    "ReloadPolicy",
    "Removal",
    "RepairReport",
    "Retention",
    "RevisionInfo",
    "RunningLoopError",
    "Runtime",
    "RuntimeClosedError",
    "SearchHit",
    "SearchPage",
    "SearchableBackend",
    "ServiceNotifier",
    "Snapshot",
    "StalePlanError",
    "Status",
    "Step",
    "StorageClosedError",
    "StorageDamagedError",
    "StorageError",
    "StorageFullError",
    "StorageProviderFactory",
    "StorageProviderRegistry",
    "StorageStats",
    "StorageUnavailableError",
    "SyncFailedError",
    "TapeBusyError",
    "TapeExistsError",
    "TapeNotFoundError",
    "TapeQuery",
    "TapeReader",
    "TapeRecorder",
    "TapeStorage",
    "TapeStorageBackend",
    "TransactionError",
    "TransactionalBackend",
    "Unclosed",
    "UnknownTypeError",
    "UnsupportedCapabilityError",
    "VerifyReport",
    "back_up",
    "copy_tapes",
    "export_tape",
    "find_damages",
    "import_tape",
    "initialize_storage",
    "load_manifest",
    "load_plugin_providers",
    "open_registry",
    "provider",
    "prune_tapes",
    "register_builtin_providers",
    "verify_tape",
]


def __getattr__(name: str) -> object:
    module = _home_of.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
