"""What sudo runs, before it reads anything of a sandbox: whom it works for, and how long."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import helper, host, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

PATIENCE = 10.0
ASKED = ["exists", "/state", "demo"]


@pytest.fixture
def as_if_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


class Input:
    """A standard input with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.usefixtures("as_if_root")
@pytest.mark.parametrize(
    "uid",
    [
        *("", "0", "00", "01000", "-1", "+1000", " 1000", "1000 ", "1000\n", "1_000", "1e3", "0x3e8", "root", "\0"),
        *("\u0661\u0660\u0660\u0660", "\uff11\uff10\uff10\uff10", "\xb2", "12345678901", "1000,0"),
    ],
)
def test_nobody_but_an_account_by_its_number_is_worked_for(uid: str) -> None:
    with pytest.raises(SandboxError, match="from an account that is not root"):
        helper._done(ASKED, uid)


@pytest.mark.usefixtures("as_if_root")
@pytest.mark.parametrize("uid", ["3999999999", "4294967295", "4294967296", "9999999999"])
def test_an_unknown_account_is_not_worked_for(uid: str) -> None:
    """Nor one that the kernel would take for another: -1 changes nothing, and what is more is cut off."""
    with pytest.raises(SandboxError, match=f"There is no account with the uid {uid}"):
        helper._done(ASKED, uid)


def test_it_is_roots_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="is run by sudo"):
        helper._done(ASKED, "1000")


@pytest.mark.usefixtures("as_if_root")
@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["start"], ["start", "/state"], [*ASKED, "more"]),
        *([word, "/state", "demo"] for word in ("", "START", "--help", "serve", "__class__")),
    ],
)
def test_what_it_does_not_do_is_refused(arguments: list[str]) -> None:
    nobody = str(host.account("nobody").uid)
    with pytest.raises(
        SandboxError, match="takes one of start, stop, execute, enter, exists, mount, scope, limit, join, a state"
    ):
        helper._done(arguments, nobody)


@pytest.mark.usefixtures("as_if_root")
@pytest.mark.parametrize(
    "content", [b"[]\n", b"null\n", b'"start"\n', b"5\n", b"{\n}\n", b"garbage\n", b"\xff\n", b"\n"]
)
def test_what_is_no_object_on_one_line_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Input(content))
    with pytest.raises((SandboxError, ValueError)):
        helper._done(ASKED, str(host.account("nobody").uid))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")
@pytest.mark.parametrize("name", ["demo", "../demo", "/demo", "a\nb"])
def test_a_sandbox_that_is_not_there_is_told_in_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Read as the account; the rest of the input is not waited for."""
    reader, writer = os.pipe()
    os.write(writer, b'{"path": "/"}\n')
    monkeypatch.setenv("SUDO_UID", str(host.account("nobody").uid))
    monkeypatch.setattr(sys, "argv", ["container-helper", "exists", "/nowhere", name])
    with open(reader, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        helper.main()
    os.close(writer)
    answer = json.loads(capsys.readouterr().out)
    assert answer["what"].startswith("There is no sandbox")
    assert "\n" not in answer["what"]


def waiting(wanted: bool, seconds: float) -> tuple[procs.Process, int]:
    """A process that does something for whoever asks, and the end by which it is asked."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writer)
            os.dup2(reader, 0)
            sys.stdin = sys.__stdin__
            with helper._while_asked(wanted):
                time.sleep(seconds)
            # Nothing is left that watches.
            os._exit(len(procs.children(os.getpid())))
        finally:
            os._exit(99)
    os.close(reader)
    found = procs.identify(child)
    assert found is not None
    return found, writer


def ended(process: procs.Process) -> Any:
    return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def test_it_ends_with_whoever_asks() -> None:
    process, writer = waiting(True, 60)
    watchers = procs.until(lambda: procs.children(process.pid), PATIENCE)
    os.write(writer, b"more\n")
    assert not process.wait(0.2)
    os.close(writer)
    assert process.wait(PATIENCE)
    assert ended(process) == -signal.SIGKILL
    assert watchers[0].wait(PATIENCE)


def test_it_ends_by_itself_while_somebody_waits() -> None:
    process, writer = waiting(True, 0.1)
    assert ended(process) == 0
    os.close(writer)


def test_a_short_one_is_finished() -> None:
    """A container is not left half made because somebody pressed a key."""
    process, writer = waiting(False, 0.3)
    os.close(writer)
    assert ended(process) == 0
