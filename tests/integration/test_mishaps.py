"""Nothing is lost or left behind when something happens in the middle: kills, rivals, a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.integration import mishaps, playing
from tests.integration.arena import Arena

Found = list[dict[str, Any]]


def _found(arena: Arena, mishap: Callable[[Arena], Found], prefix: Sequence[str] = ()) -> Found:
    done = subprocess.run(
        [
            *(*prefix, sys.executable, "-m", "tests.integration.mishaps", mishap.__name__),
            *(arena.account.name, str(arena.state_dir), str(arena.project)),
        ],
        cwd=playing.CLONE,
        env=playing.clean_environment(PYTHONPATH=f"{playing.CLONE}:{playing.CLONE / '.collections'}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(done.stdout)
    return found


def _faults(found: Found, is_good: Callable[[dict[str, Any]], bool]) -> str:
    """Those that are not as they should be, for a person to read."""
    return "\n".join(json.dumps(one) for one in found if not is_good(one))


@pytest.mark.parametrize("mishap", [mishaps.killed_in_start, mishaps.killed_in_change, mishaps.killed_in_destroy])
def test_killed_at_any_moment(arena: Arena, mishap: Callable[[Arena], Found]) -> None:
    """The record is the old or the new one, never a half; the next run does what it is asked for; nothing is left."""
    found = _found(arena, mishap)
    assert len(found) > 8
    assert {one["killed"].get("killed") for one in found} == {9}
    expected = {"started": ["running"], "absent": []}

    def is_good(one: dict[str, Any]) -> bool:
        # Where it was killed before it had a record, there is nothing to stop.
        statuses = [expected[one["repair"]]] if one["repair"] in expected else [["stopped"], []]
        repaired = "value" in one["repaired"] and one["status"] in statuses
        return repaired and not one["record"] and "value" in one["gone"] and not one["left"]

    assert _faults(found, is_good) == ""


def test_a_worker_that_is_killed(arena: Arena, as_root: None) -> None:
    """The one that waits for it cleans up, and says that it failed."""
    found = _found(arena, mishaps.worker_killed)
    assert len(found) > 8

    def is_good(one: dict[str, Any]) -> bool:
        told = "error" in one["killed"] or "crash" in one["killed"] or one["killed"].get("value") == ["create", "start"]
        return told and not one["left"] and one["repaired"].get("value") in ([], ["destroy"])

    assert _faults(found, is_good) == ""
    # One clear error, as for everything that can go wrong outside.
    assert [one["moment"] for one in found if "crash" in one["killed"]] == []


def test_rivals(arena: Arena) -> None:
    """One wins; each of the others finds it done, or has one clear error."""
    found = _found(arena, mishaps.rivals)
    lost = ("Another process ", "The record of ")

    def is_good(one: dict[str, Any]) -> bool:
        answers = one["answers"]
        winners = [answer["value"] for answer in answers if answer.get("value")]
        errors = [answer["error"] for answer in answers if "error" in answer]
        clear = all(error.startswith(lost[0]) and error.count("\n") <= 1 for error in errors)
        done = (one["status"], one["servers"]) == ((["running"], 1) if winners == [["create", "start"]] else ([], 0))
        return clear and len(winners) == 1 and done and not any("crash" in answer for answer in answers)

    assert _faults(found, is_good) == ""
    assert arena.left_behind() == []


def test_a_full_disk(arena: Arena, as_root: None) -> None:
    """A start fails with an error that says so, and leaves nothing; a change leaves the record; removing works."""
    found = _found(arena, mishaps.full_disk, ("unshare", "--mount", "--propagation", "private"))

    def is_good(one: dict[str, Any]) -> bool:
        # It had to be stopped for some changes, and then stays so; what runs is recorded in any case.
        consistent = one["servers"] == (one["status"] == ["running"])
        rest = "value" in one["again"] and "value" in one["gone"] and not one["left"] and not one["left_after"]
        return (
            consistent and rest and all(_is_full(one[what]) or "value" in one[what] for what in ("started", "changed"))
        )

    assert _faults(found, is_good) == ""
    assert "error" in found[0]["started"]
    assert "value" in found[5]["started"]
    assert "value" in found[-1]["started"]
    assert found[0]["kept"]
    assert _is_full(found[0]["changed"])


def _is_full(answer: dict[str, Any]) -> bool:
    error = answer.get("error", "")
    return "No space left on device" in error and error.count("\n") <= 1
