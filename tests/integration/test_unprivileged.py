"""The modules run by the account itself, with the registry and the runtime directory that are its own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration import playing
from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Result, Task, assert_quartet


@pytest.fixture
def play_vars(arena: Arena) -> dict[str, Any]:
    """How a task becomes the account: not at all where that is who runs the tests."""
    if os.geteuid() != 0:
        return {}
    python = "/usr/bin/python3" if sys.executable.startswith((str(playing.CLONE), "/root/")) else sys.executable
    if not os.access(python, os.X_OK):
        pytest.skip("there is no Python that another account may run")
    become = {"ansible_become": True, "ansible_become_method": "su", "ansible_become_user": arena.account.name}
    # Ansible would make the module's file the account's own by setfacl or chmod; a readable one does as well here.
    return {**become, "ansible_python_interpreter": python, "ansible_shell_allow_world_readable_temp": True}


@pytest.fixture
def own_state(arena: Arena) -> Path:
    """A registry that the account can write."""
    arena.state_dir.chmod(0o755)
    folder = arena.state_dir / "own"
    folder.mkdir()
    arena.account.own(folder)
    return folder


def _ours(registry: Path, module: str = "claude_sandbox", *, check: bool = False, **args: Any) -> Task:
    return playing.task(module, check=check, state_dir=str(registry), **args)


def test_a_life(arena: Arena, own_state: Path, play_vars: dict[str, Any]) -> None:
    grants = {**PLAIN["grants"], "display": True}
    whole = {"name": "box", "project_dir": str(arena.project), "agent": ["shell"], "grants": grants}
    asked: dict[str, Any] = {"state_dir": str(own_state), "name": "box"}
    results = arena.play(
        *playing.quartet("claude_sandbox", **{**asked, **whole}),
        _ours(
            own_state,
            "claude_sandbox_exec",
            name="box",
            argv=["sh", "-c", "id -u; test -S /tmp/.X11-unix/X${DISPLAY#:}"],
        ),
        _ours(own_state, "claude_sandbox_attach", name="box", text="echo he''re", keys=["Enter"], wait_for="^here$"),
        _ours(own_state, "claude_sandbox_info", usage=True),
        _ours(own_state, name="box", state="stopped"),
        *playing.quartet("claude_sandbox", **asked, state="absent", purge=True),
        play_vars=play_vars,
    )
    made = assert_quartet(results[:4], ["create", "start"])
    assert made.sandbox["user"] == arena.account.name
    assert made.sandbox["attach_command"].startswith("env -u TMUX ")
    executed, attached, info, stopped = results[4:8]
    assert (executed["rc"], executed["stdout"]) == (0, str(arena.account.uid)), executed
    assert not attached.failed, attached.message
    assert info["sandboxes"][0]["usage"]["process"]["processes"] >= 2
    assert stopped["actions"] == ["stop"]
    assert_quartet(results[8:12], ["destroy"])
    assert arena.left_behind() == []
    owners = {path.lstat().st_uid for path in [own_state, *own_state.rglob("*")]}
    assert owners == {arena.account.uid}


def test_the_accounts_own_registry(arena: Arena, as_root: None, play_vars: dict[str, Any]) -> None:
    """Without a state_dir; root's registry is another one."""
    project = {"project_dir": str(arena.project), **PLAIN}
    try:
        made, info, gone = arena.play(
            playing.task("claude_sandbox", name="mine", **project),
            playing.task("claude_sandbox_info"),
            playing.task("claude_sandbox", name="mine", state="absent"),
            play_vars=play_vars,
        )
    finally:
        shutil.rmtree(arena.account.home / ".local", ignore_errors=True)
    assert made.sandbox["log"].startswith(f"{arena.account.home}/.local/state/claude-sandbox/sandboxes/mine/")
    assert [item["name"] for item in info["sandboxes"]] == ["mine"]
    assert gone["actions"] == ["destroy"]


def test_what_only_root_can(arena: Arena, own_state: Path, play_vars: dict[str, Any]) -> None:
    other, denied, theirs, all_of_it = arena.play(
        _ours(own_state, name="box", project_dir=str(arena.project), user="root", **PLAIN),
        _ours(own_state, name="box", project_dir="/usr/share", **PLAIN),
        _ours(Path("/usr/share/registry"), name="box", project_dir=str(arena.project), **PLAIN),
        _ours(own_state, "claude_sandbox_info"),
        play_vars=play_vars,
    )
    _assert_clear(other, f"{arena.account.name} cannot run a sandbox for root.")
    _assert_clear(denied, f"{arena.account.name} cannot read and write project_dir '/usr/share'")
    _assert_clear(theirs, "/usr/share/registry")
    assert all_of_it["sandboxes"] == []


def _assert_clear(result: Result, words: str) -> None:
    assert result.failed
    assert words in result.message, result
    assert result.message.count("\n") <= 1
    assert "Traceback" not in str(result)
