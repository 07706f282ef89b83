# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a session's log: the last lines, then what came after them, whatever the sandbox has written there."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import BinaryIO

from claude_sandbox import files
from claude_sandbox.registry import Record

from . import ansi

# bytes of one answer; also where that is one line, which then is cut.
PIECE = 1 << 20
_POSITION = re.compile(r"([0-9a-f]{1,16})\.([0-9]{1,15})\Z")
_LINE_LIMIT = 64 << 10


@dataclasses.dataclass(frozen=True)
class Part:
    """Some lines of a log, as plain text; `next` is where the lines after them begin."""

    lines: list[str]
    next: str


def is_position(text: str) -> bool:
    """Whether a text can be the `next` of an answer before."""
    return _POSITION.match(text) is not None


def read(record: Record, tail: int, since: str | None) -> Part:
    """Up to PIECE bytes of what came after `since`; without it, or where that is no longer there, the last lines.

    tail: how many lines at most; of what came since, too. A line that is not finished waits for its end.
    """
    current = files.open_regular(record.log)
    if current is None:
        return Part([], since or "0.0")
    with current:
        found = _since(record, current, since) if since else None
        if found is None:
            found = _last(record, current)
        content, number, end = found
        text, rest = _finished(content)
        lines = [line[:_LINE_LIMIT] for line in ansi.plain(text.decode("utf-8", "replace")).split("\n")[:-1]]
        return Part(lines[-tail:] if tail else [], f"{number:x}.{end - rest}")


def _since(record: Record, current: BinaryIO, since: str) -> tuple[bytes, int, int] | None:
    """What came after that position, the number of the file in which it ends, and where."""
    match = _POSITION.match(since)
    if match is None:
        return None
    number, offset = int(match[1], 16), int(match[2])
    status = os.fstat(current.fileno())
    if status.st_ino == number:
        if offset > status.st_size:
            return None
        return _piece(current, offset), number, min(status.st_size, offset + PIECE)
    before = files.open_regular(f"{record.log}.1")
    if before is None:
        return None
    with before:
        old = os.fstat(before.fileno())
        if old.st_ino != number or offset > old.st_size:
            return None
        rest = _piece(before, offset)
        if offset + len(rest) < old.st_size:
            return rest, number, offset + len(rest)
        # A line may begin in the one file and end in the other.
        more = _piece(current, 0)[: max(0, PIECE - len(rest))]
        return rest + more, status.st_ino, len(more)


def _last(record: Record, current: BinaryIO) -> tuple[bytes, int, int]:
    status = os.fstat(current.fileno())
    start = max(0, status.st_size - PIECE)
    content = _piece(current, start)
    if start:
        content = content.partition(b"\n")[2]
    before = files.open_regular(f"{record.log}.1") if not start else None
    if before is not None:
        with before:
            size = os.fstat(before.fileno()).st_size
            content = _piece(before, max(0, size - (PIECE - len(content)))).partition(b"\n")[2] + content
    return content, status.st_ino, status.st_size


def _piece(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.read(PIECE)


def _finished(content: bytes) -> tuple[bytes, int]:
    """The content up to the end of its last line, and how many bytes are left; one without an end is cut at some point."""
    end = content.rfind(b"\n") + 1
    if not end and len(content) >= PIECE:
        return content + b"\n", 0
    return content[:end], len(content) - end
