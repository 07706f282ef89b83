# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manager's side of the processes that look at sandboxes: one for each account (see observer)."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from claude_sandbox.host import account
from claude_sandbox.registry import Record, Registry

from . import wire
from .forks import Forks
from .problems import UnavailableError

_SECONDS = 20.0  # for an answer; a virtual machine's screen takes longest


class _Eyes:
    """Of one account; those who ask take turns."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stream: socket.socket | None = None


def _end(eyes: _Eyes) -> None:
    if eyes.stream is not None:
        eyes.stream.close()
        eyes.stream = None


class Eyes:
    """Asks the observers, and has them started when they are first needed, and again when they have ended."""

    def __init__(self, forks: Forks, registry: Registry) -> None:
        self._forks = forks
        self._registry = registry
        self._lock = threading.Lock()
        self._all: dict[int, _Eyes] = {}

    def ask(self, uid: int, do: str, **question: Any) -> tuple[Any, bytes]:
        """The observer's value for a question about the sandboxes of an account, and the bytes beside it.

        Raises SandboxError with what the engine says, and where no answer comes.
        """
        with self._lock:
            eyes = self._all.setdefault(uid, _Eyes())
        with eyes.lock:
            try:
                self._send(eyes, uid, {"do": do, **question})
                reply, blob = wire.receive(self._stream(eyes, uid))
            except (EOFError, OSError):
                # Half an answer is of no use to the next who asks.
                _end(eyes)
                raise UnavailableError(
                    "Nothing can be seen of the sandboxes just now: the process that looks at them ended, or hangs.",
                    "Try again.",
                ) from None
        return wire.value(reply), blob

    def _send(self, eyes: _Eyes, uid: int, question: dict[str, Any]) -> None:
        try:
            wire.send(self._stream(eyes, uid), question)
        except (BrokenPipeError, ConnectionResetError):
            # The observer ended since the last question. It has not seen this one, which would change nothing either.
            _end(eyes)
            wire.send(self._stream(eyes, uid), question)

    def _stream(self, eyes: _Eyes, uid: int) -> socket.socket:
        """To the observer, which is started where there is none."""
        if eyes.stream is None:
            eyes.stream = self._forks.open("observe")
            eyes.stream.settimeout(_SECONDS)
            wire.send(eyes.stream, {"uid": uid, "state_dir": self._registry.state_dir})
        return eyes.stream

    def question(self, record: Record) -> tuple[int, dict[str, Any]]:
        """The uid of a sandbox's account, and what its observer has to know of the sandbox. Raises SandboxError."""
        spec = record.asked()
        owner = account(str(spec.user))
        return owner.uid, {"record": wire.record_content(record), "store": self._registry.store_of(spec, owner)}

    def about(self, record: Record, do: str, **question: Any) -> tuple[Any, bytes]:
        """What the observer says to a question about one sandbox. Raises SandboxError."""
        uid, content = self.question(record)
        return self.ask(uid, do, **content, **question)

    def close(self) -> None:
        """Have all observers end."""
        with self._lock:
            for eyes in self._all.values():
                if eyes.stream is not None:
                    # Whoever waits for an answer gets none.
                    with contextlib.suppress(OSError):
                        eyes.stream.shutdown(socket.SHUT_RDWR)
