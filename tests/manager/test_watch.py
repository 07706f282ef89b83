"""Looking at many sandboxes: one that cannot be looked at hides no other."""

from __future__ import annotations

from typing import Any

import pytest

from claude_sandbox import prices
from claude_sandbox.host import Host
from claude_sandbox.registry import Record
from claude_sandbox.spec import Spec
from manager_app import observer, wire


def test_a_mistake_in_looking_at_one_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def look(_eye: Any, record: Record, *_more: Any) -> dict[str, Any]:
        # What no file has been found to do, and one may.
        return {"usage": 1 // (record.id != "1" * 12)}

    monkeypatch.setattr(observer._Eye, "look", look)
    looker = observer._Observer(Host.this(), prices.load(str(tmp_path)))
    spec = Spec("/srv/project", user=Host.this().account.name)
    records = [
        Record(name, f"{tmp_path}/{name}", identity * 12, 1.0, spec) for name, identity in (("a", "1"), ("b", "2"))
    ]
    asked = [{"record": wire.record_content(record), "store": str(tmp_path), "known": {}} for record in records]
    found, _blob = looker.look(asked)
    assert "ZeroDivisionError" in found["1" * 12]["crash"]
    assert found["2" * 12] == {"usage": 1}
