from __future__ import annotations

import subprocess
import sys

from shadowcat_registry.fingerprints import fingerprint, shown

SECRETS = frozenset({("token",), ("servers", 0, "key"), ("vault",)})


class TestShown:
    def test_a_value_is_shown_as_json_on_one_line(self) -> None:
        assert shown("a", ("n",), "./tapes\n", SECRETS) == '"./tapes\\n"'
        assert shown("a", ("n",), None, SECRETS) == "null"
        assert shown("a", ("n",), {"b": [1, True]}, SECRETS) == '{"b": [1, true]}'

    def test_a_long_one_is_cut_off(self) -> None:
        assert len(shown("a", ("n",), "x" * 10_000, SECRETS)) < 220

    def test_a_secret_is_a_mask_that_differs_where_it_does(self) -> None:
        first, again, other = (shown("a", ("token",), it, SECRETS) for it in ("one", "one", "two"))
        assert first == again != other
        assert first.startswith("*** (")
        assert "one" not in first

    def test_so_is_what_is_inside_of_a_secret_or_around_it(self) -> None:
        assert shown("a", ("vault", "inner"), "S3CRET", SECRETS).startswith("*** (")
        whole = shown("a", ("servers",), [{"key": "S3CRET", "port": 1}], SECRETS)
        assert whole.startswith('[{"key": "***", "port": 1}] (')

    def test_the_password_of_a_url_is_a_secret_everywhere(self) -> None:
        one, other = (shown("a", ("url",), f"pg://u:{it}@h/d", SECRETS) for it in ("S3CRET", "S3CRET2"))
        assert one.startswith('"pg://u:***@h/d" (')
        assert one != other


class TestFingerprint:
    def test_does_not_tell_whether_two_fields_have_the_same_secret(self) -> None:
        found = {fingerprint(owner, (at,), "S3CRET") for owner in "ab" for at in ("token", "key")}
        assert len(found) == 4

    def test_is_another_in_each_process(self) -> None:
        program = (
            "from shadowcat_registry.fingerprints import fingerprint; print(fingerprint('a', ('t',), 1))"
        )
        call = [sys.executable, "-c", program]
        one, other = (subprocess.run(call, check=True, capture_output=True).stdout for _ in range(2))
        assert one != other

    def test_tells_1_from_true(self) -> None:
        assert fingerprint("a", ("n",), 1) != fingerprint("a", ("n",), True)
