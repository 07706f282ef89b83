# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a session's log: the last lines, then what came after them, whatever the sandbox has written there."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
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


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Bytes of the file with that inode number, and where in it they begin."""

    number: int
    start: int
    content: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.content)

    def without_begun_line(self) -> _Piece:
        """From where a line begins; as it is where none does, and at the beginning of the file."""
        skipped = self.content.find(b"\n") + 1 if self.start else 0
        return _Piece(self.number, self.start + skipped, self.content[skipped:])


def is_position(text: str) -> bool:
    """Whether a text can be the `next` of an answer before."""
    return _POSITION.match(text) is not None


def read(record: Record, tail: int, since: str | None) -> Part:
    """Up to PIECE bytes of what came after `since`; without it, or where that is no longer there, the last lines.

    tail: how many lines at most; of what came since, too. A line that is not finished waits for its end.
    """
    current = files.open_regular(record.log)
    if current is None:
        return Part([], since if since and is_position(since) else "0.0")
    with current:
        found = (_since(record, current, since) if since else None) or _last(record, current)
    text, left = _finished(b"".join(piece.content for piece in found))
    lines = [line[:_LINE_LIMIT] for line in ansi.plain(text.decode("utf-8", "replace")).split("\n")[:-1]]
    return Part(lines[-tail:] if tail else [], _position(found, left))


def _position(pieces: Sequence[_Piece], left: int) -> str:
    """Where the last `left` bytes of some pieces begin. A line may begin in the one file and end in the other."""
    for piece in reversed(pieces[1:]):
        if left <= len(piece.content):
            return f"{piece.number:x}.{piece.end - left}"
        left -= len(piece.content)
    return f"{pieces[0].number:x}.{pieces[0].end - left}"


def _since(record: Record, current: BinaryIO, since: str) -> list[_Piece] | None:
    """What came after that position, in the file that it is in and the one after that; None where it is in neither."""
    match = _POSITION.match(since)
    if match is None:
        return None
    number, offset = int(match[1], 16), int(match[2])
    found = _piece(current, number, offset)
    if found is not None:
        return [found]
    before = files.open_regular(f"{record.log}.1")
    if before is None:
        return None
    with before:
        found = _piece(before, number, offset)
        if found is None:
            return None
        if found.end < os.fstat(before.fileno()).st_size:
            return [found]
    return [found, _from(current, 0, PIECE - len(found.content))]


def _last(record: Record, current: BinaryIO) -> list[_Piece]:
    size = os.fstat(current.fileno()).st_size
    latest = _from(current, max(0, size - PIECE), PIECE).without_begun_line()
    before = files.open_regular(f"{record.log}.1") if not latest.start else None
    if before is None:
        return [latest]
    with before:
        room = max(0, PIECE - len(latest.content))
        older = os.fstat(before.fileno())
        if older.st_ino == latest.number:
            # It was renamed since we opened it.
            return [latest]
        return [_from(before, max(0, older.st_size - room), room).without_begun_line(), latest]


def _piece(file: BinaryIO, number: int, offset: int) -> _Piece | None:
    """What is at that position, where it is one of this file."""
    status = os.fstat(file.fileno())
    return _from(file, offset, PIECE) if status.st_ino == number and offset <= status.st_size else None


def _from(file: BinaryIO, start: int, limit: int) -> _Piece:
    """Up to so many bytes; more may be there than the file's size said before."""
    file.seek(start)
    return _Piece(os.fstat(file.fileno()).st_ino, start, file.read(limit))


def _finished(content: bytes) -> tuple[bytes, int]:
    """The content up to the end of its last line, and how many bytes are left.

    What is as long as a piece and has no end is cut off there.
    """
    end = content.rfind(b"\n") + 1
    if not end and len(content) >= PIECE:
        return content + b"\n", 0
    return content[:end], len(content) - end
