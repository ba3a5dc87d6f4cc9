from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.document import Document
from shadowcat_registry.marks import Pointer
from shadowcat_registry.parse import parse_document
from shadowcat_registry.plugins.pinning import CannotWriteError, Digests, with_pins

A, B, C = ("abc0" * 16, "b0b0" * 16, "c0de" * 16)
FIRST: Pointer = ("plugins", "sources", 0)
SECOND: Pointer = ("plugins", "sources", 1)


def document(text: str) -> Document:
    return parse_document(text.encode(), "registry.yaml")


def pinned(text: str, digests: Digests, pointer: Pointer = FIRST) -> str:
    return with_pins(document(text), {pointer: digests})


def values(text: str) -> Any:
    return document(text).value


class TestOnePlugin:
    def test_gets_a_line_behind_its_path_and_nothing_else_changes(self) -> None:
        text = (
            "# ours\nversion: 1\nplugins:\n  sources:\n    - path: plugins/glacier.py   # cold\n\n"
            "    # warm\n    -   path:  'a b.py'\nproviders: {}\n"
        )
        assert pinned(text, A) == text.replace("# cold\n", f"# cold\n      sha256: {A}\n")
        assert pinned(text, A, SECOND) == text.replace("'a b.py'\n", f"'a b.py'\n        sha256: {A}\n")

    def test_that_has_one_gets_the_new_one_in_its_place(self) -> None:
        text = f"plugins:\n  sources:\n    - sha256: '{B}'  # of May\n      path: glacier.py\n"
        assert pinned(text, A) == text.replace(f"'{B}'", A)

    def test_that_has_this_one_is_left_alone(self) -> None:
        text = f'plugins: {{sources: [{{path: glacier.py, sha256: "{A}"}}]}}'
        assert pinned(text, A) == text

    @pytest.mark.parametrize("placeholder", ["", " # to do", " TODO", " ~", " []"])
    def test_with_something_else_in_its_place_gets_it_there(self, placeholder: str) -> None:
        text = f"plugins:\n  sources:\n    - path: a.py\n      sha256:{placeholder}\n    - path: b.py\n"
        new = pinned(text, A)
        assert values(new)["plugins"]["sources"] == [{"path": "a.py", "sha256": A}, {"path": "b.py"}]
        assert ("# to do" in new) == ("# to do" in placeholder)

    def test_in_braces_gets_it_there(self) -> None:
        text = "plugins:\n  sources: [{path: a.py}, {path: b.py }]  # two\n"
        assert pinned(text, A, SECOND) == text.replace("b.py }", f"b.py, sha256: {A} }}")

    def test_at_the_end_of_a_text_without_a_last_newline(self) -> None:
        text = "plugins:\n  sources:\n  - path: a.py"
        assert pinned(text, A) == f"{text}\n    sha256: {A}"

    @pytest.mark.parametrize("newline", ["\r\n", "\r"])
    def test_keeps_the_line_ends_of_the_text(self, newline: str) -> None:
        text = newline.join(["plugins:", "  sources:", "    - path: a.py", "version: 1", ""])
        lines = [f"    - path: a.py{newline}", f"      sha256: {A}{newline}"]
        assert pinned(text, A) == text.replace(lines[0], "".join(lines))

    @pytest.mark.parametrize("digest", ["1" * 64, "1" * 32 + "e" + "2" * 31, "0" * 64])
    def test_a_digest_that_looks_like_a_number_is_quoted(self, digest: str) -> None:
        new = pinned("plugins:\n  sources:\n    - path: a.py\n", digest)
        assert values(new)["plugins"]["sources"][0]["sha256"] == digest


class TestADirectory:
    TEXT = "plugins:\n  sources:\n    - directory: /opt/plugins\nversion: 1\n"

    def test_gets_the_digests_by_name(self) -> None:
        assert pinned(self.TEXT, {"glacier.py": A, "arctic": B}) == self.TEXT.replace(
            "/opt/plugins\n",
            f"/opt/plugins\n      sha256:\n        glacier.py: {A}\n        arctic: {B}\n",
        )

    def test_that_was_trusted_for_its_owner_is_pinned_now(self) -> None:
        text = self.TEXT.replace("plugins\nv", "plugins\n      trust: ownership  # so far\nv")
        new = pinned(text, {"glacier.py": A})
        assert f"trust: pinned  # so far\n      sha256:\n        glacier.py: {A}\n" in new
        assert values(new)["plugins"]["sources"][0]["sha256"] == {"glacier.py": A}

    def test_that_has_some_gets_what_differs_only(self) -> None:
        old = (
            f"      sha256:\n        # the old one\n        a.py: {A}  # of May\n"
            f"        gone.py: {C}\n        c.py: {C}\n"
        )
        text = self.TEXT.replace("plugins\nv", f"plugins\n{old}v")
        new = pinned(text, {"a.py": B, "b.py": A, "c.py": C})
        assert new == text.replace(f"a.py: {A}", f"a.py: {B}").replace(f"        gone.py: {C}\n", "").replace(
            f"c.py: {C}\n", f"c.py: {C}\n        b.py: {A}\n"
        )

    def test_in_braces_gets_them_there(self) -> None:
        text = f"plugins: {{sources: [{{directory: /opt, sha256: {{a.py: {A}}}}}]}}\n"
        assert pinned(text, {"b.py": B}) == text.replace(f"{{a.py: {A}}}", f"{{b.py: {B}}}")
        text = "plugins: {sources: [{directory: /opt}]}\n"
        assert pinned(text, {"b.py": B}) == text.replace("/opt", f"/opt, sha256: {{b.py: {B}}}")

    @pytest.mark.parametrize("placeholder", ["", " # to do", " TODO", " ~", " []", " {}"])
    def test_with_something_else_in_their_place_gets_them_there(self, placeholder: str) -> None:
        text = self.TEXT.replace("plugins\nv", f"plugins\n      sha256:{placeholder}\nv")
        new = pinned(text, {"a.py": A, "arctic": B})
        assert values(new)["plugins"]["sources"][0]["sha256"] == {"a.py": A, "arctic": B}
        assert ("# to do" in new) == ("# to do" in placeholder)

    def test_without_plugins_has_none(self) -> None:
        assert values(pinned(self.TEXT, {}))["plugins"]["sources"][0]["sha256"] == {}


class TestALayoutWithoutAPlaceForIt:
    def test_is_left_to_whoever_wrote_it(self) -> None:
        text = "providers: {a: {type: &a memory}}\nplugins:\n  sources:\n    - path: *a\n"
        with pytest.raises(CannotWriteError) as caught:
            pinned(text, A)
        assert caught.value.pointer == FIRST

    def test_is_none_that_an_alias_repeats_as_a_whole(self) -> None:
        text = "plugins:\n  sources: [&a {path: a.py}, *a]\n"
        assert values(pinned(text, A))["plugins"]["sources"] == [{"path": "a.py", "sha256": A}] * 2

    def test_is_none_where_the_path_takes_several_lines(self) -> None:
        text = "plugins:\n  sources:\n    - path: >-\n        a.py\n      # more\n    - {path: b.py}\n"
        new = pinned(text, A)
        assert values(new)["plugins"]["sources"] == [{"path": "a.py", "sha256": A}, {"path": "b.py"}]


names = st.sampled_from(["a.py", "b.py", "true.py", "null", "arctic", "on.py"])
digests = st.sampled_from([A, B, "1" * 64, "2" * 20 + "e" + "3" * 43])


class TestTheLaw:
    @given(
        st.lists(
            st.tuples(st.booleans(), st.dictionaries(names, digests, max_size=4)), min_size=1, max_size=4
        ),
        st.dictionaries(names, digests, max_size=4),
        st.data(),
    )
    def test_only_what_was_asked_for_differs_afterwards(
        self, entries: list[tuple[bool, dict[str, str]]], wanted: dict[str, str], data: st.DataObject
    ) -> None:
        lines = ["version: 1", "plugins:", "  sources:"]
        for index, (is_flow, pins) in enumerate(entries):
            if is_flow:
                inner = ", ".join(f'"{name}": "{digest}"' for name, digest in pins.items())
                lines.append(f"    - {{directory: /d{index}, sha256: {{{inner}}}}}  # {index}")
            else:
                lines.append(f"    - directory: /d{index}  # {index}")
                lines += ["      sha256:"] * bool(pins)
                lines += [f'        "{name}": "{digest}"  # {name}' for name, digest in pins.items()]
        text = "\n".join([*lines, "providers: {}", ""])
        index = data.draw(st.integers(0, len(entries) - 1))
        new = pinned(text, wanted, ("plugins", "sources", index))
        expected = values(text)
        expected["plugins"]["sources"][index]["sha256"] = wanted
        assert values(new) == expected
        kept = [line for line in text.splitlines() if line.startswith("    - directory")]
        assert [line for line in new.splitlines() if line.startswith("    - directory")] == kept
