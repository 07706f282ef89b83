"""A shell inside, in a person's terminal: typed into by a pty, as a person types."""

from __future__ import annotations

import os
import pty
import select
import sys
import time

import pytest

from tests.integration.arena import Arena


@pytest.mark.parametrize("backend", ["bubblewrap", "container"])
def test_a_shell_in_ones_own_terminal(arena: Arena, backend: str) -> None:
    """Keys and signals reach it, it is the account's and bound as the agent is, and its exit code comes back."""
    made = arena.play(arena.started(backend=backend))
    assert not made[0].failed, made[0].message
    pid, terminal = pty.fork()
    if pid == 0:
        code = 99
        try:
            # Not what pytest has put in their places.
            sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
            code = arena.engine.enter("box", ["sh", "-i"])
        finally:
            os._exit(code)
    try:
        _until(terminal, b"$ ")
        os.write(terminal, b"echo u$(id -u)d $(grep -c 'CapBnd:.*0000000000000000' /proc/self/status)b\n")
        _until(terminal, f"u{arena.account.uid}d 1b".encode())
        os.write(terminal, b"sleep 600\n")
        time.sleep(0.5)
        os.write(terminal, b"\x03")
        os.write(terminal, b"echo was=$?; exit 9\n")
        _until(terminal, b"was=130")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    finally:
        os.close(terminal)


def _until(terminal: int, words: bytes) -> None:
    """Read until the words have come."""
    seen, end = b"", time.monotonic() + 20
    while words not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096)
