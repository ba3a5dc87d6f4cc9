"""What may be shown of a value that differs: the value, or, where it is secret, a mark that tells only
whether it is the same as another.

Such a mark is keyed with a secret of this process that is never written anywhere: of a short password
nobody can try out which one it was made of. It holds for one place, so that it does not tell either
whether two fields have the same secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from functools import cache
from hashlib import blake2b
from typing import Any, Final

from .interpolate import MASK, mask
from .marks import Pointer, format_dotted

_MOST_CHARACTERS: Final = 200
"""Of a value that is shown; a plan is read by people."""


def shown(owner: str, pointer: Pointer, value: Any, secrets: Collection[Pointer]) -> str:
    """`value`, which is at `pointer` in the config of `owner`, on one line, with every secret masked."""
    if any(pointer[: len(secret)] == secret for secret in secrets):
        return f"{MASK} ({fingerprint(owner, pointer, value)})"
    inside = [secret[len(pointer) :] for secret in secrets if secret[: len(pointer)] == pointer]
    masked = mask({"": value}, [("", *secret) for secret in inside])[""]
    text = json.dumps(masked, ensure_ascii=False, default=str)
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
    return text if masked == value else f"{text} ({fingerprint(owner, pointer, value)})"


def fingerprint(owner: str, pointer: Pointer, value: Any) -> str:
    """Eight characters that are the same for the same value at the same place, in this process."""
    text = f"{owner}\0{format_dotted(pointer)}\0{json.dumps(value, sort_keys=True, default=repr)}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=_key()).hexdigest()


@cache
def _key() -> bytes:
    return os.urandom(32)
