"""claude_sandbox_attach: what a play can do with an agent's terminal."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.integration import playing
from tests.integration.arena import Arena


def test_talking(arena: Arena) -> None:
    """Text is typed as it is, then keys are pressed; the screen comes back once it shows what was waited for."""
    hostile = "$(touch gone) ; -l ü {x} \\n ~"
    made, said, quiet, literal, late, bad, idle = arena.play(
        arena.started(),
        arena.task("claude_sandbox_attach", name="box", text="echo hel''lo", keys=["Enter"], wait_for="^hello$"),
        arena.task("claude_sandbox_attach", name="box"),
        arena.task("claude_sandbox_attach", name="box", text=f"printf %s '{hostile}';", wait_for=r"~';$"),
        arena.task("claude_sandbox_attach", name="box", wait_for="never shown", timeout=0.3),
        arena.task("claude_sandbox_attach", name="box", wait_for="(", timeout=0.3),
        arena.task("claude_sandbox_attach", name="box", wait_idle=True, timeout=0.3),
    )
    assert not said.failed, said
    assert said.changed
    assert "hello" in said["screen"].splitlines()
    assert said["actions"] == []
    assert said["attach_command"] == made.sandbox["attach_command"]
    assert (quiet.changed, quiet["screen"]) == (False, said["screen"])
    assert hostile in literal["screen"]
    assert [*arena.project.iterdir()] == []
    assert late.message == "Waited for the agent of sandbox 'box', but it did not come in time."
    assert "hello" in late["screen"]
    assert "is no regular expression" in bad.message
    assert "Only Claude Code says when it is idle" in idle.message
    assert all(result.failed and not result.changed for result in (late, bad, idle))


def test_starting_what_is_stopped(arena: Arena) -> None:
    """Check mode says that it would be started, and does not; nor does it type."""
    talk: dict[str, Any] = {"name": "box", "text": "touch typed", "keys": ["Enter"]}
    results = arena.play(
        arena.task("claude_sandbox_attach", **talk),
        arena.started(),
        arena.task("claude_sandbox_attach", check=True, **talk),
        arena.task(name="box", state="stopped"),
        arena.task("claude_sandbox_attach", check=True, **talk),
        arena.task("claude_sandbox_info", name=["box"]),
        arena.task("claude_sandbox_attach", name="box", wait_for=r"\$ $"),
    )
    missing, _, typed_in_check, _, started_in_check, info, started = results
    assert missing.message == f"There is no sandbox 'box' in {arena.state_dir}."
    assert (typed_in_check.changed, typed_in_check["actions"]) == (True, [])
    assert typed_in_check["screen"].strip().endswith("$")
    assert (started_in_check.changed, started_in_check["actions"]) == (True, ["start"])
    assert info["sandboxes"][0]["status"] == "stopped"
    assert (started.changed, started["actions"]) == (True, ["start"])
    assert [*arena.project.iterdir()] == []


def test_the_command_that_a_person_types(arena: Arena) -> None:
    """It is the one thing that a task cannot do itself: have a terminal."""
    made, told = arena.play(
        arena.started(),
        arena.task("claude_sandbox_attach", name="box", text="echo for''you", keys=["Enter"], wait_for="^foryou$"),
    )
    words = shlex.split(made.sandbox["attach_command"])
    assert told["attach_command"] == made.sandbox["attach_command"]
    # Without sudo, which a test host may lack; in a terminal of its own.
    client = words[words.index("env") :]
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (48, 160))
    terminal = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *client],
        env=playing.clean_environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
    )
    os.close(theirs)
    with terminal, deadline(terminal):
        shown = _read_until(ours, b"foryou")
        # By the keys that lead out of it; tmux takes for pasted what comes within a millisecond.
        os.write(ours, b"\x02")
        time.sleep(0.05)
        os.write(ours, b"d")
        shown += _read_until(ours, b"detached")
    os.close(ours)
    assert b"detached" in shown, shown
    assert arena.engine.status(arena.engine.registry.resolve("box")) == "running"


def _read_until(terminal: int, wanted: bytes) -> bytes:
    """What comes, up to what is wanted or the end."""
    text = b""
    # A terminal that nobody has open any more is an error to read from.
    with contextlib.suppress(OSError):
        while wanted not in text and (piece := os.read(terminal, 4096)):
            text += piece
    return text


@contextlib.contextmanager
def deadline(process: subprocess.Popen[bytes], seconds: float = 20) -> Iterator[None]:
    """Kill a process that has not ended by then, which ends the wait for what it prints."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
