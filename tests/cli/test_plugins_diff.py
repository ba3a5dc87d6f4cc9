"""What `plugins pin` shows, against what it writes."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.cli.plugins.diff import section_diff
from shadowcat_registry.document import Document
from shadowcat_registry.marks import Pointer
from shadowcat_registry.parse import parse_document
from shadowcat_registry.plugins.pinning import Digests, with_pins

Pins = dict[str, str]
DIGESTS = ["a" * 64, "b0" * 32, "c" * 63 + "1"]

digests = st.sampled_from(DIGESTS)
pins = st.dictionaries(st.sampled_from([f"n{number}.py" for number in range(9)]), digests, max_size=8)
sources = st.lists(st.tuples(pins, st.none() | pins), min_size=1, max_size=5)
others = st.lists(
    st.sampled_from(["# canary", "", "reload: {mode: poll}  # canary"]), max_size=6, unique=True
)


def document(text: str) -> Document:
    return parse_document(text.encode(), "registry.yaml")


def patched(text: str, shown: list[str]) -> str:
    """By the numbers of the hunks alone; each line that is there has to be what is shown of it."""
    old, new, taken = text.split("\n"), [], 0
    for line in shown[2:]:
        head = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", line)
        if head is not None:
            first = int(head[1]) - (head[2] != "0")
            new += old[taken:first]
            taken = first
            assert len(new) == int(head[3]) - (head[4] != "0")
            continue
        if line[0] in " -":
            assert old[taken] == line[1:]
            taken += 1
        if line[0] in " +":
            new.append(line[1:])
    return "\n".join(new + old[taken:])


class TestTheLaw:
    @given(others, others, sources)
    def test_it_is_the_way_from_the_old_text_to_the_new_one(
        self,
        above: list[str],
        beneath: list[str],
        entries: list[tuple[dict[str, str], dict[str, str] | None]],
    ) -> None:
        lines = [*above, "version: 1", "plugins:", "  sources:"]
        for number, (old, _) in enumerate(entries):
            lines.append(f"    - directory: d{number}  # {number}")
            lines += ["      sha256:", *(f"        {name}: {it}" for name, it in old.items())] if old else []
        text = "\n".join([*lines, "providers: {}", *(it for it in beneath if it not in above), "# end", ""])
        wanted: dict[Pointer, Digests] = {
            ("plugins", "sources", number): new for number, (_, new) in enumerate(entries) if new is not None
        }
        after = with_pins(document(text), wanted)
        shown = list(section_diff(document(text), document(after), "registry.yaml"))
        assert (shown == []) == (text == after)
        if shown:
            assert patched(text, shown) == after
        assert not any("canary" in line or "…" in line for line in shown)
