"""Everything that this package raises, and what a manifest can be wrong about.

    RegistryError
    ├── ManifestError              (ValueError)    the manifest has findings: all of them, with marks
    ├── ManifestNotFoundError      (LookupError)   a named manifest that does not exist
    ├── InvalidNameError           (ValueError)    not a name for a provider or a type
    ├── InvalidConfigError         (ValueError)    a provider's config is refused
    ├── ProviderExistsError        (ValueError)    the name is taken
    ├── ProviderNotFoundError      (LookupError)   no such provider; says what there is
    ├── DefaultNotSetError         (LookupError)   nobody has set a default; says what there is
    ├── UnknownTypeError           (LookupError)   no such provider type; says what there is
    ├── ProviderInUseError         (RuntimeError)  leases are open; says how many and whose
    ├── ProviderProtectedError     (RuntimeError)  declared with `protect: true`: not to be removed
    ├── ProviderRetiringError      (RuntimeError)  removed, waits for its last lease, gives out no new one
    ├── InstanceExistsError        (ValueError)    the instance id is live already
    ├── InstanceNotFoundError      (LookupError)   no live instance of that id
    ├── InitHookError              (RuntimeError)  an init hook refused a provider
    ├── CreationFailedError        (RuntimeError)  the factory could not open the storage
    ├── DependencyCycleError       (RuntimeError)  a storage needs itself to be opened
    ├── ConstructionTimeoutError   (TimeoutError)  somebody else's construction took too long
    ├── StalePlanError             (RuntimeError)  the registry moved on while a plan was prepared
    ├── AlreadyInitializedError    (RuntimeError)  `initialize_storage` was called for another manifest
    ├── RuntimeClosedError         (RuntimeError)  the runtime was closed, or there is nothing to reload
    ├── RegistryForkedError        (RuntimeError)  it is the parent's, and this is a forked child: reopen
    ├── RunningLoopError           (RuntimeError)  it would block an event loop; names the awaitable twin
    ├── PluginError                (RuntimeError)  a plugin is refused; says by which rule, and what mends it
    └── StorageError                               all that goes wrong with tapes
        ├── InvalidTapeIdError     (ValueError)    not safe as a tape id; never rewritten, never a path
        ├── InvalidTapeError       (ValueError)    not a tape, or not one of this format; has a mark
        ├── InvalidMessageError    (ValueError)    not one line: empty, or holds CR or LF
        ├── InvalidMetadataError   (ValueError)    metadata that is no JSON object, or not this tape's
        ├── TapeNotFoundError      (LookupError)
        ├── FrameNotFoundError     (LookupError)   the tape has no such frame, now
        ├── TapeExistsError        (ValueError)
        ├── TapeBusyError          (RuntimeError)  somebody is recording on it; says which process
        ├── MetadataConflictError  (RuntimeError)  the etag is not the current one any more
        ├── UnsupportedCapabilityError (RuntimeError)  this storage cannot do that at all
        ├── StorageClosedError     (ValueError)    used after `close()`
        ├── RecorderOpenError      (RuntimeError)  a handle is closed while it still records
        ├── TransactionError       (RuntimeError)  not possible in, or out of, this transaction
        ├── StorageFullError       (OSError)       no space, quota, or the storage's own bound
        ├── StorageUnavailableError (OSError)      the medium failed: permission, I/O, gone
        ├── StorageDamagedError    (RuntimeError)  what is stored is not what was written
        └── SyncFailedError        (RuntimeError)  what is recorded may not outlive a loss of power

Every error is a value: its fields are its `args`, two are equal when type and fields are, and it
survives pickling. `retryable` says whether the same call can succeed later without anybody
changing the call. No message shows a value out of a config.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nsmallest
from typing import Any, ClassVar, Literal

from .codes import CODES
from .marks import Mark, Pointer, format_pointer, parse_pointer
from .metadata import Holder

Severity = Literal["error", "warning"]

# What stands at the path and whose it is; what was asked for; what it does when it runs.
# fmt: off
PluginRule = Literal[
    "missing", "unreadable", "not-a-file", "symlink", "hard-link", "owner", "writable", "setuid",
    "size", "changed", "sha256", "unpinned", "name", "name-taken", "distribution", "version",
    "import", "shape", "schema", "probe",
]
# fmt: on
"""By which rule a plugin is refused. Stable, never reused."""

_MAX_COMPARED = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a manifest: `str(finding)` is one line that an editor can jump from."""

    code: str
    """Stable, never reused: `SC2xx` are the schema's, `SC3xx` cross references, and so on."""
    message: str
    mark: Mark
    pointer: Pointer = ()
    hint: str | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.mark}: {self.severity} {self.code}: {self.message}{hint}"

    @property
    def title(self) -> str:
        """What every finding of this code has in common."""
        return CODES[self.code]

    @property
    def help(self) -> str:
        """What to do about any finding of this code; `hint` is about this one."""
        from .pages import page  # reads a file: only for those who ask

        return page(self.code).remedy

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
            "help": self.help,
            "file": self.mark.source,
            "line": self.mark.line,
            "column": self.mark.column,
            "end_line": self.mark.end_line,
            "end_column": self.mark.end_column,
            "pointer": format_pointer(self.pointer),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """What `as_json` gave; names and indices in its pointer are texts then."""
        place = (value["line"], value["column"], value["end_line"], value["end_column"])
        mark = Mark(value["file"], *place)
        pointer = parse_pointer(value["pointer"])
        return cls(value["code"], value["message"], mark, pointer, value["hint"], value["severity"])


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The line that a finding points at, made safe to show: whatever may be secret in it is masked."""

    mark: Mark
    """Of the finding."""
    text: str
    """Without comments; of a long line only the surroundings of the place."""
    start: int
    """The first character of `text` that is meant; behind the last one where something is missing."""
    end: int
    """Behind the last of them; what goes on in the next line is not in the text."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding that knows its place in the data and not yet in a text."""

    pointer: Pointer
    code: str
    message: str
    hint: str | None = None
    on_key: bool = False
    """It is the key that is wrong, not its value."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A hint that names the nearest of `candidates`, or None where nothing is near."""
    # Longer names cost quadratic time and are nobody's typo. Of very many, those that are alike at a look.
    if len(name) > 64:
        return None
    known = [candidate for candidate in candidates if len(candidate) <= 64]
    if len(known) > _MAX_COMPARED:
        known = nsmallest(
            _MAX_COMPARED, known, key=lambda it: (it[:2] != name[:2], abs(len(it) - len(name)), it)
        )
    near = get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _listing(names: Sequence[str], *, most: int = 20) -> str:
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    hint = did_you_mean(name, known)
    return f"no {kind} {name!r} (there is: {_listing(known)})" + (f"; {hint}" if hint else "")


def one_line(text: str) -> str:
    """Without what would break a line, or act on a terminal."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


class RegistryError(Exception):
    """The root of all errors of this package."""

    retryable: ClassVar[bool] = False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == other.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class ManifestError(RegistryError, ValueError):
    """The manifest is refused; `findings` holds everything that is wrong, sorted by place, and `excerpts`
    the lines of those whose text is at hand. `digest` is that of the manifest, if it could be read so far
    that every secret in it could be masked."""

    def __init__(
        self, findings: Iterable[Finding], excerpts: Iterable[Excerpt] = (), digest: str | None = None
    ) -> None:
        self.findings, self.excerpts, self.digest = tuple(findings), tuple(excerpts), digest
        super().__init__(self.findings, self.excerpts, digest)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


class ManifestNotFoundError(RegistryError, LookupError):
    def __init__(self, path: str, reason: str = "there is no such file") -> None:
        self.path, self.reason = path, reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"cannot read the manifest {self.path}: {self.reason}"


class InvalidNameError(RegistryError, ValueError):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)

    def __str__(self) -> str:
        return (
            f"{self.name!r} cannot name a provider: use 1 to 63 of a-z, 0-9, '-' and '_', with a letter first"
        )


class InvalidConfigError(RegistryError, ValueError):
    """The config of `provider` is refused; `problems` says each fault in a line, without its value."""

    def __init__(self, provider: str, problems: Iterable[str]) -> None:
        self.provider, self.problems = provider, tuple(problems)
        super().__init__(provider, self.problems)

    def __str__(self) -> str:
        return f"the config of provider {self.provider!r} is invalid: " + "; ".join(self.problems)


class ProviderExistsError(RegistryError, ValueError):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)

    def __str__(self) -> str:
        return f"a provider {self.name!r} is registered already; unregister it first, or choose another name"


class ProviderNotFoundError(RegistryError, LookupError):
    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        return _unknown("provider", self.name, self.known)


class DefaultNotSetError(RegistryError, LookupError):
    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = tuple(known)
        super().__init__(self.known)

    def __str__(self) -> str:
        return (
            f"no default provider is set (there is: {_listing(self.known)}); "
            "name one, or set `defaults.provider` in the manifest"
        )


class UnknownTypeError(RegistryError, LookupError):
    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        return _unknown("provider type", self.name, self.known)


class ProviderInUseError(RegistryError, RuntimeError):
    """Nothing was changed; `holders` says who has to let go first."""

    retryable = True

    def __init__(self, name: str, active_count: int, holders: Iterable[Holder] = ()) -> None:
        self.name, self.active_count, self.holders = name, active_count, tuple(holders)
        super().__init__(name, active_count, self.holders)

    def __str__(self) -> str:
        leases = "1 active lease" if self.active_count == 1 else f"{self.active_count} active leases"
        held = "".join(f"\n  held by {holder}" for holder in self.holders[:10])
        rest = len(self.holders) - 10
        return f"provider {self.name!r} has {leases}{held}" + (f"\n  and {rest} more" if rest > 0 else "")


class ProviderProtectedError(RegistryError, RuntimeError):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)

    def __str__(self) -> str:
        return (
            f"provider {self.name!r} is protected by its declaration: "
            "set `protect: false` there and let that be applied first"
        )


class ProviderRetiringError(RegistryError, RuntimeError):
    """`default` names what to use instead, where there is a default."""

    def __init__(self, name: str, default: str | None = None) -> None:
        self.name, self.default = name, default
        super().__init__(name, default)

    def __str__(self) -> str:
        instead = f"; use {self.default!r} instead" if self.default else ""
        return (
            f"provider {self.name!r} was removed and gives out no new lease: "
            f"it leaves with the last one it has{instead}, or declare it again"
        )


class InstanceExistsError(RegistryError, ValueError):
    retryable = True

    def __init__(self, instance_id: str, provider: str) -> None:
        self.instance_id, self.provider = instance_id, provider
        super().__init__(instance_id, provider)

    def __str__(self) -> str:
        return (
            f"instance id {self.instance_id!r} is in use, on provider {self.provider!r}; close that one first"
        )


class InstanceNotFoundError(RegistryError, LookupError):
    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        super().__init__(instance_id)

    def __str__(self) -> str:
        return f"there is no live instance {self.instance_id!r}"


class InitHookError(RegistryError, RuntimeError):
    """The hook's own exception is the `__cause__`."""

    def __init__(self, provider: str, hook: str, reason: str) -> None:
        self.provider, self.hook, self.reason = provider, hook, reason
        super().__init__(provider, hook, reason)

    def __str__(self) -> str:
        return f"init hook {self.hook} refused provider {self.provider!r}: {self.reason}"


class CreationFailedError(RegistryError, RuntimeError):
    """The factory's own exception is the `__cause__`; the next attempt starts anew."""

    retryable = True

    def __init__(self, provider: str, reason: str) -> None:
        self.provider, self.reason = provider, reason
        super().__init__(provider, reason)

    def __str__(self) -> str:
        return f"cannot open the storage of provider {self.provider!r}: {self.reason}"


class DependencyCycleError(RegistryError, RuntimeError):
    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(self.names)

    def __str__(self) -> str:
        return "these storages need each other to be opened: " + " -> ".join(self.names)


class ConstructionTimeoutError(RegistryError, TimeoutError):
    retryable = True

    def __init__(self, provider: str, waited_seconds: float) -> None:
        self.provider, self.waited_seconds = provider, waited_seconds
        super().__init__(provider, waited_seconds)

    def __str__(self) -> str:
        return f"the storage of provider {self.provider!r} was not open after {self.waited_seconds:g} s"


class StalePlanError(RegistryError, RuntimeError):
    """`provider` is what is no longer as it was; None: it is the default."""

    retryable = True

    def __init__(self, provider: str | None) -> None:
        self.provider = provider
        super().__init__(provider)

    def __str__(self) -> str:
        what = "the default" if self.provider is None else f"provider {self.provider!r}"
        return f"{what} changed after the plan was made; plan again"


class AlreadyInitializedError(RegistryError, RuntimeError):
    def __init__(self, running: str, asked: str) -> None:
        self.running, self.asked = running, asked
        super().__init__(running, asked)

    def __str__(self) -> str:
        return (
            f"storage is initialised from {self.running} already, not from {self.asked}; "
            "close that runtime first, or use open_registry() for a second one"
        )


class RuntimeClosedError(RegistryError, RuntimeError):
    def __str__(self) -> str:
        return "there is nothing to reload: the runtime is closed, was not started, or has no manifest"


class RegistryForkedError(RegistryError, RuntimeError):
    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)

    def __str__(self) -> str:
        return (
            f"{self.what} belongs to the parent process and cannot be used in a forked child: reopen it here"
        )


class RunningLoopError(RegistryError, RuntimeError):
    """`instead` names what to await."""

    def __init__(self, what: str, instead: str) -> None:
        self.what, self.instead = what, instead
        super().__init__(what, instead)

    def __str__(self) -> str:
        return f"{self.what} would block the running event loop: use `await {self.instead}(…)`"


class PluginError(RegistryError, RuntimeError):
    """`plugin` names it, or is the path that was asked for; `rule` is what it breaks; `path` is what has
    to be mended, where that is one file or directory; `remedy` is the exact command, or a sentence.
    The text is one line, whatever the name of a file holds."""

    def __init__(
        self, plugin: str, rule: PluginRule, reason: str, remedy: str | None = None, path: str | None = None
    ) -> None:
        self.plugin, self.rule, self.reason, self.remedy, self.path = plugin, rule, reason, remedy, path
        super().__init__(plugin, rule, reason, remedy, path)

    def __str__(self) -> str:
        mend = f"; to mend it: {self.remedy}" if self.remedy else ""
        return one_line(f"plugin {self.plugin} is refused ({self.rule}): {self.reason}{mend}")


class StorageError(RegistryError):
    """The root of all that goes wrong with tapes."""


class InvalidTapeIdError(StorageError, ValueError):
    def __init__(self, tape_id: str) -> None:
        self.tape_id = tape_id
        super().__init__(tape_id)

    def __str__(self) -> str:
        return (
            f"{self.tape_id[:140]!r} cannot be a tape id: use 1 to 128 of letters, digits, '.', '_' and '-', "
            "a letter or digit first, no '..', no dot at the end, no name reserved by an operating system"
        )


class InvalidTapeError(StorageError, ValueError):
    def __init__(self, mark: Mark, reason: str) -> None:
        self.mark, self.reason = mark, reason
        super().__init__(mark, reason)

    def __str__(self) -> str:
        return f"{self.mark}: {self.reason}"


class InvalidMessageError(StorageError, ValueError):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"cannot record this message: {self.reason}"


class InvalidMetadataError(StorageError, ValueError):
    def __init__(self, tape_id: str, reason: str) -> None:
        self.tape_id, self.reason = tape_id, reason
        super().__init__(tape_id, reason)

    def __str__(self) -> str:
        return f"the metadata of tape {self.tape_id!r} is invalid: {self.reason}"


class _TapeError(StorageError):
    """A base for errors that need nothing but the id of a tape."""

    _text: ClassVar[str]

    def __init__(self, tape_id: str) -> None:
        self.tape_id = tape_id
        super().__init__(tape_id)

    def __str__(self) -> str:
        return self._text.format(self.tape_id)


class TapeNotFoundError(_TapeError, LookupError):
    _text = "there is no tape {!r} in this storage"


class FrameNotFoundError(StorageError, LookupError):
    def __init__(self, tape_id: str, seq: int) -> None:
        self.tape_id, self.seq = tape_id, seq
        super().__init__(tape_id, seq)

    def __str__(self) -> str:
        return f"there is no frame {self.seq} on tape {self.tape_id!r}"


class TapeExistsError(_TapeError, ValueError):
    _text = "there is a tape {!r} in this storage already"


class TapeBusyError(StorageError, RuntimeError):
    """`pid` is the process that writes it, None where nobody can tell."""

    retryable = True

    def __init__(self, tape_id: str, pid: int | None = None) -> None:
        self.tape_id, self.pid = tape_id, pid
        super().__init__(tape_id, pid)

    def __str__(self) -> str:
        who = "somebody else" if self.pid is None else f"process {self.pid}"
        return f"tape {self.tape_id!r} is being recorded by {who}"


class MetadataConflictError(_TapeError, RuntimeError):
    retryable = True
    _text = "the metadata of tape {!r} changed since it was read; read it again"


class UnsupportedCapabilityError(StorageError, RuntimeError):
    def __init__(self, storage_type: str, operation: str) -> None:
        self.storage_type, self.operation = storage_type, operation
        super().__init__(storage_type, operation)

    def __str__(self) -> str:
        return f"a storage of type {self.storage_type!r} does not support {self.operation}"


class StorageClosedError(StorageError, ValueError):
    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.what} is closed"


class RecorderOpenError(StorageError, RuntimeError):
    def __init__(self, tape_ids: Iterable[str]) -> None:
        self.tape_ids = tuple(tape_ids)
        super().__init__(self.tape_ids)

    def __str__(self) -> str:
        return f"still recording on {_listing(self.tape_ids)}: finalize() or abort() first"


class TransactionError(StorageError, RuntimeError):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"not with this transaction: {self.reason}"


class StorageFullError(StorageError, OSError):
    """Whatever was acknowledged is kept; nothing of the refused call is."""

    retryable = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"the storage is full: {self.reason}"


class StorageUnavailableError(StorageError, OSError):
    retryable = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"the storage failed: {self.reason}"


class StorageDamagedError(StorageError, RuntimeError):
    """`tape_id` is the tape that is damaged, None where it is more than one, or nobody can tell."""

    def __init__(self, reason: str, tape_id: str | None = None) -> None:
        self.reason, self.tape_id = reason, tape_id
        super().__init__(reason, tape_id)

    def __str__(self) -> str:
        what = "the storage" if self.tape_id is None else f"tape {self.tape_id!r}"
        return f"{what} is damaged: {self.reason}; restore it from a backup, or export what can still be read"


class SyncFailedError(StorageError, RuntimeError):
    """The frames are in the tape. After this, no sync of this recorder is believed any more: a system may
    drop what it could not write, and report success the next time."""

    def __init__(self, tape_id: str, durable_seq: int, reason: str) -> None:
        self.tape_id, self.durable_seq, self.reason = tape_id, durable_seq, reason
        super().__init__(tape_id, durable_seq, reason)

    def __str__(self) -> str:
        return (
            f"what tape {self.tape_id!r} has behind frame {self.durable_seq} may not outlive a loss of "
            f"power: {self.reason}; end the tape, and resume it or begin another when that has been mended"
        )
