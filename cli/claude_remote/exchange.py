# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""HTTP over a socket that leads to the manager: one request, one answer, then the end.

The standard library's client takes longer to import (email, ssl) than all else that a command does over an open
connection, so this asks by HTTP/1.0, in which an answer has no parts and ends with the connection.
"""

from __future__ import annotations

import contextlib
import socket

from .errors import FAILED, LostError, RemoteError, UnansweredError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD_LIMIT = 64 << 10  # bytes
_BODY_LIMIT = 256 << 20
_PIECE = 256 << 10


class Answer:
    """What came back. headers: their names in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def request(method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """The bytes of a request. Raises ValueError where a line of it would be two, or is not ASCII."""
    content = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in {**headers, **content}.items())]
    if not all(line.isascii() and line.isprintable() for line in lines) or " " in path:
        raise ValueError("a request has a line that is none")
    return "\r\n".join((*lines, "", "")).encode("ascii") + (body or b"")


def exchange(end: socket.socket, content: bytes) -> Answer:
    """Send a request and read the answer; the socket's timeout is for each piece of it.

    Raises UnansweredError where nothing came, LostError where it was too late or broken off, RemoteError where it is
    no HTTP.
    """
    try:
        # It may have answered before it had read all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            end.sendall(content)
        return _parsed(_read(end))
    except TimeoutError:
        raise LostError(
            "The server does not answer in time.", "Look whether the network is there, and try again."
        ) from None
    except OSError as error:
        raise UnansweredError(f"The connection was closed: {error.strerror}.") from None


def _read(end: socket.socket) -> bytes:
    pieces, total = [], 0
    while total <= _HEAD_LIMIT + _BODY_LIMIT:
        try:
            piece = end.recv(_PIECE)
        except ConnectionResetError:
            piece = b""
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
    else:
        raise RemoteError("The manager's answer is too long.", "", FAILED)
    return b"".join(pieces)


def _parsed(content: bytes) -> Answer:
    if not content:
        raise UnansweredError("The connection was closed before an answer came.")
    head, mark, body = content.partition(b"\r\n\r\n")
    first, *lines = head[:_HEAD_LIMIT].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        raise RemoteError(
            "What answers there is no manager: it does not speak HTTP.", "Set CLAUDE_REMOTE_PORT to the manager's port."
        )
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length", "")
    if not mark or (length.isdigit() and len(body) < int(length)):
        raise LostError("The manager's answer was broken off.", "Try again.")
    return Answer(int(words[1]), headers, body)
