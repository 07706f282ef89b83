"""A sandbox as it is shown, and the command that a person types to see it."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import spec, view
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.instance import Instance
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.registry import Record

ODD = "/run/it's a $HOME; folder"
STARTED, STOPPED = 1_700_000_000.5, 1_700_000_060.0


@pytest.fixture
def tmux(tmp_path: Path) -> str:
    path = tmp_path / "tmux"
    path.touch(0o755)
    return str(path)


def machine(tmux: str, uid: int) -> Host:
    return Host({"PATH": os.path.dirname(tmux)}, uid)


def record(user: str | None = "ann", **instance: Any) -> Record:
    asked = spec.parse({"project_dir": "/srv/demo", "user": user})
    started = Instance(
        boot_id="boot",
        started_at=STARTED,
        folder="/run/x",
        server=Process(10, 100),
        pane=Process(11, 101),
        init=Process(12, 102),
        xvfb=Process(13, 103),
        display=7,
        env={"SECRETLESS": "1"},
        given=("ssh",),
        skipped={"gpu": "no"},
    )
    whole = dataclasses.replace(started, **instance)
    return Record("demo", "/state/demo", "0a1b2c3d4e5f", STARTED - 60, asked, whole)


SUDO, RUNUSER = ["sudo", "-u", "ann"], ["runuser", "-u", "ann", "--"]


@pytest.mark.parametrize(
    "uid, user, programs, beginning",
    [
        pytest.param(0, "ann", ["tmux", "sudo"], SUDO, id="root-for-another"),
        pytest.param(0, "ann", ["tmux"], RUNUSER, id="root-without-sudo"),
        pytest.param(0, "root", ["tmux", "sudo"], [], id="root-for-root"),
        pytest.param(0, None, ["tmux", "sudo"], [], id="root-for-nobody-named"),
        pytest.param(1000, "ann", ["tmux", "sudo"], [], id="oneself"),
    ],
)
def test_attach_command(
    monkeypatch: pytest.MonkeyPatch, uid: int, user: str | None, programs: list[str], beginning: list[str]
) -> None:
    """It is one line of shell words, whatever is in the path."""
    monkeypatch.setattr(Host, "find", lambda _, program: f"/bin/{program}" if program in programs else None)
    sandbox = record(user, folder=ODD)
    assert sandbox.instance is not None
    text = view.attach_command(Host({}, uid), sandbox, sandbox.instance)
    assert shlex.split(text) == [*beginning, "env", "-u", "TMUX", "/bin/tmux", "-S", f"{ODD}/tmux", *ATTACH]
    assert "\n" not in text


def test_a_manager_may_have_a_program_that_attaches_others(tmux: str) -> None:
    host = Host({"PATH": os.path.dirname(tmux), "MANAGER_ATTACH": "sudo -u manager /usr/libexec/attach"}, 1000)
    sandbox = record()
    assert sandbox.instance is not None
    assert view.attach_command(host, sandbox, sandbox.instance) == "sudo -u manager /usr/libexec/attach demo"


ATTACH = ["attach", "-t", "main"]
LIVE = {"pid": 12, "pid_xvfb": 13, "display_num": 7}
KEPT = {"tmux_session": "main", "tmux_socket": "/run/x/tmux"}


@pytest.mark.parametrize(
    "status, live, kept",
    [
        pytest.param("running", True, True, id="running"),
        pytest.param("dead", False, True, id="dead-keeps-its-session"),
        pytest.param("stopped", False, False, id="stopped"),
    ],
)
def test_what_is_there_in_each_status(tmux: str, status: str, live: bool, kept: bool) -> None:
    found = view.of(machine(tmux, 1000), record(stopped_at=STOPPED if status == "stopped" else None), status)
    assert {key: found[key] for key in LIVE} == (LIVE if live else dict.fromkeys(LIVE))
    assert {key: found[key] for key in KEPT} == (KEPT if kept else dict.fromkeys(KEPT))
    assert (found["attach_command"] is not None) is kept


def test_the_fields(tmux: str) -> None:
    sandbox = record()
    found = view.of(machine(tmux, 1000), sandbox, "running")
    assert {key: found[key] for key in sandbox.asked().to_dict()} == sandbox.asked().to_dict()
    assert (found["id"], found["name"], found["status"]) == ("0a1b2c3d4e5f", "demo", "running")
    assert found["created_at"] == "2023-11-14T22:12:20.500+00:00"
    assert found["started_at"] == "2023-11-14T22:13:20.500+00:00"
    assert (found["stopped_at"], found["exit_code"]) == (None, None)
    assert (found["given"], found["skipped"]) == (["ssh"], {"gpu": "no"})
    assert found["log"] == "/state/demo/data/session.log"


@pytest.mark.parametrize("code", [None, 0, 143])
def test_the_exit_code_of_a_stopped_one_is_the_recorded_one(tmux: str, code: int | None) -> None:
    found = view.of(machine(tmux, 1000), record(stopped_at=STOPPED, exit_code=code), "stopped")
    assert found["exit_code"] == code
    assert found["stopped_at"] == "2023-11-14T22:14:20.000+00:00"


def test_the_exit_code_of_a_dead_one_is_bubblewraps(tmux: str, tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "status").write_text('{"exit-code": 3}\n')
    assert view.of(machine(tmux, 1000), record(folder=str(tmp_path)), "dead")["exit_code"] == 3


def test_one_that_never_came_up(tmux: str) -> None:
    never = dataclasses.replace(record(), instance=None)
    found = view.of(machine(tmux, 1000), never, "dead")
    assert found["attach_command"] is None
    assert (found["started_at"], found["exit_code"], found["given"]) == (None, None, [])


def test_all_have_the_same_fields_in_every_status(tmux: str) -> None:
    """Whoever reads them need not ask what is there."""
    never = dataclasses.replace(record(), instance=None)
    keys = [list(view.of(machine(tmux, 0), each, status)) for each in (record(), never) for status in STATUSES]
    assert all(each == keys[0] for each in keys)
    assert all(re.fullmatch(r"[a-z_]+", key) for key in keys[0])


STATUSES = ("running", "dead", "stopped")
