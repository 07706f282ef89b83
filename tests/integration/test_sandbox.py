"""claude_sandbox: each state and each kind of change, in check mode, for real, again, and again in check mode."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tests.integration.arena import Arena
from tests.integration.playing import Result, assert_quartet


def test_a_life(arena: Arena) -> None:
    """Made, stopped, started and removed; what the project keeps stays, until it is purged."""
    results = arena.play(
        *arena.quartet(),
        *arena.quartet(state="stopped"),
        *arena.quartet(state="started"),
        *arena.quartet(state="absent"),
    )
    made = assert_quartet(results[0:4], ["create", "start"])
    assert results[0]["sandbox"] is None
    assert made.sandbox["status"] == "running"
    stopped = assert_quartet(results[4:8], ["stop"])
    assert (stopped.sandbox["status"], stopped.sandbox["pid"]) == ("stopped", None)
    assert assert_quartet(results[8:12], ["start"]).sandbox["id"] == made.sandbox["id"]
    assert assert_quartet(results[12:16], ["destroy"])["sandbox"] is None
    # At once, with nothing waited for: absent means that all of it is gone.
    assert arena.left_behind() == []
    assert not arena.folder().exists()
    assert [*arena.state_dir.glob("projects/*")] != []


def test_check_mode_writes_nothing(arena: Arena) -> None:
    predicted, gone = arena.play(arena.started(check=True), arena.task(name="box", state="absent", check=True))
    assert predicted.changed
    assert not gone.changed
    assert [*arena.state_dir.iterdir()] == []


def test_restarted_always_restarts(arena: Arena) -> None:
    first, check, again, stopped, from_stopped = arena.play(
        arena.started(state="restarted"),
        arena.task(name="box", state="restarted", check=True),
        arena.task(name="box", state="restarted"),
        arena.task(name="box", state="stopped"),
        arena.started(state="restarted"),
    )
    assert first["actions"] == ["create", "start"]
    assert check["actions"] == again["actions"] == ["stop", "start"]
    assert check.sandbox["pid"] == first.sandbox["pid"]
    assert again.sandbox["pid"] != first.sandbox["pid"]
    assert stopped["actions"] == ["stop"]
    assert from_stopped["actions"] == ["start"]


def test_a_change_that_needs_a_restart(arena: Arena) -> None:
    """Refused unless allowed, left alone where that is asked, and in force after a restart that is allowed."""
    display: dict[str, Any] = {"grants": {"claude": False, "git": False, "ssh": False, "gh": False, "display": True}}
    changed: dict[str, Any] = {"network": False, "env": {"COLOUR": "teal"}, "geometry": "640x480", **display}
    made, *refused, ignored, ignored_check = arena.play(
        arena.started(**display),
        *(arena.started(**{**display, key: changed[key]}) for key in ("network", "env", "geometry")),
        arena.started(check=True, **changed),
        arena.started(on_change="ignore", **changed),
        arena.started(on_change="ignore", check=True, **changed),
    )
    for field, result in zip(("network", "env", "geometry", "network"), refused, strict=True):
        _assert_refused(result, field)
        assert "ends what the agent is doing" in result.message
    for result in (ignored, ignored_check):
        assert (result.changed, result["actions"], result.sandbox) == (False, [], made.sandbox)

    *four, seen = arena.play(
        *arena.quartet(on_change="restart", **changed),
        arena.inside("sh", "-c", "echo $COLOUR $DISPLAY; tail -n +3 /proc/net/dev | cut -d: -f1"),
    )
    done = assert_quartet(four, ["update", "stop", "start"])
    assert done.sandbox["pid"] != made.sandbox["pid"]
    assert done.sandbox["id"] == made.sandbox["id"]
    assert done["diff"]["before"]["network"] is True
    assert done["diff"]["after"]["network"] is False
    assert seen["stdout"].split() == ["teal", f":{done.sandbox['display_num']}", "lo"]
    assert _screen_size(arena) == (640, 480)


def test_a_change_for_the_next_start(arena: Arena) -> None:
    """Recorded at once, without touching what runs."""
    made, *four = arena.play(arena.started(), *arena.quartet(resume=True))
    done = assert_quartet(four, ["update"])
    assert done.sandbox["resume"] is True
    assert done.sandbox["pid"] == made.sandbox["pid"]


def test_a_change_that_needs_another_sandbox(arena: Arena) -> None:
    other = str(arena.new_project("other"))
    made, refused, ignored, *four = arena.play(
        arena.started(),
        arena.started(project_dir=other),
        arena.started(project_dir=other, on_change="ignore"),
        *arena.quartet(project_dir=other, on_change="restart"),
    )
    _assert_refused(refused, "project_dir")
    assert not ignored.changed
    done = assert_quartet(four, ["destroy", "create", "start"])
    assert (done.sandbox["project_dir"], done.sandbox["status"]) == (other, "running")
    assert done.sandbox["id"] != made.sandbox["id"]


def test_a_change_of_one_that_does_not_run(arena: Arena) -> None:
    """Nothing is lost by it, so it needs no permission."""
    *_, done = arena.play(arena.started(), arena.task(name="box", state="stopped"), arena.started(env={"A": "1"}))
    assert done["actions"] == ["update", "start"]


def test_purge(arena: Arena) -> None:
    work = arena.project / "work"
    work.write_text("mine", encoding="utf-8")
    made, kept, *four = arena.play(
        arena.started(),
        arena.inside("touch", f"{arena.account.home}/.local/kept", "/tmp/kept"),
        *arena.quartet(state="absent", purge=True),
    )
    assert made.changed
    assert not kept.failed
    assert_quartet(four, ["destroy"])
    assert [*arena.state_dir.glob("projects/*")] == []
    assert [*arena.project.iterdir()] == [work]


def test_what_the_project_keeps(arena: Arena) -> None:
    """Without purge it is there for the next sandbox of the project."""
    *_, found = arena.play(
        arena.started(),
        arena.inside("sh", "-c", "echo kept >/tmp/note && cp /tmp/note ~/.local"),
        arena.task(name="box", state="absent"),
        arena.started("next"),
        arena.inside("sh", "-c", "cat /tmp/note ~/.local/note", name="next"),
    )
    assert found["stdout"] == "kept\nkept"


def test_as_recorded(arena: Arena) -> None:
    """Without a project directory there has to be a sandbox, and nothing else may be asked of it."""
    missing, absent, stopped, made, same, partial = arena.play(
        arena.task(name="box"),
        arena.task(name="box", state="absent"),
        arena.task(name="box", state="stopped"),
        arena.started(env={"A": "1"}),
        arena.task(name="box"),
        arena.task(name="box", network=False),
    )
    assert missing.failed
    assert missing.message == "There is no sandbox 'box'. Give project_dir to make it."
    assert not absent.failed
    assert not absent.changed
    assert (stopped.changed, stopped["warnings"]) == (False, ["There is no sandbox 'box' to stop."])
    assert made.changed
    assert (same.changed, same.sandbox) == (False, made.sandbox)
    assert partial.failed
    assert "network is given without project_dir" in partial.message


def test_an_agent_that_ends(arena: Arena) -> None:
    """It is known as dead, with its exit code, until it is stopped or starts again; the code is kept."""
    agent = ["/bin/sh", "-c", "read answer; exit 7"]
    _, ended, dead, stopped, again = arena.play(
        arena.started(agent=agent),
        arena.task("claude_sandbox_attach", name="box", keys=["Enter"], wait_for="never shown", timeout=30),
        arena.task("claude_sandbox_info", name=["box"]),
        arena.task(name="box", state="stopped"),
        arena.started(agent=agent),
    )
    assert "the agent ended before it came" in ended.message
    assert (dead["sandboxes"][0]["status"], dead["sandboxes"][0]["exit_code"]) == ("dead", 7)
    assert stopped["actions"] == ["stop"]
    assert (stopped.sandbox["status"], stopped.sandbox["exit_code"]) == ("stopped", 7)
    assert again["actions"] == ["start"]
    assert again.sandbox["status"] == "running"


def test_whose_it_is(arena: Arena) -> None:
    """All of it runs as the project's owner."""
    made, who = arena.play(arena.started(), arena.inside("sh", "-c", "id -u; id -un; touch made"))
    assert made.sandbox["user"] == arena.account.name
    assert who["stdout"].split() == [str(arena.account.uid), arena.account.name]
    assert (arena.project / "made").stat().st_uid == arena.account.uid
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in arena.pids().values()}
    assert owners == {arena.account.uid}


def _screen_size(arena: Arena) -> tuple[int, int]:
    """Width and height, from the header of the framebuffer's file (XWD: numbers of 32 bits, big-endian)."""
    record = arena.engine.registry.get("box")
    assert record is not None
    assert record.instance is not None
    header = Path(record.instance.folder, "screen/Xvfb_screen0").read_bytes()[:24]
    width, height = struct.unpack(">II", header[16:])
    return width, height


def _assert_refused(result: Result, field: str) -> None:
    assert result.failed
    assert not result.changed
    assert result.message.startswith("Sandbox 'box' exists with other settings, and the change needs "), result
    assert f"{field} (" in result.message
    assert result.message.endswith("Set on_change to restart to allow it, or to ignore to keep what is recorded.")
