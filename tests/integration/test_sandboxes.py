"""claude_sandboxes: a whole list in one call."""

from __future__ import annotations

from typing import Any

from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Result, Task


def _wanted(arena: Arena, *names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "project_dir": str(arena.project), **PLAIN, **more} for name in names]


def _many(arena: Arena, sandboxes: list[dict[str, Any]], *, check: bool = False, **args: Any) -> Task:
    return arena.task("claude_sandboxes", check=check, sandboxes=sandboxes, **args)


def _actions(result: Result) -> dict[str, list[str]]:
    return {item["name"]: item["actions"] for item in result["sandboxes"]}


def test_a_list(arena: Arena) -> None:
    """All of it in check mode, for real, again, and again in check mode; then what the list no longer has goes."""
    three, one = _wanted(arena, "a", "b", "c"), _wanted(arena, "b")
    check, run, again, still, check_less, less, less_again = arena.play(
        _many(arena, three, check=True),
        _many(arena, three),
        _many(arena, three),
        _many(arena, three, check=True),
        _many(arena, one, prune=True, check=True),
        _many(arena, one, prune=True, parallel=1),
        _many(arena, one, prune=True),
    )
    made = {name: ["create", "start"] for name in "abc"}
    assert _actions(check) == _actions(run) == made
    assert check["diff"] == run["diff"]
    assert {item["sandbox"]["status"] for item in run["sandboxes"]} == {"running"}
    for result in (again, still, less_again):
        assert not result.changed, result
        assert result["diff"] == {"before": {}, "after": {}}
    assert [item["sandbox"] for item in again["sandboxes"]] == [item["sandbox"] for item in run["sandboxes"]]
    assert _actions(check_less) == _actions(less) == {"b": [], "a": ["destroy"], "c": ["destroy"]}
    assert check_less["diff"] == less["diff"]
    assert arena.engine.registry.names() == ["b"]


def test_states_and_changes_in_one_list(arena: Arena) -> None:
    first, second = arena.play(
        _many(arena, _wanted(arena, "gone", "halted", "changed", "same")),
        _many(
            arena,
            [
                {"name": "gone", "state": "absent"},
                {"name": "halted", "state": "stopped"},
                *_wanted(arena, "changed", env={"A": "1"}),
                *_wanted(arena, "same"),
            ],
            on_change="restart",
        ),
    )
    assert not first.failed
    expected = {"gone": ["destroy"], "halted": ["stop"], "changed": ["update", "stop", "start"], "same": []}
    assert _actions(second) == expected
    assert [*second["diff"]["after"]] == ["gone", "halted", "changed"]


def test_one_that_fails(arena: Arena) -> None:
    """It has its error in its place, the task fails, and the others come to their states all the same."""
    missing = {"name": "bad", "project_dir": f"{arena.project}/missing", **PLAIN}
    listed = [*_wanted(arena, "first"), missing, *_wanted(arena, "last")]
    check, run, again = arena.play(_many(arena, listed, check=True), _many(arena, listed), _many(arena, listed))
    for result in (check, run, again):
        assert result.failed
        first, bad, last = result["sandboxes"]
        assert result.message == f"1 of 3 sandboxes failed: bad: {bad['error']}"
        assert "No such file or directory" in bad["error"]
        assert "error" not in first
        assert "error" not in last
    assert check.changed
    assert run.changed
    assert not again.changed
    assert arena.engine.registry.names() == ["first", "last"]


def test_one_that_fails_while_it_starts(arena: Arena) -> None:
    """Known only once it runs, so check mode cannot tell; it leaves nothing."""
    listed = [*_wanted(arena, "good"), *_wanted(arena, "bad", agent=["/no/such/program"])]
    run, absent = arena.play(_many(arena, listed), _many(arena, [], prune=True))
    assert run.failed
    assert "/no/such/program" in run["sandboxes"][1]["error"]
    assert run["sandboxes"][0]["actions"] == ["create", "start"]
    assert _actions(absent) == {"good": ["destroy"]}


def test_what_cannot_be_a_list(arena: Arena) -> None:
    """Nothing at all is done then."""
    listed = [*_wanted(arena, "a", "b"), *_wanted(arena, "a", network=False)]
    twice, none, many, lost, nothing = arena.play(
        _many(arena, listed, prune=True),
        _many(arena, listed[:2], parallel=0),
        _many(arena, listed[:2], parallel=65),
        _many(arena, [*listed[:2], {"name": "c", "network": False}]),
        _many(arena, []),
    )
    assert twice.message == "Sandbox 'a' is in the list twice."
    assert none.message == many.message == "parallel must be from 1 to 64."
    assert "network is given without project_dir" in lost.message
    assert all(result.failed for result in (twice, none, many, lost))
    assert (nothing.changed, nothing["sandboxes"]) == (False, [])
    assert arena.engine.registry.names() == []
