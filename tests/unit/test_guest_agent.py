"""The client of the guest agent, and a guest that lies to it."""

from __future__ import annotations

import base64
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import guest_agent
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import Completed
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from tests.unit.guest_socket import Answers, saying, serving

SHELL = "/bin/bash"


class Guest:
    """A guest agent that gives these answers, one a command, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = iter(answers)

    def __call__(self, connection: socket.socket) -> None:
        """Answer one connection: the synchronization, then one command."""
        with connection.makefile("rb") as lines:
            number = json.loads(next(lines).lstrip(b"\xff"))["arguments"]["id"]
            connection.sendall(b'{"return": "stale"}\n\xff{"return": 1}\n')
            connection.sendall(b"\xff" + json.dumps({"return": number}).encode() + b"\n")
            self.asked.append(json.loads(next(lines)))
            connection.sendall(json.dumps(next(self._answers)).encode() + b"\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def run(folder: Path, *answers: Any, **more: Any) -> tuple[Completed, list[dict[str, Any]]]:
    guest = Guest(*answers)
    with serving(folder / "agent", *[guest] * len(answers)):
        done = guest_agent.Agent(str(folder), seconds=5).run(["/bin/x", "a b"], SHELL, **more)
    return done, guest.asked


def ended(**status: Any) -> dict[str, Any]:
    return {"return": {"exited": True, **status}}


STARTED = {"return": {"pid": 7}}


def test_a_command_ends_with_its_code_and_output(folder: Path) -> None:
    answer = ended(exitcode=3, **{"out-data": base64.b64encode(b"\0out").decode(), "err-truncated": True})
    done, asked = run(folder, STARTED, {"return": {"exited": False}}, answer, stdin=b"in\0")
    assert done == Completed(3, b"\0out", b"", truncated=True)
    assert asked[0] == {
        "execute": "guest-exec",
        "arguments": {"path": "/bin/x", "arg": ["a b"], "capture-output": True, "input-data": "aW4A"},
    }
    assert asked[1] == {"execute": "guest-exec-status", "arguments": {"pid": 7}}


def test_a_signal_is_told_as_a_shell_tells_it(folder: Path) -> None:
    assert run(folder, STARTED, ended(signal=9))[0].code == 137


def test_a_command_that_takes_too_long_is_killed_with_its_group(folder: Path) -> None:
    killing = {"return": {"pid": 8}}
    done, asked = run(folder, STARTED, {"return": {"exited": False}}, killing, ended(exitcode=0), timeout=0.0)
    assert (done.code, done.timed_out) == (124, True)
    assert asked[-2]["arguments"] == {"path": SHELL, "arg": ["-p", "-c", 'kill -KILL "$0"; kill -KILL -- "-$0"', "7"]}
    assert asked[-1] == {"execute": "guest-exec-status", "arguments": {"pid": 8}}


@pytest.mark.parametrize(
    "answers",
    [
        [{"error": {"desc": "no"}}],
        [{"return": None}],
        [{"return": {"pid": -1}}],
        [{"return": {"pid": True}}],
        [{"return": {"pid": 1 << 40}}],
        [{"return": {"pid": "7; rm"}}],
        [STARTED, {"return": []}],
        [STARTED, ended()],
        [STARTED, ended(exitcode="0")],
        [STARTED, ended(exitcode=0, **{"out-data": "not base64!"})],
        [STARTED, ended(exitcode=0, **{"out-data": "\u00fc"})],
    ],
)
def test_a_lie_is_an_error(folder: Path, answers: list[Any]) -> None:
    with pytest.raises(SandboxError):
        run(folder, *answers)


def test_more_output_than_is_kept_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "OUTPUT_LIMIT", 4)
    done = run(folder, STARTED, ended(exitcode=0, **{"out-data": base64.b64encode(b"x" * 9).decode()}))[0]
    assert (done.stdout, done.truncated) == (b"xxxx", True)


@pytest.mark.parametrize(
    "answer,words",
    [
        (saying(b'\xff{"return": 1}\n' * 200), "does not answer what it is asked"),
        (saying(b"x" * 5000), "too long"),
        (saying(b"\xff" + b"x" * 5000), "too long"),
        (saying(b"\xffgarbage\n"), "no JSON object"),
        (saying(), "in time"),
        (lambda connection: None, "closed the connection|spoken to"),
    ],
)
def test_whatever_is_said_ends_in_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Answers, words: str
) -> None:
    monkeypatch.setattr(guest_agent, "_LINE_LIMIT", 4000)
    since = time.monotonic()
    with serving(folder / "agent", answer), pytest.raises(SandboxError, match=words):
        guest_agent.Agent(str(folder), seconds=0.5).ask("guest-ping")
    assert time.monotonic() - since < 5


def test_too_much_input_is_refused_before_anything_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "_INPUT_LIMIT", 2)
    with pytest.raises(SandboxError, match="of input at most"):
        guest_agent.Agent(str(folder)).run(["x"], SHELL, stdin=b"xxx")
