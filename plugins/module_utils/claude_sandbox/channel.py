# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lines of JSON over a socket of QEMU's, whose other end may be anything: bounded in size and in time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from .errors import SandboxError, shown

_PIECE = 1 << 16  # bytes
_RETRY_SECONDS = 0.01


class Channel:
    """A connected socket, with a time by which all is over."""

    def __init__(self, connection: socket.socket, end: float, limit: int) -> None:
        """end: as time.monotonic() counts. limit: bytes of one line."""
        self._connection = connection
        self._end = end
        self._limit = limit
        self._rest = bytearray()

    def send(self, content: bytes) -> None:
        """Send all of it. Raises SandboxError where it is not taken in time."""
        left = memoryview(content)
        with _told():
            while left:
                self._connection.settimeout(self._seconds())
                left = left[self._connection.send(left) :]

    def line(self, ending: bytes = b"\n") -> bytes:
        """The next line without its ending. Raises SandboxError where none comes in time, or it is too long."""
        searched = 0
        while True:
            at = self._rest.find(ending, searched)
            if at >= 0:
                found = bytes(self._rest[:at])
                del self._rest[: at + len(ending)]
                return found
            searched = max(0, len(self._rest) - len(ending) + 1)
            if len(self._rest) > self._limit:
                raise SandboxError("The answer from the virtual machine is too long.")
            self._rest += self._piece()

    def json(self) -> dict[str, Any]:
        """The next line as a JSON object. Raises SandboxError where it is none."""
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(self.line())
            if isinstance(content, dict):
                return content
        raise SandboxError("The answer from the virtual machine is no JSON object.")

    def _piece(self) -> bytes:
        with _told():
            self._connection.settimeout(self._seconds())
            piece = self._connection.recv(_PIECE)
        if not piece:
            raise SandboxError("The virtual machine has closed the connection.")
        return piece

    def _seconds(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise SandboxError("The virtual machine does not answer in time.") from None
    except OSError as error:
        raise SandboxError(f"The virtual machine cannot be spoken to: {error.strerror}.") from None


def _connect(connection: socket.socket, path: str, end: float) -> None:
    """Connect; QEMU speaks to one at a time, and has those who come meanwhile refused by the kernel."""
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        with contextlib.suppress(BlockingIOError):
            return connection.connect(path)
        time.sleep(min(_RETRY_SECONDS, left))


@contextlib.contextmanager
def connected(folder: str, name: str, seconds: float, limit: int) -> Iterator[Channel]:
    """A connection to the socket of that name in a folder, whose path may be longer than a socket's can be.

    seconds: for all that is said. limit: bytes of one line. Raises SandboxError where nobody listens.
    """
    end = time.monotonic() + seconds
    with _told(), contextlib.ExitStack() as open_ones:
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        open_ones.callback(os.close, directory)
        connection = open_ones.enter_context(socket.socket(socket.AF_UNIX))
        _connect(connection, f"/proc/self/fd/{directory}/{name}", end)
        yield Channel(connection, end, limit)


def reason(answer: dict[str, Any]) -> str:
    """Why an answer is a refusal, as it may stand in a message."""
    error = answer.get("error")
    return shown(error.get("desc") if isinstance(error, dict) else error)
