# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a page holds open: a sandbox's terminal and its log, over WebSockets."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import termios
import threading
from collections.abc import Iterator

from flask import Flask, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server

from claude_sandbox.errors import ConflictError, SandboxError

from . import security, session_log, wire
from .manager import Manager, current
from .problems import ProblemError
from .roster import Entry

_LINES = 1000
_EVERY = 1.0  # seconds between two looks at a log, or at the size of a terminal
_MESSAGE_LIMIT = 64 << 10  # bytes that a browser may send at once
_PIECE = 32 << 10
_STATUS_LINE = 1  # row that tmux shows below the session's own
_LARGEST = 1000  # columns or rows
_WRITE_SECONDS = 5.0


def register(app: Flask) -> None:
    """Add the WebSockets to an app."""
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25, "max_message_size": _MESSAGE_LIMIT}
    sock = Sock(app)
    sock.route("/ws/sandboxes/<ref>/logs")(_logs)
    sock.route("/ws/sandboxes/<ref>/terminal")(_terminal)


def _logs(ws: Server, ref: str) -> None:
    """The last lines, then those that come."""
    with _held(ws):
        manager = current()
        tail, since = _LINES, None
        while not manager.stopping.is_set():
            found = manager.ask(manager.roster.get(ref).record, "log", tail=tail, since=since)[0]
            if found["lines"] or since is None:
                ws.send(json.dumps(found))
            tail, since = session_log.PIECE, found["next"]
            # Nothing is expected: this waits, and notices that the page is gone.
            ws.receive(timeout=_EVERY)


@contextlib.contextmanager
def _held(ws: Server) -> Iterator[None]:
    """One of the places that there are; what goes wrong is told to the page."""
    try:
        with security.places():
            yield
    except ConnectionClosed:
        pass
    except (SandboxError, ProblemError) as error:
        with contextlib.suppress(ConnectionClosed):
            ws.send(json.dumps({"ended": error.what}))


def _terminal(ws: Server, ref: str) -> None:
    """The session as a terminal shows it. Bytes are the terminal's; text is JSON about it."""
    with _held(ws):
        manager, entry = current(), current().roster.get(ref)
        writes = request.args.get("write") == "1"
        size = (_asked_size() if writes else None) or _own_size(manager, ref)
        with _attached(manager, entry, writes, size) as end:
            _Terminal(ws, manager, ref, end, writes).run(size)


@contextlib.contextmanager
def _attached(manager: Manager, entry: Entry, writes: bool, size: tuple[int, int]) -> Iterator[int]:
    """The descriptor of a terminal in which a client of the session's tmux runs; closing it ends the client."""
    instance = entry.record.instance
    if entry.status not in ("running", "dead") or instance is None:
        raise ConflictError(f"Sandbox {entry.record.name} is {entry.status}: it has no terminal.")
    uid = manager.eyes.question(entry.record)[0]
    content = {"uid": uid, "instance": instance.to_dict(), "writes": writes, "columns": size[0], "rows": size[1]}
    descriptors: list[int] = []
    with manager.forks.open("attach") as stream, contextlib.suppress(OSError):
        stream.settimeout(20)
        wire.send(stream, content)
        descriptors = socket.recv_fds(stream, 1, 1)[1]
    if not descriptors:
        raise SandboxError("The terminal could not be opened.", "The manager's log says more.")
    try:
        yield descriptors[0]
    finally:
        os.close(descriptors[0])


def _asked_size() -> tuple[int, int] | None:
    try:
        return _bounded(int(request.args["columns"]), int(request.args["rows"]))
    except (KeyError, ValueError):
        return None


def _own_size(manager: Manager, ref: str) -> tuple[int, int]:
    """Columns and rows in which the session fits as it is."""
    seen = manager.watch.one(ref).terminal
    return (seen.columns, seen.rows + _STATUS_LINE) if seen else (160, 49)


def _bounded(columns: int, rows: int) -> tuple[int, int]:
    return max(2, min(columns, _LARGEST)), max(2, min(rows, _LARGEST))


class _Terminal:
    """Passes bytes between a page and a terminal. What the page sends is read in a thread of its own."""

    def __init__(self, ws: Server, manager: Manager, ref: str, end: int, writes: bool) -> None:
        self._ws = ws
        self._manager = manager
        self._ref = ref
        self._end = end
        self._writes = writes
        self._size: tuple[int, int] | None = None
        self._over = threading.Event()

    def run(self, size: tuple[int, int]) -> None:
        """Pass them on until one of the two is gone. size: columns and rows that the terminal has."""
        os.set_blocking(self._end, False)
        self._resize(size)
        reader = threading.Thread(target=self._read_page, name="terminal", daemon=True)
        reader.start()
        try:
            self._read_terminal()
        finally:
            self._over.set()
            reader.join()

    def _read_terminal(self) -> None:
        while not (self._over.is_set() or self._manager.stopping.is_set()):
            if not select.select([self._end], [], [], _EVERY)[0]:
                if not self._writes:
                    self._resize(_own_size(self._manager, self._ref))
                continue
            try:
                content = os.read(self._end, _PIECE)
            except OSError:
                content = b""  # Linux says EIO where the other end is closed
            if not content:
                self._ws.send(json.dumps({"ended": "The session was left, or it ended."}))
                return
            self._ws.send(content)

    def _read_page(self) -> None:
        try:
            while not self._over.is_set():
                message = self._ws.receive(timeout=_EVERY)
                if isinstance(message, bytes) and self._writes:
                    self._type(message)
                elif isinstance(message, str) and self._writes:
                    self._obey(message)
        except ConnectionClosed:
            pass
        finally:
            self._over.set()

    def _type(self, content: bytes) -> None:
        left = memoryview(content)
        while left and select.select([], [self._end], [], _WRITE_SECONDS)[1]:
            try:
                left = left[os.write(self._end, left) :]
            except BlockingIOError:
                continue
            except OSError:
                return

    def _obey(self, message: str) -> None:
        """The page's terminal has another size."""
        # A page of ours says nothing else; others may say infinity, or lists of lists without end.
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            columns, rows = json.loads(message)["resize"]
            self._resize(_bounded(int(columns), int(rows)))

    def _resize(self, size: tuple[int, int]) -> None:
        if size == self._size:
            return
        self._size = size
        termios.tcsetwinsize(self._end, (size[1], size[0]))
        self._ws.send(json.dumps({"size": list(size)}))
