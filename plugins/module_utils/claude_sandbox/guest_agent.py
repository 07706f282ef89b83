# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""QEMU's guest agent, which runs commands in a virtual machine. All that it says may be a lie of the guest's."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from .channel import Channel, connected, reason
from .commands import OUTPUT_LIMIT, Completed
from .errors import SandboxError

_LINE_LIMIT = 64 << 20  # bytes: two streams of OUTPUT_LIMIT each, as base64 in JSON
_INPUT_LIMIT = 32 << 20  # bytes: the agent takes no more than 64 MiB of JSON
_STALE_LIMIT = 100  # answers to those who asked before us
_ANSWER_SECONDS = 180.0  # for one answer; an emulated machine takes 70 for one of 22 MiB
_STEPS = (0.005, 0.2)  # seconds between two questions whether a command has ended: at first, and at most
_FLUSH = b"\xff"  # ends whatever the agent has read before; no byte of UTF-8


@dataclasses.dataclass(frozen=True)
class Agent:
    """The guest agent whose socket `agent` is in a folder."""

    folder: str
    seconds: float = _ANSWER_SECONDS

    def ask(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """What the agent returns for a command. Raises SandboxError where it refuses or does not answer."""
        request: dict[str, Any] = {"execute": name}
        if arguments is not None:
            request["arguments"] = arguments
        with connected(self.folder, "agent", self.seconds, _LINE_LIMIT) as channel:
            _synchronize(channel)
            channel.send(json.dumps(request).encode() + b"\n")
            answer = channel.json()
        if "return" in answer:
            return answer["return"]
        raise SandboxError(f"The guest refuses {name}: {reason(answer)}.")

    def run(self, argv: Sequence[str], shell: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        """Run a program as the guest's root, and wait for its end and for that of its output.

        shell: the guest's, for what else is to be done there. timeout: seconds, after which the process group that
        it leads is killed, and what it printed is lost.
        Raises SandboxError where it cannot be started, or the guest no longer answers.
        """
        if len(stdin) > _INPUT_LIMIT:
            raise SandboxError(
                f"A command in a virtual machine takes {_INPUT_LIMIT >> 20} MiB of input at most.",
                "Put it in a file of the project, and have the command read that.",
            )
        program, *words = argv
        request: dict[str, Any] = {"path": program, "arg": words, "capture-output": True}
        if stdin:
            request["input-data"] = base64.b64encode(stdin).decode()
        pid = _number(self.ask("guest-exec", request), "pid")
        status = self._end_of(pid, None if timeout is None else time.monotonic() + timeout)
        if status is None:
            self._kill(pid, shell)
            return Completed(124, b"", b"", timed_out=True)
        return _completed(status)

    def _end_of(self, pid: int, end: float | None) -> dict[str, Any] | None:
        """The status of a command that has ended; None where it has not done so in time."""
        step = _STEPS[0]
        while True:
            status = self.ask("guest-exec-status", {"pid": pid})
            if not isinstance(status, dict):
                raise SandboxError("The guest's answer about a command is none.")
            if status.get("exited") is True:
                return status
            left = step if end is None else end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(step, left))
            step = min(step * 1.5, _STEPS[1])

    def _kill(self, pid: int, shell: str) -> None:
        """Kill it with the process group that it leads, and wait for that."""
        with contextlib.suppress(SandboxError):
            # Itself first: it may not lead a group yet, and begins nothing more from there on. What it had begun by
            # then is in its group.
            killer = ["-p", "-c", 'kill -KILL "$0"; kill -KILL -- "-$0"', str(pid)]
            killing = _number(self.ask("guest-exec", {"path": shell, "arg": killer}), "pid")
            self._end_of(killing, time.monotonic() + self.seconds)


def _synchronize(channel: Channel) -> None:
    """Get past what the agent still has to say to others: the answer that we wait for follows a byte of its own."""
    number = secrets.randbits(48)
    request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
    channel.send(_FLUSH + json.dumps(request).encode() + b"\n")
    for _number_of_answers in range(_STALE_LIMIT):
        channel.line(_FLUSH)
        if channel.json().get("return") == number:
            return
    raise SandboxError("The guest does not answer what it is asked.")


def _number(content: Any, key: str) -> int:
    value = content.get(key) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise SandboxError(f"The guest's answer has no {key}.")
    return value


def _completed(status: dict[str, Any]) -> Completed:
    code = 128 + _number(status, "signal") if "signal" in status else _number(status, "exitcode")
    out, err = _output(status, "out-data"), _output(status, "err-data")
    cut = status.get("out-truncated") is True or status.get("err-truncated") is True
    truncated = cut or len(out) > OUTPUT_LIMIT or len(err) > OUTPUT_LIMIT
    return Completed(code & 0xFF, out[:OUTPUT_LIMIT], err[:OUTPUT_LIMIT], truncated)


def _output(status: dict[str, Any], key: str) -> bytes:
    text = status.get(key, "")
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raise SandboxError("What the guest says that a command printed is not readable.") from None
