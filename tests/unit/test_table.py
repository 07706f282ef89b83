"""Tables of what hosts say: they fit, and nothing in a cell can leave it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.claude_code.nix_sandbox.plugins.filter.fleet_rows import fleet_rows
from ansible_collections.claude_code.nix_sandbox.plugins.filter.table import table


def test_a_table() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "web", "used_by": "alice", "tokens": 7},
        {"name": "a", "used_by": None, "tokens": 1200},
    ]
    assert table(rows, ["name", "used_by", "tokens"]).splitlines() == [
        "NAME  USED BY  TOKENS",
        "web   alice         7",
        "a     -          1200",
    ]


def test_columns() -> None:
    """A mapping gives headings; a column with nothing in it is left out; without rows there is the heading."""
    assert table([{"a": 1, "b": None}], {"a": "First", "b": "Second"}).splitlines() == ["First", "    1"]
    assert table([], ["a", "b"]) == "A  B"


@pytest.mark.parametrize("evil", ["a\nb", "\x1b[2J", "\x9b1m", "a\rb", "\u202eabc", "\u2028", "\u200b", "\ud800", "\0"])
def test_nothing_leaves_its_cell(evil: str) -> None:
    lines = table([{"x": evil}], ["x"]).split("\n")
    assert len(lines) == 2
    assert not any(unicodedata.category(each)[0] == "C" for each in lines[1])
    assert "?" in lines[1]


@pytest.mark.parametrize("width", [40, 60, 120])
def test_it_fits(width: int) -> None:
    rows = [{"host": "h" * 80, "project": "/srv/" + "p" * 200 + "/webshop", "note": "界" * 90}]
    for line in table(rows, ["host", "project", "note"], width).splitlines():
        assert sum(2 if unicodedata.east_asian_width(each) == "W" else 1 for each in line) <= width
    # A path keeps its end.
    assert "/webshop" in table(rows, ["host", "project", "note"], 120)


def test_what_is_no_table() -> None:
    wrong: Any
    for wrong in ("text", {"a": 1}, [1], 7):
        with pytest.raises(AnsibleFilterError):
            table(wrong, ["a"])
    wrong = []
    with pytest.raises(AnsibleFilterError):
        fleet_rows(wrong)


def test_rows_of_hosts() -> None:
    session = {"input_tokens": 5, "cache_read_input_tokens": 7, "cost": {"usd": 1.234}}
    usage = {"activity": "waiting", "session": session}
    web = {"name": "web", "status": "running", "backend": "vm", "project_dir": "/srv/web", "usage": usage}
    rows = fleet_rows(
        {
            "web1": {"sandboxes": [web, {"name": "odd", "status": "unreadable", "problem": "damaged"}]},
            "web2": {"skipped": True, "msg": "nothing"},
            "web3": {"msg": "no Python"},
            "web4": {"sandboxes": []},
        }
    )
    shown = [[row[key] for key in ("host", "sandbox", "status", "activity", "tokens", "usd", "note")] for row in rows]
    assert shown == [
        ["web1", "web", "running", "waiting", 12, 1.23, None],
        ["web1", "odd", "unreadable", None, None, None, "damaged"],
        ["web2", None, "unknown", None, None, None, "does not answer"],
        ["web3", None, "unknown", None, None, None, "no Python"],
        ["web4", None, None, None, None, None, "no sandboxes"],
    ]
    assert fleet_rows({"web1": {"sandboxes": [web]}}, whole=True)[0]["detail"] == web


@pytest.mark.parametrize("odd", [None, "x", 3, ["x"], {"sandboxes": "x"}, {"sandboxes": ["x", None]}])
def test_hosts_that_say_nonsense(odd: Any) -> None:
    table(fleet_rows({"web1": odd}), ["host", "sandbox", "note"])
    usage = {"activity": odd, "session": {"input_tokens": float("inf"), "cost": {"usd": odd}}}
    view = {"name": odd, "usage": usage, "project_dir": odd}
    table(fleet_rows({"web1": {"sandboxes": [view]}}), ["host", "sandbox", "tokens", "project"])
