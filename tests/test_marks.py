from __future__ import annotations

import pytest

from shadowcat_registry.marks import Mark, Pointer, format_dotted, format_pointer


class TestMark:
    def test_it_reads_as_what_an_editor_jumps_to(self) -> None:
        assert str(Mark("r.yaml", 3, 7, 3, 9)) == "r.yaml:3:7"

    def test_marks_sort_by_place(self) -> None:
        later, earlier = Mark("r", 10, 1, 10, 2), Mark("r", 9, 80, 9, 81)
        assert sorted([later, earlier]) == [earlier, later]

    def test_the_start_is_the_first_character(self) -> None:
        assert Mark.at_start("r") == Mark("r", 1, 1, 1, 1)


class TestPointer:
    @pytest.mark.parametrize(
        ("pointer", "text"),
        [((), ""), (("",), "/"), (("a", 0), "/a/0"), (("a/b", "m~n"), "/a~1b/m~0n"), (("~1",), "/~01")],
    )
    def test_it_is_written_as_a_json_pointer(self, pointer: Pointer, text: str) -> None:
        assert format_pointer(pointer) == text

    @pytest.mark.parametrize(
        ("pointer", "text"), [((), ""), (("a", "b"), "a.b"), (("a", 0, "b"), "a[0].b"), ((0, 1), "[0][1]")]
    )
    def test_it_is_written_for_people(self, pointer: Pointer, text: str) -> None:
        assert format_dotted(pointer) == text
