# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks at the sandboxes of one account, as that account: what they wrote is read with no more rights than they have.

One process for each account, with one thread. Where a file is cut off under it, or a transcript is too much for it,
this process ends, the manager goes on, and another one takes its place.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from claude_sandbox import display, inside, lifecycle, prices, session, usage, working
from claude_sandbox.errors import ConflictError, SandboxError
from claude_sandbox.host import Account, Host, account
from claude_sandbox.instance import Instance
from claude_sandbox.registry import Record

from . import acts, ansi, frames, session_log, wire

_TRANSCRIPT_BYTES = 4 << 20  # read at one look: the rest comes at the next ones
_Source = frames.Framebuffer | frames.Shot


class _Eye:
    """What is remembered of one sandbox from look to look."""

    def __init__(self, host: Host, owner: Account) -> None:
        self._host = host
        self._owner = owner
        self._meter: tuple[str, usage.Meter] | None = None
        self._usage: tuple[int, usage.Usage] | None = None
        self._terminal: dict[str, Any] | None = None
        self._source: _Source | None = None
        self._started_at: float | None = None

    def look(self, record: Record, store: str, known: Mapping[str, Any], table: prices.Table) -> dict[str, Any]:
        """What it does now; of what the manager knows already, by the marks that we gave it, the marks alone."""
        self._follow(record)
        live = record.live
        found: dict[str, Any] = {"usage": self._use(record, store, known["usage"], table)}
        if live is not None:
            doing = inside.activity_of(record)
            found |= {"activity": doing.status if doing else None, "waiting_for": doing.waiting_for if doing else None}
            found["frame"] = self._mark(record, live)
        terminal = self._look_at_terminal(record)
        if terminal is not None:
            same = terminal["mark"] == known["terminal"]
            found["terminal"] = {"mark": terminal["mark"]} if same else terminal
        return found

    def _use(self, record: Record, store: str, known: int | None, table: prices.Table) -> dict[str, Any]:
        folder = working.claude_dir(record, self._owner, store)
        if self._meter is None or self._meter[0] != folder:
            self._meter = folder, usage.Meter(folder, record.asked().project_dir, record.created_at)
        now = self._meter[1].refresh(_TRANSCRIPT_BYTES)
        if self._usage is None or self._usage[1] != now:
            # A mark that no observer has given before: one that forgot a sandbox must not call what is new known.
            self._usage = time.monotonic_ns(), now
        mark = self._usage[0]
        return {"mark": mark, **({} if mark == known else {"shown": usage.shown(now, table)})}

    def _follow(self, record: Record) -> None:
        """Begin anew with each start of the sandbox."""
        started_at = record.instance.started_at if record.instance else None
        if started_at != self._started_at:
            self._started_at, self._source, self._terminal = started_at, None, None

    def _look_at_terminal(self, record: Record) -> dict[str, Any] | None:
        """The terminal: a process of tmux's is started only where the log says that something was written since."""
        instance = record.instance
        if instance is None or instance.stopped_at is not None:
            return None
        try:
            status = os.stat(record.log, follow_symlinks=False)
        except OSError:
            return None
        mark = f"{status.st_ino:x}.{status.st_size:x}.{status.st_mtime_ns:x}.{instance.pane.alive():d}"
        if self._terminal is None or self._terminal["mark"] != mark:
            seen = session.look(self._host, instance.folder)
            if seen is None:
                return None
            self._terminal = {"mark": mark, "columns": seen.columns, "rows": seen.rows, "text": seen.text}
        return self._terminal

    def _mark(self, record: Record, live: Instance) -> str | None:
        """What the screen shows, as a mark; None where it shows nothing, which is no reason to see nothing else."""
        if not record.asked().granted("display"):
            return None
        try:
            return self.source(record, live).mark()
        except SandboxError:
            return None

    def source(self, record: Record, live: Instance) -> _Source:
        """Where frames come from. Raises SandboxError where the sandbox has no screen."""
        spec = record.asked()
        self._follow(record)
        inside.check_display(record)
        if self._source is None:
            ways = lifecycle.backend(spec)
            running = lifecycle.running(record, live, self._owner)
            self._source = (
                frames.Shot(lambda: ways.frame(running))
                if ways.OWN_SCREEN
                else frames.Framebuffer(display.framebuffer(live.folder))
            )
        return self._source


class _Observer:
    def __init__(self, host: Host, table: prices.Table) -> None:
        self._host = host
        self._owner = account(host.uid)
        self._table = table
        self._eyes: dict[str, _Eye] = {}

    def look(self, sandboxes: list[dict[str, Any]]) -> tuple[Any, bytes]:
        """Look at all sandboxes of the account: those that are not among them any more are forgotten."""
        found = {}
        for each in sandboxes:
            record = wire.record_of(each["record"])
            try:
                found[record.id] = self._eye(record).look(record, each["store"], each["known"], self._table)
            except SandboxError as error:
                found[record.id] = {"problem": str(error)}
            except Exception:  # noqa: BLE001 - what one sandbox has prepared must not blind us for the others
                found[record.id] = {"crash": traceback.format_exc()}
        self._eyes = {identity: eye for identity, eye in self._eyes.items() if identity in found}
        return found, b""

    def frame(
        self, record: dict[str, Any], store: str, width: int | None, kind: frames.Kind, known: list[str]
    ) -> tuple[Any, bytes]:
        """What the screen shows, as a mark and a picture; no picture where the mark is among those known."""
        asked = wire.record_of(record)
        source = self._eye(asked).source(asked, inside.live_instance(asked))
        mark = source.mark()
        return (mark, b"") if mark in known else source.encoded(width, kind)

    def text(self, record: dict[str, Any], store: str, history: int) -> tuple[Any, bytes]:
        """The terminal as text, with so many lines above it."""
        asked = wire.record_of(record)
        if asked.instance is None or asked.instance.stopped_at is not None:
            raise ConflictError(f"Sandbox {asked.name} has no terminal now.", "Start it first.")
        return ansi.plain(session.capture(self._host, asked.instance.folder, history)), b""

    def log(self, record: dict[str, Any], store: str, tail: int, since: str | None) -> tuple[Any, bytes]:
        """Lines of the log."""
        part = session_log.read(wire.record_of(record), tail, since)
        return {"lines": part.lines, "next": part.next}, b""

    def _eye(self, record: Record) -> _Eye:
        return self._eyes.setdefault(record.id, _Eye(self._host, self._owner))


def _prices(state_dir: str) -> prices.Table:
    """The user's prices; where they were spoilt since the manager's start, those of the list, and a word in the log."""
    try:
        return prices.load(state_dir)
    except SandboxError as error:
        print(str(error), file=sys.stderr)
        return prices.BUILT_IN


def serve(stream: socket.socket) -> None:
    """Answer until the manager is gone. The first message says whose sandboxes they are."""
    asked, _blob = wire.receive(stream)
    # As the manager itself: the prices stand beside the registry.
    table = _prices(asked["state_dir"])
    observer = _Observer(acts.become_owner(Host.this(), asked["uid"]), table)
    ways: Mapping[str, Callable[..., tuple[Any, bytes]]] = {
        "look": observer.look,
        "frame": observer.frame,
        "text": observer.text,
        "log": observer.log,
    }
    while True:
        try:
            question, _blob = wire.receive(stream)
        except EOFError:
            return
        try:
            value, blob = ways[question.pop("do")](**question)
            wire.send(stream, {"value": value}, blob)
        except SandboxError as error:
            wire.send(stream, wire.failure(error))
        except Exception:  # noqa: BLE001 - whatever it was, the next question can be answered
            wire.send(stream, {"crash": traceback.format_exc()})
