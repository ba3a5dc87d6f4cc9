"""`${…}` references in a config: the environment and files; and how secrets are kept out of sight.

    ${env:NAME}            the variable; it has to be set
    ${env:NAME:-default}   `default` where it is not set or empty
    ${env:NAME:?message}   it has to be set and not empty, or `message` is the finding
    ${file:/path}          the content of a file, without one newline at its end; always secret
    $$                     a dollar

Only in values; not nested, and what comes out is not looked at again. Knows nothing of schemas (it is
told which types a place is meant for) nor of manifests. No message here holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import Problem
from .marks import Pointer
from .sight import read_settled

MAX_FILE_BYTES: Final = 64 * 1024
MAX_RESOLVED_CHARACTERS: Final = 16 * 1024 * 1024
MASK: Final = "***"
_RELATIVE: Final = "a relative path is relative to the manifest"

TypesAt = Callable[[Pointer], frozenset[str]]
"""Which JSON types the schema has in mind for the text at a place; empty: any."""

_token = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
_env = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)
_file = re.compile(r"file:(.+)", re.DOTALL)
_integer = re.compile(r"-?(?:0|[1-9][0-9]{0,99})")
_number = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][-+]?[0-9]{1,3})?")
# For texts of any length: each match begins at a `://`, and no two of them look at the same characters.
_password_in_text = re.compile(r"://[^\s/?#@:]*:([^\s/?#]*)@")
_only_variables = re.compile(r"(?:\$\{env:[A-Za-z_][A-Za-z0-9_]*\})+")
# Not the whole scheme, of which each part of a long text could be the beginning.
_url_password = re.compile(r"([a-zA-Z0-9+.-]://[^\s/?#@:]*:)[^\s/?#]*(@)")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config without references, and what is to be known about how it came about."""

    config: dict[str, Any] = field(repr=False)
    secrets: frozenset[Pointer] = frozenset()
    """Places of values that hold the content of a file."""
    referenced: frozenset[Pointer] = frozenset()
    """Places of values that had a reference."""
    unresolved: frozenset[Pointer] = frozenset()
    """Places whose reference has a problem or was not looked up: what the value would be is not known."""
    files: tuple[Path, ...] = ()
    """Whose change changes the config, those that could not be read included."""
    problems: tuple[Problem, ...] = ()


class _ReferenceError(Exception):
    """A reference has a problem."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        self.code, self.message, self.hint = code, message, hint
        super().__init__(code)


def has_reference(text: str) -> bool:
    """Whether `text` holds what looks like a reference, right or wrong."""
    return "${" in text and any(found[0] != "$$" for found in _token.finditer(text))


def has_wrong_reference(text: str) -> bool:
    """Whether `text` holds what cannot be resolved, whatever the environment and the files."""
    if not has_reference(text):
        return False
    checked = resolve(
        {"": text}, environ={}, base_directory=Path(), types_at=lambda _: frozenset(), unresolved=True
    )
    return bool(checked.problems)


def resolve(
    config: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    base_directory: Path,
    types_at: TypesAt,
    unresolved: bool = False,
    lookups: Lookups | None = None,
) -> Resolved:
    """Replace every reference in the values of `config`, as a copy; all problems are gathered. With
    `unresolved`, references are checked for their form and stay as they are.

    A value that is one reference as a whole is converted where a number or boolean is wanted and a text
    is not; if it does not read as one, it stays a text, for the schema to refuse. `lookups` are those of
    several configs together.
    """
    resolver = _Resolver(environ, base_directory, types_at, lookups or Lookups(), unresolved=unresolved)
    resolved = resolver.value(config, ())
    return Resolved(
        resolved,
        frozenset(resolver.secrets),
        frozenset(resolver.referenced),
        frozenset(resolver.unresolved),
        tuple(dict.fromkeys(resolver.files)),
        tuple(resolver.problems),
    )


class Lookups:
    """What the references of one manifest have led to: each file is read once, so that all see one content,
    and no more text comes of them than a manifest may have."""

    def __init__(self) -> None:
        self._files: dict[Path, str | _ReferenceError] = {}
        self._characters_left = MAX_RESOLVED_CHARACTERS

    def __repr__(self) -> str:
        return "<Lookups>"  # no values: they are secret

    def read(self, path: Path, hint: str | None) -> str:
        if path not in self._files:
            try:
                self._files[path] = _read(path, hint)
            except _ReferenceError as refused:
                self._files[path] = refused
        found = self._files[path]
        if isinstance(found, _ReferenceError):
            raise _ReferenceError(found.code, found.message, found.hint)
        return found

    def counted(self, text: str) -> str:
        self._characters_left -= len(text)
        if self._characters_left < 0:
            most = f"{MAX_RESOLVED_CHARACTERS >> 20} MiB"
            raise _ReferenceError("SC407", f"all references together give more than {most} of text")
        return text


class _Resolver:
    def __init__(
        self,
        environ: Mapping[str, str],
        base_directory: Path,
        types_at: TypesAt,
        lookups: Lookups,
        *,
        unresolved: bool,
    ) -> None:
        self.leave = unresolved
        self.lookups = lookups
        self.environ = environ
        self.base_directory = base_directory
        self.types_at = types_at
        self.secrets: set[Pointer] = set()
        self.referenced: set[Pointer] = set()
        self.unresolved: set[Pointer] = set()
        self.files: list[Path] = []
        self.problems: list[Problem] = []

    def value(self, value: Any, pointer: Pointer) -> Any:
        if isinstance(value, str):  # first: most values are texts, and to ask for a Mapping takes long
            return self.text(value, pointer) if "$" in value else value
        if isinstance(value, list):
            return [self.value(item, (*pointer, index)) for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            for key in value:
                if has_reference(key):
                    message = "a reference in a key is not resolved"
                    self.problems.append(Problem((*pointer, key), "SC404", message, None, True))
            return {key: self.value(item, (*pointer, key)) for key, item in value.items()}
        return value

    def text(self, text: str, pointer: Pointer) -> Any:
        def replace(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            self.referenced.add(pointer)
            if not found[2]:
                raise _ReferenceError("SC402", "a `${` that is never closed", "write `$$` for a dollar")
            return self.lookups.counted(self.reference(found[1], pointer))

        try:
            result = _token.sub(replace, text)
        except _ReferenceError as refused:
            self.unresolved.add(pointer)
            self.problems.append(Problem(pointer, refused.code, refused.message, refused.hint))
            return text
        if self.leave and pointer in self.referenced:
            self.unresolved.add(pointer)
            return text
        whole = _token.fullmatch(text)
        return _convert(result, self.types_at(pointer)) if whole and text != "$$" else result

    def reference(self, body: str, pointer: Pointer) -> str:
        if "${" in body:
            raise _ReferenceError("SC403", "a reference inside of a reference", "references are not nested")
        if found := _env.fullmatch(body):
            return "" if self.leave else self.variable(found[1], found[2], found[3])
        if (found := _file.fullmatch(body)) and self.leave:
            return ""
        if found:
            path = self.base_directory / found[1]
            self.files.append(path)
            self.secrets.add(pointer)
            return self.lookups.read(path, None if Path(found[1]).is_absolute() else _RELATIVE)
        forms = "${env:NAME}, ${env:NAME:-default}, ${env:NAME:?message}, ${file:/path}"
        hint = f"there are {forms}, and $$ for a dollar"
        raise _ReferenceError("SC402", "this is no reference", hint)

    def variable(self, name: str, operator: str | None, rest: str) -> str:
        value = self.environ.get(name)
        if operator == "-" and not value:
            return rest.replace("$$", "$")
        if operator == "?" and not value:
            state = "not set" if value is None else "empty"
            raise _ReferenceError(
                "SC401", f"the variable {name} is {state}: {rest}" if rest else f"{name} is {state}"
            )
        if value is None:
            hint = f"set it, or give a default: ${{env:{name}:-…}}"
            raise _ReferenceError("SC401", f"the variable {name} is not set", hint)
        return value


def _convert(text: str, types: frozenset[str]) -> Any:
    if "string" in types:
        return text
    if "boolean" in types and text in ("true", "false"):
        return text == "true"
    if types & {"integer", "number"} and _integer.fullmatch(text):
        return int(text)
    if "number" in types and _number.fullmatch(text):
        number = float(text)
        return text if number in (float("inf"), float("-inf")) else number
    return text


def _read(path: Path, hint: str | None) -> str:
    try:
        data = read_settled(path, limit_bytes=MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _ReferenceError("SC405", f"the file cannot be read: {describe(error)}", hint) from None
    except ValueError:
        raise _ReferenceError("SC405", "the path of the file is none") from None
    if len(data) > MAX_FILE_BYTES:
        raise _ReferenceError("SC405", f"the file has more than {MAX_FILE_BYTES // 1024} KiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _ReferenceError("SC405", "the file is not UTF-8") from None
    if "\0" in text:
        raise _ReferenceError("SC405", "the file holds a NUL byte")
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\r\n") else text.removesuffix("\n")


def has_literal_password(text: str) -> bool:
    """Whether a URL in `text` holds a password that is no reference."""
    found = (match[1] for match in _password_in_text.finditer(text))
    return any(password and not _only_variables.fullmatch(password) for password in found)


def describe(error: OSError) -> str:
    """What went wrong, without the path that `str(error)` would show."""
    return error.strerror or str(error)


def mask(config: Mapping[str, Any], secrets: Iterable[Pointer]) -> dict[str, Any]:
    """A copy of `config` to show: secrets and the passwords in URLs are replaced."""
    hidden = frozenset(secrets)

    def masked(value: Any, pointer: Pointer) -> Any:
        if pointer in hidden:
            return MASK
        if isinstance(value, Mapping):
            return {key: masked(item, (*pointer, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [masked(item, (*pointer, index)) for index, item in enumerate(value)]
        return _url_password.sub(rf"\1{MASK}\2", value) if isinstance(value, str) else deepcopy(value)

    result: dict[str, Any] = masked(config, ())
    return result


def redact(text: str, config: Mapping[str, Any], secrets: Iterable[Pointer]) -> str:
    """`text`, written by somebody who saw `config`, with the secrets in it replaced."""
    words: set[str] = set()
    for pointer in secrets:
        value: Any = config
        for part in pointer:
            value = value[part]
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, Mapping):
                stack.extend(item.values())
            elif isinstance(item, list):
                stack.extend(item)
            elif item not in (None, "", True, False):
                words.update((str(item), repr(item).strip("'\"")))  # as it is, and with escape sequences
    for word in sorted(words, key=len, reverse=True):  # the longest first: one may be part of another
        text = text.replace(word, MASK)
    return text
