# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the sandboxes do now, as pages and figures show it: looked at when somebody asks, once for all who do."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from claude_sandbox import plan, procs
from claude_sandbox.errors import SandboxError

from .eyes import Eyes
from .jobs import Jobs
from .roster import Entry, Roster

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Terminal:
    """A sandbox's terminal as it looks now: lines of text with the sequences that colour it (SGR), and no other.

    mark: changes whenever the rest does.
    """

    mark: str
    columns: int
    rows: int
    text: str


@dataclasses.dataclass(frozen=True)
class Process:
    """What the processes of a sandbox use. cpu_percent: of one processor, since the look before."""

    cpu_percent: float
    memory_bytes: int
    processes: int


@dataclasses.dataclass(frozen=True)
class Seen:
    """One sandbox, looked at.

    view: as the engine shows it to every door. job: what is being done to it (start, stop, …), if anything.
    activity: what the agent says that it does: idle, busy, waiting. waiting_for: for what, in its words.
    usage: the agent's tokens, as claude_sandbox_info shows them. frame: changes whenever the screen does.
    """

    view: Mapping[str, Any]
    job: str | None = None
    activity: str | None = None
    waiting_for: str | None = None
    process: Process | None = None
    usage: Mapping[str, Any] | None = None
    terminal: Terminal | None = None
    frame: str | None = None


@dataclasses.dataclass(frozen=True)
class _Sample:
    """CPU seconds of a sandbox's processes at a time of the monotonic clock."""

    at: float
    cpu_seconds: float


class Watch:
    """Looks at all sandboxes, at most once for all who ask within a moment. May be asked from any thread."""

    def __init__(self, roster: Roster, eyes: Eyes, jobs: Jobs) -> None:
        self._roster = roster
        self._eyes = eyes
        self._jobs = jobs
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._at = float("-inf")
        self._cpu: dict[str, _Sample] = {}
        self._terminals: dict[str, Terminal] = {}
        self._usages: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._settled: dict[str, tuple[Entry, dict[str, Any]]] = {}
        self._crashes: dict[str, str] = {}

    def all(self, max_age: float = 1.5) -> list[Seen]:
        """All sandboxes by name, as they were at most `max_age` seconds ago. Raises SandboxError."""
        with self._lock:
            if time.monotonic() - self._at > max_age:
                self._seen = self._look(self._roster.all())
                self._at = time.monotonic()
            return self._seen

    def one(self, ref: str, max_age: float = 1.5) -> Seen:
        """One sandbox. Raises ProblemError where there is none."""
        entry = self._roster.get(ref)
        name = entry.record.name
        found = next((seen for seen in self.all(max_age) if seen.view["name"] == name), None)
        return found or Seen(entry.view)

    def _look(self, entries: Sequence[Entry]) -> list[Seen]:
        found = self._observed([entry for entry in entries if entry.record.spec is not None])
        processes = self._processes(entries)
        under_way = self._jobs.under_way()
        there = {entry.record.id for entry in entries}
        self._terminals = {identity: each for identity, each in self._terminals.items() if identity in there}
        self._usages = {identity: each for identity, each in self._usages.items() if identity in there}
        return [
            self._seen_of(
                entry, found.get(entry.record.id, {}), processes.get(entry.record.id), under_way.get(entry.record.name)
            )
            for entry in entries
        ]

    def _seen_of(self, entry: Entry, found: Mapping[str, Any], process: Process | None, job: str | None) -> Seen:
        return Seen(
            entry.view,
            job,
            found.get("activity"),
            found.get("waiting_for"),
            process,
            self._usage(entry.record.id, found.get("usage")),
            self._terminal(entry.record.id, found.get("terminal")),
            found.get("frame"),
        )

    def _terminal(self, identity: str, found: Mapping[str, Any] | None) -> Terminal | None:
        if found is None:
            self._terminals.pop(identity, None)
        elif "text" in found:
            self._terminals[identity] = Terminal(**found)
        return self._terminals.get(identity)

    def _usage(self, identity: str, found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if found is None:
            self._usages.pop(identity, None)
        elif "shown" in found:
            self._usages[identity] = found["mark"], found["shown"]
        return self._usages[identity][1] if identity in self._usages else None

    def _observed(self, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
        """What each account's observer sees, by sandbox. One that has ended is looked at until all of it is known."""
        current = {entry.record.id: entry for entry in entries}
        settled = {
            identity: (entry, found)
            for identity, (entry, found) in self._settled.items()
            if current.get(identity) is entry
        }
        asked = [entry for entry in entries if entry.record.id not in settled]
        found = self._ask(asked)
        for entry in asked:
            mine = found.get(entry.record.id)
            # What has not changed since the look before has no bytes that wait to be read.
            usage = mine.get("usage", {}) if mine is not None else {}
            known = mine is not None and "crash" not in mine and not usage.get("shown", {}).get("pending")
            if mine is not None and known and entry.status != plan.RUNNING:
                settled[entry.record.id] = (entry, mine)
        self._settled = settled
        return found | {identity: found for identity, (_entry, found) in settled.items()}

    def _ask(self, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
        by_owner: dict[int, list[dict[str, Any]]] = {}
        for entry in entries:
            with contextlib.suppress(SandboxError):
                uid, question = self._eyes.question(entry.record)
                by_owner.setdefault(uid, []).append({**question, "known": self._known(entry)})
        found: dict[str, dict[str, Any]] = {}
        for uid, questions in by_owner.items():
            try:
                found |= self._eyes.ask(uid, "look", sandboxes=questions)[0]
            except SandboxError as error:
                _log.warning("%s", error.what)
        self._log_crashes({identity: str(each["crash"]) for identity, each in found.items() if "crash" in each})
        return found

    def _log_crashes(self, crashes: dict[str, str]) -> None:
        """Mistakes of ours in looking at one sandbox: each once, for the looks go on."""
        for identity, crash in crashes.items():
            if self._crashes.get(identity) != crash:
                _log.error("a look at sandbox %s failed: %s", identity, crash)
        self._crashes = crashes

    def _known(self, entry: Entry) -> dict[str, Any]:
        """The marks of what we know of it, so that it need not be told again."""
        terminal, usage = self._terminals.get(entry.record.id), self._usages.get(entry.record.id)
        return {"terminal": terminal.mark if terminal else None, "usage": usage[0] if usage else None}

    def _processes(self, entries: Sequence[Entry]) -> dict[str, Process]:
        running = {
            entry.record.id: entry.record.instance.init.pid
            for entry in entries
            if entry.status == plan.RUNNING and entry.record.instance is not None
        }
        used = procs.usages(running.values()) if running else {}
        now = time.monotonic()
        found, samples = {}, {}
        for identity, pid in running.items():
            samples[identity] = _Sample(now, used[pid].cpu_seconds)
            before = self._cpu.get(identity, samples[identity])
            percent = 100 * max(0.0, used[pid].cpu_seconds - before.cpu_seconds) / max(now - before.at, 0.001)
            found[identity] = Process(round(percent, 1), used[pid].memory_bytes, used[pid].processes)
        self._cpu = samples
        return found
