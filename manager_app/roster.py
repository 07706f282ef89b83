# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandboxes as the registry has them at each moment, read again only where something was written.

A record is replaced by a rename in its sandbox's folder, which changes that folder's times.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping
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
    """An entry, the folder's identity and times when it was read, and until when (see time.monotonic_ns) it stands."""

    entry: Entry
    version: tuple[int, int, int]
    until: float


class Roster:
    """The registry's sandboxes, kept in memory. Every method may be called from any thread."""

    def __init__(self, engine: Sandboxes) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def all(self) -> list[Entry]:
        """All sandboxes as they are now, by name. Raises SandboxError where the registry cannot be read."""
        folder = self._engine.registry.folder
        try:
            names = [name for name in os.listdir(folder) if NAME_RULE.match(name)]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise SandboxError(f"{folder} cannot be read: {error.strerror}.") from None
        with self._lock:
            found = {name: known for name in names if (known := self._current(f"{folder}/{name}", name)) is not None}
            self._known = found
            return [found[name].entry for name in sorted(found)]

    def get(self, ref: str) -> Entry:
        """The sandbox that a name, an id or the beginning of one means. Raises ProblemError where that is not one."""
        if not NAME_RULE.match(ref):
            raise ProblemError(404, "There is no sandbox of that name or id.", "GET /api/sandboxes lists them.")
        with self._lock:
            named = self._current(f"{self._engine.registry.folder}/{ref}", ref)
        if named is not None:
            return named.entry
        matches = [entry for entry in self.all() if entry.record.id.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise ProblemError(404, f"There is no sandbox {ref}.", "GET /api/sandboxes lists them.")
        names = ", ".join(f"{entry.record.name} ({entry.record.id})" for entry in matches[:10])
        raise ProblemError(409, f"{ref} could mean several sandboxes: {names}.", "Give more of the id.")

    def _current(self, folder: str, name: str) -> _Known | None:
        try:
            status = os.stat(folder)
        except OSError:
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        known = self._known.get(name)
        if known is not None and known.version == version and self._stands(known):
            return known
        record = self._engine.registry.get(name)
        if record is None:
            return None
        view = self._engine.view(record)
        entry = Entry(record, view, json.dumps(view).encode())
        known = _Known(entry, version, self._until(entry, status.st_mtime_ns))
        self._known[name] = known
        return known

    def _stands(self, known: _Known) -> bool:
        """Whether nothing but the record could have changed what is shown, or has."""
        if time.monotonic_ns() >= known.until:
            return False
        return known.entry.status != plan.RUNNING or self._engine.status(known.entry.record) == plan.RUNNING

    def _until(self, entry: Entry, written: int) -> float:
        if abs(time.time_ns() - written) < _RACY_NS:
            return 0
        settling = entry.status == plan.DEAD and entry.view["exit_code"] is None
        return time.monotonic_ns() + _SETTLES_NS if settling else float("inf")
