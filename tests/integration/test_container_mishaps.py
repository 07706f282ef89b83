"""Containers that meet with a SIGKILL: whatever dies, the next run does what it is asked for, and nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request
from tests.integration import mishaps, playing
from tests.integration.arena import PLAIN, RUNTIME
from tests.integration.containers import ContainerArena, container_arena
from tests.support.account import Account

pytestmark = pytest.mark.usefixtures("as_root")

Found = list[dict[str, Any]]


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[ContainerArena]:
    name = re.sub(r"\W+", "-", f"{request.path.stem}-{request.node.name}").strip("-")
    with container_arena(account, name) as made:
        yield made


def _started(arena: ContainerArena) -> Request:
    return Request("box", params={"project_dir": str(arena.project), **PLAIN, **arena.settings})


def _victims(arena: ContainerArena) -> dict[str, int]:
    """What a running container is made of, by what it is."""
    pids, machine = arena.pids(), arena.machine()
    supervisor = machine["supervisor"]["pid"]
    script = _child(pids["init"])
    return {
        "tmux": pids["server"],
        "pane": pids["pane"],
        "supervisor": supervisor,
        "nspawn": _child(supervisor),
        "init": pids["init"],
        "script": script,
        "agent": _child(script),
    }


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


@pytest.mark.parametrize("repair", ["absent", "started", "stopped"])
def test_any_part_killed(arena: ContainerArena, repair: str) -> None:
    """One at a time, then together; what the repair is asked for holds, and after absent nothing is left."""
    engine = arena.engine
    single = [(name,) for name in ("tmux", "pane", "supervisor", "nspawn", "init", "script", "agent")]
    faults = []
    for victims in [*single, ("supervisor", "nspawn"), ("supervisor", "pane", "tmux"), ("nspawn", "tmux")]:
        engine.ensure(_started(arena))
        pids = _victims(arena)
        for name in victims:
            # The one before may have taken it along.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[name], signal.SIGKILL)
        time.sleep(0.05)
        before = engine.view(engine.registry.resolve("box"))["status"]
        engine.ensure(_started(arena) if repair == "started" else Request("box", repair))
        if repair == "started":
            status = engine.view(engine.registry.resolve("box"))["status"]
            alive = engine.execute("box", ["true"]).code == 0
            engine.ensure(Request("box", "absent"))
        else:
            status, alive = repair, True
        # What copies the terminal's output to the log ends by itself.
        arena.wait_until_gone(seconds=1.0)
        left = arena.left_behind()
        if left or not alive or status != (repair if repair != "started" else "running"):
            faults.append((victims, before, status, alive, left))
            arena.end_processes()
    assert faults == []


@pytest.mark.parametrize("victim", ["tmux", "pane", "supervisor", "nspawn", "init", "script", "agent"])
def test_the_rest_ends_by_itself(arena: ContainerArena, victim: str) -> None:
    """A sandbox that is not whole does not go on where nobody sees it; its status is dead."""
    arena.engine.ensure(_started(arena))
    pids = _victims(arena)
    os.kill(pids[victim], signal.SIGKILL)
    inside = {pids[name] for name in ("init", "script", "agent")} - {pids[victim]}
    arena.wait_for_processes([*inside, pids["pane"]], 2.0)
    assert arena.engine.view(arena.engine.registry.resolve("box"))["status"] == "dead"
    assert [words for pid, words in arena.processes() if pid in inside] == []


def test_a_record_that_cannot_be_read(arena: ContainerArena) -> None:
    """It can still be removed, with all that root knows of the container."""
    arena.engine.ensure(_started(arena))
    (arena.folder() / "spec.json").write_text("{", encoding="utf-8")
    arena.engine.ensure(Request("box", "absent"))
    assert arena.left_behind() == []


def test_a_record_that_was_removed(arena: ContainerArena) -> None:
    """By hand, while it runs: a new one of that name starts, and the old one can be told from it."""
    arena.engine.ensure(_started(arena))
    old, identity = _victims(arena), arena.engine.registry.resolve("box").id
    subprocess.run(["rm", "-r", str(arena.folder())], check=True)
    arena.engine.ensure(_started(arena))
    new = _victims(arena)
    assert old["init"] != new["init"]
    arena.engine.ensure(Request("box", "absent"))
    with contextlib.suppress(ProcessLookupError):
        os.kill(old["tmux"], signal.SIGKILL)
    arena.wait_for_processes(list(old.values()), 2.0)
    (RUNTIME / "machines" / f"box-{identity}.json").unlink()
    shutil.rmtree(RUNTIME / identity)


# --- at every moment --------------------------------------------------------------------------------------------------


def _found(arena: ContainerArena, mishap: Callable[..., Found], prefix: Sequence[str] = ()) -> Found:
    done = subprocess.run(
        [
            *(*prefix, sys.executable, "-m", "tests.integration.containers", mishap.__name__),
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


@pytest.mark.parametrize("mishap", [mishaps.killed_in_start, mishaps.killed_in_destroy])
def test_killed_at_any_moment(arena: ContainerArena, mishap: Callable[..., Found]) -> None:
    """The record is the old or the new one, never a half; the next run does what it is asked for; nothing is left."""
    found = _found(arena, mishap)
    assert len(found) > 2
    assert {one["killed"].get("killed") for one in found} == {9}
    expected = {"started": ["running"], "absent": []}

    def is_good(one: dict[str, Any]) -> bool:
        statuses = [expected[one["repair"]]] if one["repair"] in expected else [["stopped"], []]
        repaired = "value" in one["repaired"] and one["status"] in statuses
        return repaired and not one["record"] and "value" in one["gone"] and not one["left"]

    assert _faults(found, is_good) == ""


def test_a_worker_that_is_killed(arena: ContainerArena) -> None:
    """Of the account's, or root's own: who waits for it cleans up, and has one clear error."""
    found = _found(arena, mishaps.worker_killed)
    assert len(found) > 20

    def is_good(one: dict[str, Any]) -> bool:
        killed = one["killed"]
        clear = "error" in killed and killed["error"].count("\n") <= 1 and "Traceback" not in killed["error"]
        told = clear or killed.get("value") == ["create", "start"]
        return told and not one["left"] and one["repaired"].get("value") in ([], ["destroy"])

    assert _faults(found, is_good) == ""


def test_rivals(arena: ContainerArena) -> None:
    """One wins; each of the others finds it done, or has one clear error."""
    found = _found(arena, mishaps.rivals)

    def is_good(one: dict[str, Any]) -> bool:
        answers = one["answers"]
        winners = [answer["value"] for answer in answers if answer.get("value")]
        errors = [answer["error"] for answer in answers if "error" in answer]
        clear = all(error.startswith(("Another process ", "The record of ")) for error in errors)
        done = (one["status"], one["servers"]) == ((["running"], 1) if winners == [["create", "start"]] else ([], 0))
        return clear and len(winners) == 1 and done and not any("crash" in answer for answer in answers)

    assert _faults(found, is_good) == ""
    assert arena.left_behind() == []


def _faults(found: Found, is_good: Callable[[dict[str, Any]], bool]) -> str:
    """Those that are not as they should be, for a person to read."""
    return "\n".join(json.dumps(one) for one in found if not is_good(one))
