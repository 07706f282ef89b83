# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tokens and activity, from the files that Claude Code writes. A sandbox writes them: every one is hostile.

Facts about the files' names and records were measured with Claude Code 2.1.197.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, TypeGuard, TypeVar

from . import files, prices
from .claude import encoded

_TOTAL_LIMIT = 512 << 20  # bytes that are read in all; the rest is left out, and said so
_LINE_LIMIT = 4 << 20  # bytes; a message of a model's is shorter, and JSON grows twentyfold in memory
_ENTRY_LIMIT = 1 << 15  # names that are looked at in a project's folder
_ID_LIMIT = 1 << 18  # messages, and uses of tools; real transcripts of _TOTAL_LIMIT bytes have half as many
_ID_LENGTH = 200  # characters; Claude's have 30
_MODEL_LIMIT = 100
_SESSION_LIMIT = 1 << 16
_WORDS_LIMIT = 200  # characters
_MARK = 256  # bytes by which a file is known again: the end of a record, with its uuid and its time
_NEVER = (-1, 0)  # no file has this size
_AHEAD = 86400.0  # seconds by which another clock may be ahead of ours
_BUCKET = 600  # seconds
_BUCKETS = 1008  # a week
_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_Key = TypeVar("_Key", str, int)


@dataclasses.dataclass
class Usage:
    """What the transcripts hold: a lower bound, for interrupted turns and titles are never recorded.

    by_model: for each model the four kinds of tokens, and messages.
    history: the same by time, in order: `at` is when a span of ten minutes begins, in seconds since the epoch. Spans
    without a message are left out; of the others there are the latest 1,008.
    complete: whether nothing of what there was had to be left out.
    pending: bytes that are there, and are left to a later call.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    messages: int = 0
    tool_uses: int = 0
    by_model: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, int]] = dataclasses.field(default_factory=list)
    complete: bool = True
    pending: int = 0


def shown(usage: Usage, table: prices.Table) -> dict[str, Any]:
    """A usage as every door shows it: its fields, and beside them `cost`, an estimate by the table's prices."""
    return {**dataclasses.asdict(usage), "cost": dataclasses.asdict(prices.cost(usage.by_model, table))}


class Meter:
    """What the agent used in a project since a time (seconds since the epoch), each message counted once.

    It remembers how far it has read, and its sums: who asks again pays for what is new. What it has counted stays
    counted when a transcript is deleted.
    """

    def __init__(self, claude_dir: str, project_dir: str, since: float) -> None:
        self._reader = _Reader(claude_dir, project_dir)
        self._project_dir = project_dir
        self._since = since
        self._tally = _Tally()

    def refresh(self, limit: int | None = None) -> Usage:
        """The usage, after reading what is new.

        limit: bytes after which no other line is begun; the rest waits for the next call (`Usage.pending`).
        """
        latest = time.time() + _AHEAD
        for record in self._reader.records(limit):
            when = _moment(record, self._project_dir)
            if when is not None and self._since <= when <= latest:
                self._tally.note(record["message"], when)
        return self._tally.usage(self._reader.complete, self._reader.pending)


def has_conversation(claude_dir: str, project_dir: str) -> bool:
    """Whether a conversation of Claude Code's interface is recorded for a project."""
    return any(
        isinstance(record, dict)
        and record.get("type") == "user"
        and record.get("cwd") == project_dir
        and not record.get("isSidechain")
        and record.get("entrypoint") != "sdk-cli"
        for record in _Reader(claude_dir, project_dir).records(None)
    )


class Transcript(NamedTuple):
    """A file with the name of a transcript, whatever it is; parts: how many of its path's last a sandbox can change."""

    path: str
    parts: int
    status: os.stat_result


def transcripts(claude_dir: str, project_dir: str) -> tuple[list[Transcript], bool]:
    """The transcripts of a project, those of its subagents too; and whether these are all, for there may be many."""
    top = f"{claude_dir}/projects/{encoded(project_dir)}"
    folders = [] if os.path.islink(top) else [(top, 2)]
    found: list[Transcript] = []
    left, are_all = _ENTRY_LIMIT, True
    while folders:
        folder, parts = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(itertools.islice(listing, left + 1))
        except FileNotFoundError:
            continue
        except OSError:
            are_all = False
            continue
        are_all = are_all and len(entries) <= left
        found += [each for entry in entries[:left] for each in _named(entry, parts)]
        left = max(0, left - len(entries))
        # SESSION.jsonl, and SESSION/subagents/agent-ID.jsonl: nothing of ours is deeper.
        if parts < 4:
            folders += [(entry.path, parts + 1) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(found), are_all


def _named(entry: os.DirEntry[str], parts: int) -> list[Transcript]:
    if not entry.name.endswith(".jsonl") or entry.is_dir(follow_symlinks=False):
        return []
    try:
        return [Transcript(entry.path, parts, entry.stat(follow_symlinks=False))]
    except FileNotFoundError:
        return []


@dataclasses.dataclass
class _Place:
    """How far a file has been read.

    offset: where the next line begins. skips: whether that is the rest of one that is too long.
    mark: what stands before the offset.
    looked: the file's size and its last change when it was read to its end; the line there may have been unfinished.
    """

    offset: int = 0
    skips: bool = False
    mark: bytes = b""
    looked: tuple[int, int] = _NEVER

    def fits(self, file: BinaryIO, size: int) -> bool:
        """Whether the file is the one that was read: not cut, not written anew, not a later one of the same inode."""
        if size < max(self.offset, self.looked[0]):
            return False
        return os.pread(file.fileno(), len(self.mark), self.offset - len(self.mark)) == self.mark

    def unread(self, size: int) -> int:
        """How many bytes are new in a file of this size; all of them where it has shrunk."""
        return size - self.offset if size >= self.offset else size

    def passed(self, piece: bytes) -> bool:
        """Go on behind a line, or a piece of one that is too long; whether it is a line."""
        ends = piece.endswith(b"\n")
        is_line = ends and not self.skips
        self.skips = not ends
        self.offset += len(piece)
        self.mark = piece[-_MARK:]
        return is_line


class _Reader:
    """The records of a project's transcripts, each read once.

    complete, pending: as in Usage, as of the last call.
    """

    def __init__(self, claude_dir: str, project_dir: str) -> None:
        self.complete = True
        self.pending = 0
        self._of = claude_dir, project_dir
        self._left = _TOTAL_LIMIT
        self._places: dict[tuple[int, int], _Place] = {}  # by device and inode, which a file keeps when it is renamed
        self._has_garbage = False

    def records(self, limit: int | None) -> Iterator[Any]:
        """The records that are new. limit: as in Meter.refresh."""
        found, self.complete = transcripts(*self._of)
        self.pending = 0
        floor = 0 if limit is None else max(0, self._left - limit)
        known, self._places = self._places, {}
        for transcript in found:
            identity = transcript.status.st_dev, transcript.status.st_ino
            if identity not in self._places:
                self._places[identity] = known.get(identity) or _Place()
                yield from self._new(transcript, identity, floor)
        is_cut = self._left <= 0 < self.pending
        self.complete = self.complete and not is_cut and not self._has_garbage
        self.pending = min(self.pending, max(0, self._left))

    def _new(self, transcript: Transcript, identity: tuple[int, int], floor: int) -> Iterator[Any]:
        place, size = self._places[identity], transcript.status.st_size
        if place.looked == (size, transcript.status.st_mtime_ns):
            return
        if self._left <= floor and stat.S_ISREG(transcript.status.st_mode):
            self.pending += place.unread(size)
            return
        file = files.open_regular(transcript.path, transcript.parts)
        if file is None:
            self.complete = False
            return
        with file:
            if not place.fits(file, os.fstat(file.fileno()).st_size):
                place = self._places[identity] = _Place()
            for line in self._lines(file, place, floor):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    self._has_garbage = True

    def _lines(self, file: BinaryIO, place: _Place, floor: int) -> Iterator[bytes]:
        """The new lines that are finished, and short enough to be a message."""
        status = os.fstat(file.fileno())
        place.looked = _NEVER
        file.seek(place.offset)
        # Not to the end of the file: a sandbox could write as fast as it is read.
        while place.offset < status.st_size:
            if self._left <= floor:
                self.pending += place.unread(status.st_size)
                return
            piece = file.readline(_LINE_LIMIT)
            self._left -= len(piece)
            if not piece or not (piece.endswith(b"\n") or place.skips or len(piece) == _LINE_LIMIT):
                # It is still being written.
                break
            if place.passed(piece):
                yield piece
        place.looked = status.st_size, status.st_mtime_ns


class _Message(NamedTuple):
    """What one record says of a message. Of several the largest holds, in this order, whichever was read first."""

    total: int
    earliness: int  # the later, the smaller
    model: str
    tokens: tuple[int, ...]


class _Sums:
    """Sums over messages, and what was last shown of them: most have not changed when they are shown again."""

    def __init__(self, **more: int) -> None:
        self.messages = 0
        self._tokens = [0] * len(_TOKENS)
        self._more = more
        self._shown: dict[str, int] | None = None

    def change(self, message: _Message, sign: int) -> None:
        """Add a message, or take it away with the sign -1."""
        self.messages += sign
        self._tokens = [each + sign * value for each, value in zip(self._tokens, message.tokens, strict=True)]
        self._shown = None

    def shown(self) -> dict[str, int]:
        """The kinds of tokens, and messages; the dict does not change any more."""
        if self._shown is None:
            self._shown = {**self._more, **dict(zip(_TOKENS, self._tokens, strict=True)), "messages": self.messages}
        return self._shown


class _Tally:
    """Sums over messages, each counted once, and kept right by differences when more is heard of one."""

    def __init__(self) -> None:
        self._messages: dict[str, _Message] = {}
        self._tools: set[str] = set()
        self._all = _Sums()
        self._by_model: dict[str, _Sums] = {}
        self._by_time: dict[int, _Sums] = {}
        self._begin: float = -math.inf  # what is before it is no longer kept by time
        self._is_full = False

    def note(self, message: Mapping[str, Any], when: float) -> None:
        """One record stands for each block of a message, and each repeats the message's whole usage."""
        identity, counts = message.get("id"), message.get("usage")
        if not isinstance(identity, str) or not isinstance(counts, dict) or message.get("model") == "<synthetic>":
            return
        tokens = tuple(_count(counts.get(name)) for name in _TOKENS)
        bucket = int(when // _BUCKET) * _BUCKET
        self._put(identity, _Message(sum(tokens), -bucket, self._model(message.get("model")), tokens))
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_use" and isinstance(block.get("id"), str):
                self._use(block["id"])

    def usage(self, complete: bool, pending: int) -> Usage:
        """The sums as they are now."""
        self._forget()
        return Usage(
            **self._all.shown(),
            tool_uses=len(self._tools),
            by_model={model: sums.shown() for model, sums in self._by_model.items()},
            history=[self._by_time[at].shown() for at in sorted(self._by_time)],
            complete=complete and not self._is_full,
            pending=pending,
        )

    def _put(self, identity: str, message: _Message) -> None:
        before = self._messages.get(identity)
        if before is None and not self._has_room(self._messages, identity):
            return
        if before is None or before < message:
            self._messages[identity] = message
            self._add(message, 1)
            if before is not None:
                self._add(before, -1)

    def _use(self, identity: str) -> None:
        if identity not in self._tools and self._has_room(self._tools, identity):
            self._tools.add(identity)

    def _has_room(self, taken: Collection[str], identity: str) -> bool:
        room = len(taken) < _ID_LIMIT and len(identity) <= _ID_LENGTH
        self._is_full = self._is_full or not room
        return room

    def _model(self, name: Any) -> str:
        """A name that can be shown, and is one of not too many."""
        known = len(self._by_model) < _MODEL_LIMIT or name in self._by_model
        return name if _is_model(name) and known else "unknown"

    def _add(self, message: _Message, sign: int) -> None:
        bucket = -message.earliness
        self._all.change(message, sign)
        _change(self._by_model, message.model, _Sums, message, sign)
        if bucket >= self._begin:
            _change(self._by_time, bucket, lambda: _Sums(at=bucket), message, sign)
            if len(self._by_time) > 2 * _BUCKETS:
                self._forget()

    def _forget(self) -> None:
        """Keep the latest spans of time, and nothing that comes for one before."""
        if len(self._by_time) > _BUCKETS:
            for bucket in sorted(self._by_time)[:-_BUCKETS]:
                del self._by_time[bucket]
            self._begin = min(self._by_time)


def _change(all_sums: dict[_Key, _Sums], key: _Key, new: Callable[[], _Sums], message: _Message, sign: int) -> None:
    sums = all_sums.get(key) or all_sums.setdefault(key, new())
    sums.change(message, sign)
    if not sums.messages:
        del all_sums[key]


def _moment(record: Any, project_dir: str) -> float | None:
    """When a message of the project's was written, in seconds since the epoch; None for any other record."""
    if not isinstance(record, dict) or record.get("type") != "assistant" or not isinstance(record.get("message"), dict):
        return None
    cwd = record.get("cwd")
    if not isinstance(cwd, str) or not f"{cwd}/".startswith(f"{project_dir}/"):
        return None
    try:
        return datetime.datetime.fromisoformat(record["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _is_model(name: Any) -> TypeGuard[str]:
    """Whether this is a name that can be shown: models are called claude-opus-4-8, vendor.model:0 and the like."""
    return isinstance(name, str) and re.fullmatch(r"[\w.:@/\[\]-]{1,100}", name, re.ASCII) is not None


def _count(value: Any) -> int:
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < 1 << 53 else 0


@dataclasses.dataclass(frozen=True)
class Activity:
    """What Claude Code says that it does: idle, busy or waiting, and a mark that changes whenever it says so anew.

    waiting_for: what it waits for the user to say, in its words, which may be any.
    """

    status: str
    mark: str
    waiting_for: str | None = None


def activity(sessions: str, pid: int) -> Activity | None:
    """What the agent with this pid (inside the sandbox) last said; None where it has said nothing.

    sessions: the sandbox's own sessions folder.
    """
    content = files.read_json(f"{sessions}/{pid}.json", _SESSION_LIMIT)
    if not isinstance(content, dict):
        return None
    status = content.get("status")
    if not isinstance(status, str) or not re.fullmatch(r"[a-z_]{1,20}", status):
        return None
    waiting_for = content.get("waitingFor") if status == "waiting" else None
    words = waiting_for[:_WORDS_LIMIT] if isinstance(waiting_for, str) else None
    return Activity(status, str(content.get("updatedAt"))[:40], words)
