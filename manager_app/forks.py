# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manager's side of the process that forks for it (see zygote)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

from . import wire
from .problems import UnavailableError


class Forks:
    """Has work done in processes of their own. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, name: str, seconds: float | None = None, **arguments: Any) -> Any:
        """What a piece of work returns; its SandboxError raised again here.

        seconds: how long to wait. Raises TimeoutError then; the work goes on.
        """
        with self.open(name) as stream:
            stream.settimeout(seconds)
            text = _answer(stream, json.dumps(arguments).encode())
        if not text:
            raise UnavailableError(
                "The process that worked on this ended before it was through.",
                "Look in the manager's log and the kernel's, then try again.",
            )
        return wire.value(json.loads(text))

    def open(self, name: str) -> socket.socket:
        """One end of a stream, whose other end a new process has that does the work of this name."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                self._send(name, theirs)
            except (BrokenPipeError, ConnectionResetError):
                # It was killed: it held nothing.
                self._close()
                self._send(name, theirs)
        return ours

    def close(self) -> None:
        """Have no more work done; what has begun goes on to its end."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process = None

    def _send(self, name: str, end: socket.socket) -> None:
        control = self._control or self._start()
        socket.send_fds(control, [name.encode("ascii")], [end.fileno()])

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The same code as ours, wherever that was found, and nothing from a directory that we happen to be in.
        paths = [os.path.abspath(path) for path in sys.path if path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "manager_app.zygote", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                # A signal to the manager's group is not meant for what is being started or stopped.
                start_new_session=True,
            )
        self._control = ours
        return ours


def _answer(stream: socket.socket, question: bytes) -> bytes:
    """What comes back; nothing where the other side ended, even before it had read the question."""
    try:
        stream.sendall(question)
        stream.shutdown(socket.SHUT_WR)
        with stream.makefile("rb") as answer:
            return answer.read()
    except (BrokenPipeError, ConnectionResetError):
        return b""
