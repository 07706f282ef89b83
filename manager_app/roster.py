# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandboxes as the registry has them at each moment, read again only where something was written.

A record is replaced by a rename in its sandbox's folder. The kernel tells of that (inotify) before the writer goes on;
where it cannot, the folder's times are looked at, which takes too long for a thousand of them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from claude_sandbox import plan
from claude_sandbox.errors import SandboxError
from claude_sandbox.registry import Record
from claude_sandbox.sandboxes import Sandboxes
from claude_sandbox.spec import NAME_RULE

from .problems import ProblemError

# Two writes within one tick of the kernel's clock leave one time: what is younger than this is not relied upon.
_RACY_NS = 50_000_000
# How long after its end a sandbox's exit code may still be on its way.
_SETTLES_NS = 5_000_000_000


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sandbox: its record, what every door shows of it, and that as JSON."""

    record: Record
    view: Mapping[str, Any]
    text: bytes

    @property
    def status(self) -> str:
        """running, stopped, dead, or unreadable."""
        return str(self.view["status"])


@dataclasses.dataclass(frozen=True)
class _Known:
    """An entry, the folder's identity and times when it was read, and until when (see time.monotonic_ns) it stands.

    settled: nothing but another record changes what is shown.
    """

    entry: Entry
    version: tuple[int, int, int]
    until: float
    settled: bool


class Roster:
    """The registry's sandboxes, kept in memory. Every method may be called from any thread."""

    def __init__(self, engine: Sandboxes) -> None:
        self._engine = engine
        self._folder = engine.registry.folder
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._notices = _Notices()
        # Those in whose folders nothing was written since they were read, and of whose changes we would be told.
        self._unwritten: set[str] = set()
        self._identity: tuple[int, int] | None = None
        # The last answer, as long as we were told of nothing that would make it another one.
        self._listed: list[Entry] | None = None
        self._unsettled: list[str] = []
        self._text = b""

    def all(self) -> list[Entry]:
        """All sandboxes as they are now, by name. Raises SandboxError where the registry cannot be read."""
        with self._lock:
            return [*self._all()]

    def text(self) -> bytes:
        """What every door shows of all sandboxes as they are now, by name, as JSON. Raises SandboxError as `all`."""
        with self._lock:
            entries = self._all()
            # Joining the texts of a thousand takes longer than all the rest.
            self._text = self._text or b"[" + b",".join(entry.text for entry in entries) + b"]\n"
            return self._text

    def get(self, ref: str) -> Entry:
        """The sandbox that a name, an id or the beginning of one means. Raises ProblemError where that is not one."""
        if not NAME_RULE.match(ref):
            raise ProblemError(404, "There is no sandbox of that name or id.", "GET /api/sandboxes lists them.")
        with self._lock:
            self._take_notices()
            named = self._current(ref)
        if named is not None:
            return named.entry
        matches = [entry for entry in self.all() if entry.record.id.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise ProblemError(404, f"There is no sandbox {ref}.", "GET /api/sandboxes lists them.")
        names = ", ".join(f"{entry.record.name} ({entry.record.id})" for entry in matches[:10])
        raise ProblemError(409, f"{ref} could mean several sandboxes: {names}.", "Give more of the id.")

    def _all(self) -> list[Entry]:
        self._take_notices()
        if self._listed is not None and all(self._stands(self._known[name]) for name in self._unsettled):
            return self._listed
        # Before the names are read: which come and go meanwhile is then told of at the next look.
        watched = self._notices.watch(self._folder, "")
        found = {name: known for name in self._names() if (known := self._current(name)) is not None}
        self._known = found
        entries = [found[name].entry for name in sorted(found)]
        self._unsettled = [name for name, known in found.items() if not known.settled]
        self._listed = entries if watched and self._unwritten.issuperset(found) else None
        self._text = b""
        return entries

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if NAME_RULE.match(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SandboxError(f"{self._folder} cannot be read: {error.strerror}.") from None

    def _take_notices(self) -> None:
        """Forget that those are unwritten in whose folders something was written."""
        try:
            status = os.stat(self._folder)
            identity = (status.st_dev, status.st_ino)
        except OSError:
            identity = None
        written = self._notices.read()
        # Nobody tells of it where the whole registry is moved away, and another one put in its place.
        if written is None or identity != self._identity:
            self._unwritten.clear()
            self._listed = None
        elif written:
            self._unwritten -= written
            self._listed = None
        self._identity = identity

    def _current(self, name: str) -> _Known | None:
        known = self._known.get(name)
        if known is not None and name in self._unwritten and self._stands(known):
            return known
        return self._read(name, known)

    def _read(self, name: str, known: _Known | None) -> _Known | None:
        """The sandbox, read again unless the times of its folder say that it is as it was."""
        folder = f"{self._folder}/{name}"
        self._unwritten.discard(name)
        # Before anything is read: what is written meanwhile is then told of at the next look.
        watched = self._notices.watch(folder, name)
        try:
            status = os.stat(folder)
        except OSError:
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        if not watched and known is not None and known.version == version and self._stands(known):
            return known
        record = self._engine.registry.get(name)
        if record is None:
            return None
        known = self._known_of(record, version, watched)
        self._known[name] = known
        self._listed = None
        if watched:
            self._unwritten.add(name)
        return known

    def _known_of(self, record: Record, version: tuple[int, int, int], watched: bool) -> _Known:
        view = self._engine.view(record)
        entry = Entry(record, view, json.dumps(view).encode())
        until = 0 if not watched and abs(time.time_ns() - version[1]) < _RACY_NS else self._until(entry)
        return _Known(entry, version, until, until == float("inf") and entry.status != plan.RUNNING)

    def _stands(self, known: _Known) -> bool:
        """Whether nothing but the record could have changed what is shown, or has."""
        if known.settled:
            return True
        if time.monotonic_ns() >= known.until:
            return False
        return known.entry.status != plan.RUNNING or self._engine.status(known.entry.record) == plan.RUNNING

    def _until(self, entry: Entry) -> float:
        if entry.record.spec is None:
            # Whoever mends it may write to the file itself, which changes nothing in its folder.
            return 0
        settling = entry.status == plan.DEAD and entry.view["exit_code"] is None
        return time.monotonic_ns() + _SETTLES_NS if settling else float("inf")


class _Notices:
    """The kernel's word on the folders in which something was written (see inotify(7))."""

    # linux/inotify.h: what changes a folder's times, or has its name be another folder's.
    _ATTRIB, _MOVED_FROM, _MOVED_TO = 0x4, 0x40, 0x80
    _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
    _WRITTEN = _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
    _ONLYDIR, _DONT_FOLLOW = 0x1000000, 0x2000000
    _OVERFLOW, _IGNORED = 0x4000, 0x8000  # they come unasked
    _EVENT = struct.Struct("=iIII")
    _BYTES = 1 << 16

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        # -1 where this account has too many of them; nothing can be watched then.
        self._descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor >= 0:
            weakref.finalize(self, os.close, self._descriptor)
        self._names: dict[int, str] = {}

    def watch(self, folder: str, name: str) -> bool:
        """Take notice, from now on, of what is written in a folder; whether that can be. A link is not followed."""
        what = self._WRITTEN | self._ONLYDIR | self._DONT_FOLLOW
        number: int = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), what)
        if number >= 0:
            self._names[number] = name
        return number >= 0

    def read(self) -> set[str] | None:
        """The names of those that were written in since the last call; None where some are not known."""
        found: set[str] | None = set()
        for number, mask in self._events():
            name = self._names.get(number)
            if mask & self._OVERFLOW:
                found = None
            elif name is not None and found is not None:
                found.add(name)
            if mask & self._IGNORED:
                # Its number is never used again.
                self._names.pop(number, None)
        return found

    def _events(self) -> Iterator[tuple[int, int]]:
        """Number and mask of each event that waits."""
        while content := self._content():
            at = 0
            while at < len(content):
                number, mask, _cookie, length = self._EVENT.unpack_from(content, at)
                yield number, mask
                at += self._EVENT.size + length

    def _content(self) -> bytes:
        try:
            return os.read(self._descriptor, self._BYTES) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return b""
