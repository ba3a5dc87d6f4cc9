"""Whether what a plugin exports is what it has to be: `PROVIDERS`, a tuple of factories.

Each factory is asked once what it says of itself, and what it said counts from then on: a version, a schema
or a name that is another one the next time is never seen. Asking runs foreign code, so never under a lock;
what it raises is the plugin's fault, told with its own line.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from ..backend import CreateContext, TapeStorageBackend
from ..catalog import BUILTIN_TYPES
from ..errors import PluginError, did_you_mean
from ..metadata import NAME_PATTERN, Config, ProviderCapability, is_valid_name
from ..schema_faults import check_schema
from .blame import Blame, is_interrupt
from .decorator import BackendFactory, declared_factory
from .records import TypeReport

MISSING: Final = object()
"""For a module without any `PROVIDERS`."""
MAX_SCHEMA_BYTES: Final = 64 * 1024
_MAX_TEXT_CHARACTERS: Final = 500
_MAX_FAULTS: Final = 8
TEXTS: Final = ("name", "display_name", "version", "description")
"""What a factory says of itself in words."""
_CAPABILITIES: Final = [str(capability) for capability in ProviderCapability]
_METHODS: Final[Mapping[str, int]] = {"validate_config": 1, "create": 2, "acreate": 2, "check": 2, "close": 0}
"""What a factory can have → how many arguments it is called with."""
_ARGUMENTS: Final = ("config", "context")
_REMEDY: Final = (
    "write @provider(name=…, version=…) above a backend class, or give the factory what the protocol "
    "StorageProviderFactory has"
)

Checked = tuple[tuple["PluginFactory", ...], tuple[TypeReport, ...]]


class PluginFactory:
    """A factory of a plugin, as it was when it was checked. What it does is still the plugin's."""

    validate_config: Callable[[Config], None]
    create: Callable[[Config, CreateContext], TapeStorageBackend]

    def __init__(self, factory: object, report: TypeReport) -> None:
        self.name: str = report.name
        self.display_name: str = report.display_name
        self.version: str = report.version
        self.description: str = report.description
        self.capabilities: frozenset[ProviderCapability] = report.capabilities
        self.factory = factory
        """The plugin's own."""
        self._schema = report.schema
        for name in _METHODS:
            # Only what is there: an optional method is looked for.
            if (method := getattr(factory, name, None)) is not None:
                setattr(self, name, method if name == "acreate" else _held(method))
        self.validate_config = _telling_no_value(self.validate_config)

    def config_schema(self) -> Mapping[str, Any] | None:
        return self._schema

    def __repr__(self) -> str:
        return f"<{self.name} {self.version}, by {type(self.factory).__qualname__} of a plugin>"


def _held(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that ends nobody's thread or process: `sys.exit()` in a plugin is an error like any other."""

    @wraps(method)
    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BaseException as error:
            if isinstance(error, Exception) or is_interrupt(error):
                raise
            raise RuntimeError(f"the plugin raised {type(error).__name__}") from error

    return call


def _telling_no_value(validate_config: Callable[[Config], None]) -> Callable[[Config], None]:
    def validate(config: Config) -> None:
        try:
            validate_config(config)
        except ValueError:
            raise
        except Exception as error:
            # Of its text nobody knows whether it holds a value.
            raise ValueError(f"the check of its type failed with {type(error).__name__}") from error

    return validate


def check(plugin: str, exported: object, blame: Blame, *, with_schemas: bool = True) -> Checked:
    """The factories that a plugin exports, and what they say of themselves.

    `exported` is the value of `PROVIDERS`. Without `with_schemas` a schema only has to be JSON, which is
    quick: `check_schemas` does the rest.

    Raises:
        PluginError: something is missing or of the wrong kind; rule `shape`, `schema` for a schema, or
            `name-taken` for the name of another type of it, or of a built-in one.
    """
    reports: list[TypeReport] = []
    factories: list[PluginFactory] = []
    for number, item in enumerate(items(plugin, exported)):
        factory = _factory_of(plugin, f"PROVIDERS[{number}]", item, blame)
        report = _Reading(plugin, f"PROVIDERS[{number}]", factory, blame).report()
        if report.name in BUILTIN_TYPES:
            reason = f"there is a built-in type `{report.name}`, which no plugin can stand in for"
            raise PluginError(plugin, "name-taken", reason, "give the type another name")
        if any(report.name == other.name for other in reports):
            reason = f"two of its PROVIDERS have the name `{report.name}`"
            raise PluginError(plugin, "name-taken", reason, "give each type a name of its own")
        reports.append(report)
        factories.append(PluginFactory(factory, report))
    if with_schemas:
        check_schemas(plugin, reports)
    return tuple(factories), tuple(reports)


def check_schemas(plugin: str, reports: Iterable[TypeReport]) -> None:
    """Raises: PluginError, rule `schema`: a type's schema cannot be one. Nothing is fetched for it."""
    for report in reports:
        if report.schema is not None and (faults := check_schema(report.schema)):
            raise PluginError(plugin, "schema", f"the schema of `{report.name}`: {_joined(faults)}")


def check_same(plugin: str, probed: Sequence[TypeReport] | None, reports: Sequence[TypeReport]) -> None:
    """Raises: PluginError, rule `version`: a plugin says something else of itself than it said to its probe.
    Without one, nothing is compared."""
    told, tells = ([(it.name, it.version, it.capabilities) for it in of] for of in (probed or (), reports))
    if probed is not None and told != tells:
        reason = "its names, versions or capabilities here are not those that it told its probe"
        remedy = "let them not depend on the environment, of which a probe has nothing"
        raise PluginError(plugin, "version", reason, remedy)


def items(plugin: str, exported: object) -> tuple[object, ...]:
    """What is in a `PROVIDERS`. Raises: PluginError, rule `shape`."""
    example = "write PROVIDERS = (MyFactory,)"
    if exported is MISSING:
        raise PluginError(plugin, "shape", "it exports no PROVIDERS", example)
    if not isinstance(exported, tuple):
        kind = type(exported).__name__
        raise PluginError(plugin, "shape", f"its PROVIDERS is of type {kind}, and has to be a tuple", example)
    if not exported:
        raise PluginError(plugin, "shape", "its PROVIDERS is empty", example)
    return exported


def _factory_of(plugin: str, place: str, item: object, blame: Blame) -> object:
    """A factory, a class of factories, or a backend class that `@provider` was written above."""
    if not isinstance(item, type):
        return item
    declared = declared_factory(item)
    if declared is not None:
        return declared
    try:
        return item()
    except BaseException as error:
        if is_interrupt(error):
            raise
        reason = f"{place}, the class {item.__name__}, cannot be called without arguments: {blame(error)}"
        raise PluginError(plugin, "shape", reason) from error


class _Reading:
    """One factory is asked what it says of itself."""

    def __init__(self, plugin: str, place: str, factory: object, blame: Blame) -> None:
        self.plugin, self.place, self.factory, self.blame = plugin, place, factory, blame
        self.faults: list[str] = []

    def report(self) -> TypeReport:
        name, display_name, version, description = map(self._text, TEXTS)
        capabilities = frozenset(self._capabilities())
        if not [method for method in _METHODS if self._has_method(method) and method.endswith("create")]:
            self.faults.append("has no `create(config, context)`")
        schema = self._schema()
        if isinstance(self.factory, BackendFactory) and not _takes(self.factory.backend, _ARGUMENTS):
            self.faults.append("has a class that cannot be called with (config, context)")
        if self.faults:
            place = f"type `{name}`" if is_valid_name(name) else self.place
            kind = type(self.factory).__name__
            remedy = _REMEDY if any(fault.startswith("has no ") for fault in self.faults) else None
            raise PluginError(self.plugin, "shape", f"{place} ({kind}) {_joined(self.faults)}", remedy)
        return TypeReport(name, display_name, version, description, capabilities, schema)

    def _get(self, name: str, *, required: bool = True) -> object:
        """MISSING is noted as a fault already, unless it may be."""
        try:
            return getattr(self.factory, name)
        except BaseException as error:
            if is_interrupt(error):
                raise
            if not isinstance(error, AttributeError) or hasattr(type(self.factory), name):
                self.faults.append(f"cannot be asked for its `{name}`: {self.blame(error)}")
            elif required:
                self.faults.append(f"has no `{name}`")
            return MISSING

    def _text(self, name: str) -> str:
        value = self._get(name)
        if isinstance(value, str):
            text = str.__str__(value)  # plain, also where `value` is of a class of the plugin's
            if fault := _fault_of_text(name, text):
                self.faults.append(fault)
            return text
        if value is not MISSING:
            self.faults.append(f"has a `{name}` of type {type(value).__name__}, and it has to be a text")
        return ""

    def _capabilities(self) -> Iterator[ProviderCapability]:
        value = self._get("capabilities")
        if not isinstance(value, set | frozenset | tuple | list):
            if value is not MISSING:
                self.faults.append(f"has `capabilities` of type {type(value).__name__}, and not a set")
            return
        for item in list(value):
            name = str.__str__(item) if isinstance(item, str) else type(item).__name__
            if isinstance(item, str) and name in _CAPABILITIES:
                yield ProviderCapability(name)
                continue
            hint = did_you_mean(name, _CAPABILITIES) or f"there is: {', '.join(_CAPABILITIES)}"
            self.faults.append(f"claims {name[:64]!r}, which is no capability ({hint})")

    def _has_method(self, name: str) -> bool:
        method = self._get(name, required=name == "validate_config")
        if method is MISSING or (method is None and name != "validate_config"):
            return False
        if not callable(method):
            self.faults.append(f"has a `{name}` that cannot be called")
            return True
        arguments = _ARGUMENTS[: _METHODS[name]]
        try:
            if not _takes(method, arguments):
                self.faults.append(f"has a `{name}` that cannot be called with ({', '.join(arguments)})")
        except BaseException as error:
            if is_interrupt(error):
                raise
            self.faults.append(f"has a `{name}` that cannot be looked at: {self.blame(error)}")
        return True

    def _schema(self) -> Mapping[str, Any] | None:
        ask = self._get("config_schema")
        if ask is MISSING:
            return None
        try:
            schema = ask()  # type: ignore[operator] # what cannot be called raises a TypeError, which is told
            if schema is None:
                return None
            text = json.dumps(_plain(schema), default=_plain, allow_nan=False)
        except BaseException as error:
            if is_interrupt(error):
                raise
            self.faults.append(f"has a `config_schema()` that gives no schema: {self.blame(error)}")
            return None
        if len(text) > MAX_SCHEMA_BYTES:
            self.faults.append(f"has a schema of more than {MAX_SCHEMA_BYTES:,} bytes")
            return None
        copy: Mapping[str, Any] = json.loads(text)
        return copy


def _takes(method: Callable[..., object], arguments: Sequence[str]) -> bool:
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True  # what is written in C may have no signature: the call tells
    return True


def _plain(value: object) -> dict[Any, Any]:
    """Any other mapping than a dict is JSON too."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"what is of type {type(value).__name__} is no mapping")


def _fault_of_text(name: str, text: str) -> str | None:
    if len(text) > _MAX_TEXT_CHARACTERS or not text.isprintable():
        return f"has a `{name}` that is not one line of at most {_MAX_TEXT_CHARACTERS} characters"
    if name == "name" and not is_valid_name(text):
        return f"has a `name` that is none: {text[:64]!r} does not match {NAME_PATTERN}"
    if name == "display_name" and not text.strip():
        return "has an empty `display_name`"
    if name == "version":
        try:
            Version(text)
        except InvalidVersion:
            return f"has a `version` that is none (PEP 440): {text[:64]!r}"
    return None


def _joined(faults: Iterable[str]) -> str:
    faults = list(faults)
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    return "; ".join(faults[:_MAX_FAULTS]) + more
