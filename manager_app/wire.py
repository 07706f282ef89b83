# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages between the manager and its processes: a JSON object, and bytes beside it. Both sides are our own code."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from claude_sandbox.errors import ConflictError, SandboxError
from claude_sandbox.instance import Instance
from claude_sandbox.registry import Record
from claude_sandbox.spec import parse

_HEAD = struct.Struct(">II")


def send(stream: socket.socket, content: Mapping[str, Any], blob: bytes = b"") -> None:
    """Send one message."""
    text = json.dumps(content).encode()
    stream.sendall(_HEAD.pack(len(text), len(blob)) + text)
    if blob:
        stream.sendall(blob)


def receive(stream: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises EOFError where the other side is gone."""
    size, more = _HEAD.unpack(_exactly(stream, _HEAD.size))
    content: dict[str, Any] = json.loads(_exactly(stream, size))
    return content, _exactly(stream, more)


def _exactly(stream: socket.socket, size: int) -> bytes:
    found = bytearray(size)
    view = memoryview(found)
    while view:
        count = stream.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(found)


def failure(error: SandboxError) -> dict[str, Any]:
    """An error of the engine's, as a message."""
    return {"what": error.what, "hint": error.hint, "conflict": isinstance(error, ConflictError)}


def value(reply: Mapping[str, Any]) -> Any:
    """The value of an answer; its SandboxError raised here, and what was no user's mistake as RuntimeError."""
    if "what" in reply:
        raise (ConflictError if reply["conflict"] else SandboxError)(reply["what"], reply["hint"])
    if "crash" in reply:
        raise RuntimeError(reply["crash"])
    return reply["value"]


def record_content(record: Record) -> dict[str, Any]:
    """A record that can be read, for a process that has no access to the registry."""
    return {
        "name": record.name,
        "folder": record.folder,
        "id": record.id,
        "created_at": record.created_at,
        "spec": record.asked().to_dict(),
        "instance": record.instance.to_dict() if record.instance else None,
    }


def record_of(content: Mapping[str, Any]) -> Record:
    """The record that was sent."""
    instance = content["instance"]
    return Record(
        content["name"],
        content["folder"],
        content["id"],
        content["created_at"],
        parse(content["spec"]),
        Instance.parse(instance) if instance is not None else None,
    )
