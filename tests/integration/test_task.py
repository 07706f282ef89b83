"""claude_sandbox_task, as far as no agent is needed: what is refused, check mode, and what killed tasks have left."""

from __future__ import annotations

import os
import re
from typing import Any

from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Task

GRANTS = PLAIN["grants"]
NOWHERE = {"ANTHROPIC_BASE_URL": "http://[::1]:9", "CLAUDE_CODE_MAX_RETRIES": "1"}


def asked(arena: Arena, *, check: bool = False, **args: Any) -> Task:
    """A task with a prompt."""
    return arena.task("claude_sandbox_task", check=check, **{"prompt": "the canary prompt", **args})


def test_what_is_refused(arena: Arena) -> None:
    project = str(arena.project)
    results = arena.play(
        asked(arena),
        asked(arena, name="box", project_dir=project),
        asked(arena, project_dir=project, prompt=" "),
        asked(arena, project_dir=project, session_id="--continue"),
        asked(arena, project_dir=project, schema={"type": "array"}),
        asked(arena, project_dir=project, timeout=0),
        asked(arena, project_dir=project, max_turns=0),
        asked(arena, project_dir=f"{project}/no"),
        asked(arena, name="box", backend="container"),
        asked(arena, name="box", keep=True),
        asked(arena, name="box"),
    )
    messages = [result.message for result in results]
    wanted = [
        "one of the following is required: name, project_dir",
        "parameters are mutually exclusive: name|project_dir",
        "prompt is empty. Say what the agent is to do.",
        "session_id '--continue' is none. Give the session_id that an earlier task returned.",
        "schema is none of an object. Give one with `type: object` at its top.",
        "timeout must be a number above 0, not 0.0.",
        "max_turns must be at least 1, not 0.",
        f"project_dir '{project}/no': No such file or directory. Create it, owned by who works in it.",
        "backend is given without project_dir. Give project_dir too, or leave both out to take the sandbox as it is "
        "recorded.",
        "keep has no effect on an existing sandbox. Leave it out, or give project_dir.",
        f"There is no sandbox 'box' in {arena.state_dir}.",
    ]
    if os.geteuid() != 0:
        wanted[7] = messages[7]
    assert messages == wanted
    assert all(result.failed for result in results)
    assert "canary" not in str(results)


def test_check_mode(arena: Arena) -> None:
    made, there, refused = arena.play(
        asked(arena, check=True, project_dir=str(arena.project), grants=GRANTS),
        # A play may start it only in its run.
        asked(arena, check=True, name="box"),
        asked(arena, check=True, project_dir="/etc", grants=GRANTS),
    )
    for result in (made, there):
        assert (result.failed, result.changed, result.message) == (False, True, "It would be run."), result
    assert refused.failed
    assert arena.engine.registry.names() == []


def test_what_a_killed_task_has_left_is_removed_by_the_next(arena: Arena) -> None:
    """Where the process that should have done so was killed, too."""
    nobody = f"task-{os.getpid()}-1-0123abcd"
    alive = f"task-{os.getpid()}-{_start()}-0123abcd"
    own = f"task-{os.getpid()}-2-0123abcd"
    holding: dict[str, Any] = {"agent": ["sleep", "1000"]}
    *made, late = arena.play(
        arena.started(nobody, **holding),
        arena.started(alive, **holding),
        arena.started(own),
        # It is refused by the agent's own words or for the lack of an agent; either way it has cleared up before.
        asked(
            arena,
            project_dir=str(arena.project),
            grants=GRANTS,
            timeout=30,
            env=NOWHERE,
        ),
    )
    assert not any(result.failed for result in made), made
    assert late.failed
    assert arena.engine.registry.names() == sorted([alive, own])


def _start() -> str:
    """When this process was started, in ticks of the clock."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        return re.split(r"\) ", file.read())[-1].split()[19]
