"""Messages between the manager and its processes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from claude_sandbox.errors import ConflictError, SandboxError
from claude_sandbox.instance import Instance
from claude_sandbox.procs import Process
from claude_sandbox.registry import Record
from claude_sandbox.spec import parse
from manager_app import wire

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    "content, blob",
    [
        ({}, b""),
        ({"a": [1, None, True, "ü", "\0", "\ud800"]}, b"\0\xff"),
        ({"big": "x" * 3_000_000}, b"y" * 3_000_000),
    ],
)
def test_what_is_sent_arrives(ends: Ends, content: dict[str, Any], blob: bytes) -> None:
    def send() -> None:
        for _time in range(3):
            wire.send(ends[0], content, blob)

    sender = threading.Thread(target=send)
    sender.start()
    for _time in range(3):
        assert wire.receive(ends[1]) == (content, blob)
    sender.join()


def test_a_message_that_comes_byte_by_byte(ends: Ends) -> None:
    text = json.dumps({"a": 1}).encode()
    content = len(text).to_bytes(4, "big") + (2).to_bytes(4, "big") + text + b"ok"

    def send() -> None:
        for each in content:
            ends[0].sendall(bytes([each]))

    sender = threading.Thread(target=send)
    sender.start()
    assert wire.receive(ends[1]) == ({"a": 1}, b"ok")
    sender.join()


@pytest.mark.parametrize("cut", [0, 3, 8, 10, -1])
def test_the_other_side_ends_in_the_middle(ends: Ends, cut: int) -> None:
    text = json.dumps({"a": 1}).encode()
    whole = len(text).to_bytes(4, "big") + (2).to_bytes(4, "big") + text + b"ok"
    ends[0].sendall(whole[:cut])
    ends[0].close()
    with pytest.raises(EOFError):
        wire.receive(ends[1])


def test_one_who_says_nothing_keeps_nobody_waiting(ends: Ends) -> None:
    ends[1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.receive(ends[1])


@pytest.mark.parametrize("kind", [SandboxError, ConflictError])
def test_an_error_is_raised_again_as_what_it_was(kind: type[SandboxError]) -> None:
    with pytest.raises(SandboxError) as caught:
        wire.value(json.loads(json.dumps(wire.failure(kind("what", "hint")))))
    assert (type(caught.value), caught.value.what, caught.value.hint) == (kind, "what", "hint")


def test_a_crash_is_no_error_of_the_users() -> None:
    with pytest.raises(RuntimeError):
        wire.value({"crash": "Traceback"})
    assert wire.value({"value": None}) is None


@pytest.mark.parametrize("instance", [False, True])
def test_a_record_arrives_as_it_was(instance: bool) -> None:
    spec = parse(
        {
            "project_dir": "/srv/a b",
            "backend": "vm",
            "mounts": [{"source": "/srv/x", "mode": "rw"}],
            "grants": {"ssh": False},
            "env": {"A": "ü"},
            "vm": {"cpus": 3},
        }
    )
    process = Process(7, 8)
    started = Instance("boot", 5.0, "/run/x", process, process, process, None, 9, {"A": "b"}, ("git",), {"ssh": "no"})
    record = Record("box", "/state/sandboxes/box", "0123456789ab", 4.5, spec, started if instance else None)
    assert wire.record_of(json.loads(json.dumps(wire.record_content(record)))) == record


def test_a_record_that_cannot_be_read_is_not_sent() -> None:
    with pytest.raises(SandboxError, match="torn"):
        wire.record_content(Record("box", "/state/sandboxes/box", problem="torn"))
