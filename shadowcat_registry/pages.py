"""The page of each code, for `explain` and for programs: what it means, why it is refused, what to do.

The pages are `explain/SC….md`, which ship with the package; here they are only read. Knows nothing of
who prints them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from .codes import CODES

_DIRECTORY: Final = Path(__file__).parent / "explain"
_COLUMNS: Final = 110
_heading = re.compile(r"^## (.+)\n", re.MULTILINE)
_block = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """One page, each text in one line. It has either two examples, or the reason why there are none."""

    code: str
    title: str
    meaning: str
    reason: str
    """Why it is refused."""
    remedy: str
    """What to do about it."""
    wrong: str | None = None
    """A whole manifest that has a finding of this code and no other."""
    right: str | None = None
    """The same without a finding."""
    no_example: str | None = None

    def __str__(self) -> str:
        """As Markdown."""
        parts = [f"# {self.code}: {self.title}", fill(self.meaning, _COLUMNS)]
        parts += ["## Why", fill(self.reason, _COLUMNS), "## What to do", fill(self.remedy, _COLUMNS)]
        if self.wrong is not None and self.right is not None:
            parts += [f"## Wrong\n\n```yaml\n{self.wrong}```", f"## Right\n\n```yaml\n{self.right}```"]
        if self.no_example is not None:
            parts += ["## No example", fill(self.no_example, _COLUMNS)]
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "meaning": self.meaning,
            "reason": self.reason,
            "help": self.remedy,
            "wrong": self.wrong,
            "right": self.right,
            "no_example": self.no_example,
        }


@cache
def page(code: str) -> Page:
    """The page of a code.

    Raises:
        KeyError: there is no such code.
    """
    title = CODES[code]
    text = (_DIRECTORY / f"{code}.md").read_text(encoding="utf-8")
    # The text in front of the first heading, then headings and texts in turn.
    meaning, *rest = _heading.split(text)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    return Page(
        code,
        title,
        " ".join(meaning.split()),
        " ".join(sections["Why"].split()),
        " ".join(sections["What to do"].split()),
        _example(sections.get("Wrong")),
        _example(sections.get("Right")),
        " ".join(sections.get("No example", "").split()) or None,
    )


def _example(section: str | None) -> str | None:
    found = _block.search(section or "")
    return found[1] if found else None
