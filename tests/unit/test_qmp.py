"""The client of QMP, and what it does when something else than QEMU is at the other end."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import qmp
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from tests.unit.guest_socket import Answers, saying, serving

GREETING = b'{"QMP": {"version": {}}}\r\n'


def qemu(connection: socket.socket) -> None:
    """Answers like QEMU, with an event before each answer."""
    connection.sendall(GREETING)
    with connection.makefile("rb") as asked:
        for line in asked:
            request = json.loads(line)
            connection.sendall(b'{"event": "RESUME"}\r\n')
            connection.sendall(json.dumps({"return": request.get("arguments", request["execute"])}).encode() + b"\r\n")


def test_it_returns_what_qemu_returns(tmp_path: Path) -> None:
    with serving(tmp_path / "qmp", qemu):
        assert qmp.command(str(tmp_path), "query-status") == "query-status"


def test_a_path_may_be_longer_than_a_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with serving(tmp_path / "qmp", qemu):
        (tmp_path / "qmp").rename(deep / "qmp")
        assert qmp.command(str(deep), "screendump", {"filename": "x"}) == {"filename": "x"}


@pytest.mark.parametrize(
    "answer,words",
    [
        (saying(b"garbage\n"), "no JSON object"),
        (saying(b"[]\n"), "no JSON object"),
        (saying(b"[" * 100000 + b"\n"), "no JSON object"),
        (saying(b"{}\n"), "not QEMU"),
        (saying(GREETING, b'{"error": {"desc": "no\\u001b"}}\n'), "refuses qmp_capabilities: 'no\\x1b'"),
        (saying(GREETING, b'{"error": 1}\n'), "refuses qmp_capabilities: 1"),
        (saying(GREETING, b'{"event": 1}\n' * 2000), "does not answer"),
        (saying(b"x" * (2 << 20)), "too long"),
        (saying(GREETING), "in time"),
        (lambda connection: None, "closed the connection"),
    ],
)
def test_whatever_is_said_ends_in_an_error(tmp_path: Path, answer: Answers, words: str) -> None:
    since = time.monotonic()
    with serving(tmp_path / "qmp", answer), pytest.raises(SandboxError) as error:
        qmp.command(str(tmp_path), "quit", seconds=0.5)
    assert words in error.value.what
    assert time.monotonic() - since < 5


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SandboxError, match="No such file"):
            qmp.command(str(folder), "quit")


def test_who_comes_while_another_is_answered_waits(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
        listener.bind(str(tmp_path / "qmp"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(tmp_path / "qmp"))
        since = time.monotonic()
        with pytest.raises(SandboxError, match="in time"):
            qmp.command(str(tmp_path), "quit", seconds=0.2)
        assert time.monotonic() - since >= 0.2
