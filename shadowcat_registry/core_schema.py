"""Plain scalars by the core schema of YAML 1.2.2, section 10.3.2, in which `no`, `on`, `1:20` and dates are
texts. What some readers take for another number than others is refused.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, NamedTuple

MAX_DIGITS: Final = 100

_words: Final[dict[str, bool | None]] = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
NUMBER_STARTS: Final = frozenset("-+.0123456789")
MAY_BE_SPECIAL: Final = NUMBER_STARTS | {word[0] for word in _words if word}
"""The first characters of all plain scalars that are not text; the empty one is looked at apart."""
SPECIAL_KEYS: Final = frozenset({*_words, "<<"})

_number = re.compile(
    r"(?P<decimal>[-+]?[0-9]+)|(?P<based>0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
)
_not_finite = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_leading_zero = re.compile(r"[-+]?0[0-9]")


class RefusedScalar(NamedTuple):
    code: str
    message: str
    hint: str = "put it in quotes if it is a text"


def plain_value(text: str) -> Any:
    """What a plain scalar stands for: None, a boolean, a number, the text itself, or a `RefusedScalar`."""
    if text in _words:
        return _words[text]
    first = text[0]
    if first not in NUMBER_STARTS:
        return text
    if first in "123456789" and len(text) < MAX_DIGITS and text.isdecimal() and text.isascii():
        return int(text)  # most numbers are such
    found = _number.fullmatch(text)
    if found is None:
        return RefusedScalar("SC115", "not a finite number") if _not_finite.fullmatch(text) else text
    if len(text) > MAX_DIGITS:  # converting takes time that grows with the square
        return RefusedScalar("SC605", f"a number of more than {MAX_DIGITS} digits")
    kind = found.lastgroup
    if kind == "based":
        return int(text, 0)
    if "0" in text[:2] and _leading_zero.match(text):
        message = "a number with a leading zero, which some read as octal"
        return RefusedScalar("SC114", message, "drop the zero, or put it in quotes if it is a text")
    if kind == "decimal":
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else RefusedScalar("SC115", "a number that is too large")
