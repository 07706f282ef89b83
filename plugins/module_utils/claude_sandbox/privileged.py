# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How work under a sandbox's account asks root for what only root can do.

Where the engine runs as root, its own process serves the child that became the account, over a socket between the
two. Where it does not, it starts the one helper that sudo lets it (see helper.py), which does the same.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import procs
from .errors import SandboxError
from .host import Account

HELPER = "/usr/local/libexec/claude-sandbox/container-helper"
_HEADER = struct.Struct("=QI")  # bytes that follow, descriptors that come with them
_LIMIT = 64 << 20  # bytes of one message
_MOST_DESCRIPTORS = 1000
_AT_ONCE = 250  # descriptors in one message; the kernel takes 253
_HELPER_SECONDS = 60.0

Handler = Callable[[Mapping[str, Any], Sequence[int]], Any]

_channel: socket.socket | None = None  # to root, in a process that was forked by `serving`


def connected() -> bool:
    """Whether this process can `ask`."""
    return _channel is not None


def ask(operation: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
    """Have root do something; its answer. Raises the SandboxError that root answers with."""
    if _channel is None:
        raise RuntimeError("nobody serves this process")
    _send(_channel, {**content, "operation": operation}, descriptors)
    received = _receive(_channel)
    if received is None:
        raise SandboxError("The process that works for this sandbox as root ended.", "Try again.")
    return _value(received[0])


def _value(reply: Mapping[str, Any]) -> Any:
    if "what" in reply:
        raise SandboxError(reply["what"], reply["hint"])
    return reply["value"]


def serving(owner: Account, handlers: Mapping[str, Handler], function: Callable[[], Any]) -> Any:
    """The function's value, worked out in a child under the account, whose requests are served meanwhile.

    What the child asks for is as hostile as the account: it is for the handlers to check.
    """
    ours, theirs = socket.socketpair()

    def work() -> Any:
        global _channel  # noqa: PLW0603 - a process has one root to ask, from its fork on
        ours.close()
        _channel = theirs
        try:
            return function()
        finally:
            # The parent reads a long result only when there are no more requests.
            theirs.close()

    with ours:
        child = procs.fork(owner if owner.uid != os.geteuid() else None, work)
        theirs.close()
        _serve(ours, handlers)
    return child.result()


def _serve(channel: socket.socket, handlers: Mapping[str, Handler]) -> None:
    with contextlib.suppress(OSError, ValueError, EOFError, RecursionError):
        while (received := _receive(channel)) is not None:
            content, descriptors = received
            try:
                _send(channel, _reply(handlers, content, descriptors))
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


def _reply(handlers: Mapping[str, Handler], content: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    try:
        handler = handlers[str(content.get("operation"))]
        # In a child, so that nothing that a request does stays behind in this process.
        return {"value": procs.fork(None, lambda: handler(content, descriptors)).result()}
    except SandboxError as error:
        return {"what": error.what, "hint": error.hint}
    except KeyError:
        return {"what": "The request to root was refused: there is no such operation.", "hint": ""}
    except RuntimeError as error:
        # What went wrong in the child, the last line of which says it.
        return {"what": f"The request to root was refused: {str(error).strip().splitlines()[-1][:400]}.", "hint": ""}


def _send(channel: socket.socket, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    data = json.dumps(content).encode()
    channel.sendall(_HEADER.pack(len(data), len(descriptors)))
    for start in range(0, len(descriptors), _AT_ONCE):
        some = array.array("i", descriptors[start : start + _AT_ONCE])
        channel.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)])
    channel.sendall(data)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A message and its descriptors; None where the other end is closed."""
    header = _exactly(channel, _HEADER.size)
    if not header:
        return None
    size, count = _HEADER.unpack(header)
    if size > _LIMIT or count > _MOST_DESCRIPTORS:
        raise ValueError("too long a message")
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            descriptors += _descriptors(channel)
        content = json.loads(_exactly(channel, size))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, EOFError, RecursionError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return content, descriptors


def _descriptors(channel: socket.socket) -> list[int]:
    found = array.array("i")
    data, ancillary, _flags, _address = channel.recvmsg(1, socket.CMSG_SPACE(_AT_ONCE * found.itemsize))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if not data or not found:
        raise EOFError
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return list(found)


def _exactly(channel: socket.socket, size: int) -> bytes:
    """So many bytes; none where the other end was closed before the first of them."""
    pieces = bytearray()
    while len(pieces) < size:
        piece = channel.recv(min(size - len(pieces), 1 << 20))
        if not piece:
            if pieces:
                raise EOFError
            return b""
        pieces += piece
    return bytes(pieces)


def by_sudo(
    sudo: str,
    operation: str,
    folder: str,
    content: Mapping[str, Any],
    seconds: float | None = None,
) -> Any:
    """Have the helper do something for the sandbox that is recorded in a folder; its answer.

    seconds: how long at most, beyond what the helper itself takes to start. Raises SandboxError where sudo refuses.
    """
    state_dir, name = os.path.dirname(os.path.dirname(folder)), os.path.basename(folder)
    # It stays open until there is an answer: that tells the helper whether anybody still waits for one.
    source, sink = os.pipe()
    process = subprocess.Popen(
        [sudo, "-n", HELPER, operation, state_dir, name],
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    os.close(source)
    end = None if seconds is None else time.monotonic() + seconds + _HELPER_SECONDS
    try:
        _write_all(sink, json.dumps(content).encode() + b"\n", end)
        out, err = process.communicate(timeout=None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise SandboxError(f"{HELPER} did not answer.", "Look with ps what it waits for, and try again.") from None
    finally:
        os.close(sink)
    try:
        return _value(json.loads(out))
    except (ValueError, KeyError, TypeError):
        words = err.decode(errors="replace").strip().splitlines()
        raise SandboxError(
            f"sudo did not run {HELPER}: {words[-1] if words else f'it ended with {process.returncode}'}.",
            "A sandbox in a container needs root, or this helper and its sudo rule: the role sandbox installs both.",
        ) from None


def _write_all(sink: int, content: bytes, end: float | None) -> None:
    """Write until that moment at most; what is not read then, or by nobody any more, is left."""
    os.set_blocking(sink, False)
    left = memoryview(content)
    with contextlib.suppress(BrokenPipeError):
        while left and (end is None or time.monotonic() < end):
            try:
                left = left[os.write(sink, left) :]
            except BlockingIOError:
                select.select([], [sink], [], 0.1)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """End a process where that is ours to do, which it is not once sudo has made it root's; listen no longer."""
    with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
        process.kill()
        process.wait(1)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
