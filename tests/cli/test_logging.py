from __future__ import annotations

import json
import logging

from shadowcat_registry.cli.output import JsonLogFormatter


class TestJsonLines:
    def test_a_record_is_an_object_on_one_line(self) -> None:
        record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, "%s\n%s", ("one", "two"), None)
        line = JsonLogFormatter().format(record)
        entry = json.loads(line)
        assert "\n" not in line
        assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "a.logger", "one\ntwo")
        assert "audit" not in entry

    def test_an_audit_is_there_as_data(self) -> None:
        record = logging.LogRecord("audit", logging.INFO, __file__, 1, "committed", (), None)
        audit = {"outcome": "committed", "generation": 2}
        vars(record)["audit"] = audit  # as `extra` does it
        assert json.loads(JsonLogFormatter().format(record))["audit"] == audit
