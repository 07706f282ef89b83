# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told where the process that was to do the work ends, at whatever moment."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

import pytest

from manager_app.forks import Forks
from manager_app.problems import UnavailableError


def at_once(stream: socket.socket) -> None:
    """Ends without a look."""


def unread(stream: socket.socket) -> None:
    """Ends when the question is there: the kernel resets a stream that is closed before all of it was read."""
    select.select([stream], [], [])


def half_way(stream: socket.socket) -> None:
    """Ends after it has read all, without an answer."""
    while stream.recv(65536):
        pass


@pytest.mark.parametrize("worker", [at_once, unread, half_way])
@pytest.mark.parametrize("size", [1, 1 << 22], ids=["short", "long"])
def test_work_that_ends_early_is_told(
    monkeypatch: pytest.MonkeyPatch, worker: Callable[[socket.socket], None], size: int
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(Forks, "_start", lambda _self: ours)

    def serve() -> None:
        _name, descriptors, _flags, _address = socket.recv_fds(theirs, 64, 1)
        with socket.socket(fileno=descriptors[0]) as stream:
            worker(stream)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours, theirs, pytest.raises(UnavailableError, match="ended before it was through"):
        Forks().run("anything", 20, content="x" * size)
    thread.join()
