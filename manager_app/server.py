# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The server below the app: gunicorn with one process that has threads, and what it lets callers hold of them.

A request has a thread from its first byte on, so nobody may send one as slowly as they like, and who is in a sandbox
gets none at all. The loop that hands requests to threads waits for nobody.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, cast

from flask import Flask, Response
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

from . import logs, security
from .app import create_app
from .config import Config

_THREADS = 96  # a WebSocket holds one as long as it is open: see security.places
# The longest that there may be, so that one that is too long is answered by the app.
_LINE_LIMIT = 8190
_FIRST_SECONDS = 0.1  # for the first byte; who takes longer holds no thread meanwhile
_HEAD_SECONDS = 10.0  # for all of a request but its body
_BODY_SECONDS = 30.0
_END_SECONDS = 2.0  # for whoever was answered to hang up
_ENDING = 128  # so many may take that long at once
_PAGE_SECONDS = 0.5  # for a page to close its WebSocket, once that is closed here
_STOP_SECONDS = 2.0  # for pages that take nothing, when the manager ends


class Server(BaseApplication):
    """gunicorn as the manager runs in it."""

    def __init__(self, configuration: Config) -> None:
        self._configuration = configuration
        super().__init__()

    def load_config(self) -> None:
        """Set what is not as gunicorn has it by default."""
        settings = {
            "bind": [self._configuration.address],
            "workers": 1,
            "worker_class": Worker,
            "threads": _THREADS,
            "worker_connections": 512,
            "limit_request_line": _LINE_LIMIT,
            "keepalive": 30,
            "timeout": 60,
            "graceful_timeout": 10,
            "logger_class": logs.Logger,
            "accesslog": "-",
            "proc_name": "claude-sandbox-manager",
            "control_socket_disable": True,
            "worker_exit": _close,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The app."""
        return create_app(self._configuration)


def _close(_server: Any, worker: Any) -> None:
    if worker.app.callable is not None:
        worker.app.callable.extensions["manager"].close()


class Worker(gthread.ThreadWorker):
    """The process that answers."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._ending: collections.deque[gthread.TConn] = collections.deque()
        self._pages = _Pages()
        self._stop_at: float | None = None

    @property
    def _app(self) -> Flask:
        return cast(Flask, self.wsgi)

    # In a thread of the pool

    def handle(self, conn: gthread.TConn) -> Any:
        """Answer a request; whether the connection can have another one, or that it is to be waited for."""
        if not conn.initialized:
            answer = security.refusal(self._app, conn.sock)
            if answer is not None:
                return self._refuse(conn, answer)
            if not conn.wait_for_data(_FIRST_SECONDS):
                return gthread._DEFER  # type: ignore[attr-defined]  # not in the stubs
            conn.init()
            _parser(conn).unreader = _Unreader(conn.sock)
        _parser(conn).unreader.allow(_HEAD_SECONDS)
        return super().handle(conn)

    def _refuse(self, conn: gthread.TConn, answer: Response) -> bool:
        content = answer.get_data()
        answer.headers.update({"Content-Length": str(len(content)), "Connection": "close"})
        self.log.info("A program inside a sandbox or container was refused.")
        with contextlib.suppress(OSError):
            # It is less than the kernel takes of a new connection, whether or not it is read.
            conn.sock.sendall(f"HTTP/1.1 {answer.status}\r\n{answer.headers}".encode() + content)
        return False

    def handle_request(self, req: Request, conn: gthread.TConn) -> bool:
        """Answer a request that was read as far as its body."""
        _parser(conn).unreader.allow(_BODY_SECONDS)
        if not _asks_for_websocket(req):
            return super().handle_request(req, conn)
        with self._pages.held(conn.sock) as page:
            try:
                return super().handle_request(req, conn)
            except StopIteration:
                # So it says that it was a WebSocket. From here on the library's thread alone has the descriptor that
                # it reads from, and we another.
                conn.sock = page.hang_up()
                raise

    # In the main loop, which must not wait for anybody

    def finish_request(self, conn: gthread.TConn, fs: Future[Any]) -> None:
        """Go on with a connection after a thread is through with it."""
        if fs.cancelled() or fs.exception() is not None or fs.result() is not False:
            super().finish_request(conn, fs)
        elif len(self._ending) < _ENDING:
            self._let_end(conn)
        else:
            self._drop(conn)

    def _let_end(self, conn: gthread.TConn) -> None:
        """Close it once the other side has.

        Before that, what it still sends would be answered by a reset, and that may overtake our answer.
        """
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, functools.partial(self._drain, conn))
        except (OSError, ValueError):
            # They have hung up, or it was closed by what broke.
            self._drop(conn)
            return
        conn.timeout = time.monotonic() + _END_SECONDS
        self._ending.append(conn)

    def _drain(self, conn: gthread.TConn, _sock: socket.socket) -> None:
        try:
            if conn.sock.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._ending.remove(conn)
        self._forget(conn)

    def _forget(self, conn: gthread.TConn) -> None:
        self.poller.unregister(conn.sock)
        self._drop(conn)

    def _drop(self, conn: gthread.TConn) -> None:
        self.nr_conns -= 1
        util.close(conn.sock)

    def murder_pending(self) -> None:
        """What is to be done from time to time."""
        super().murder_pending()
        now = time.monotonic()
        while self._ending and (self._ending[0].timeout or 0) <= now:
            self._forget(self._ending.popleft())
        if not self.alive:
            self._stop(now)

    def _stop(self, now: float) -> None:
        """Have those that would go on without end do so; each time a little more firmly."""
        if self._stop_at is None:
            self._stop_at = now + _STOP_SECONDS
            self._tell()
        elif now >= self._stop_at:
            self._pages.cut()

    def _tell(self) -> None:
        manager = self._app.extensions.get("manager")
        if manager is not None:
            manager.stopping.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End at once, as SIGINT wants it."""
        self._tell()
        self._pages.cut()
        super().handle_quit(sig, frame)


class _Unreader(SocketUnreader):
    """Reads from a connection until a time that does not move with each byte that comes."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._until = 0.0

    def allow(self, seconds: float) -> None:
        """Give the other side so long from now on."""
        self._until = time.monotonic() + seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What is there, or comes. Raises ConnectionResetError where it took too long."""
        before = self.sock.gettimeout()
        left = self._until - time.monotonic()
        if left <= 0:
            raise _late()
        self.sock.settimeout(left if before is None else min(left, before))
        try:
            return super().chunk(size_hint)  # type: ignore[call-arg]  # not in the stubs
        except TimeoutError:
            if time.monotonic() >= self._until:
                raise _late() from None
            raise
        finally:
            self.sock.settimeout(before)


def _late() -> ConnectionResetError:
    """As if they had hung up, which gunicorn and the app take for nobody's mistake."""
    return ConnectionResetError(errno.ECONNRESET, "The request took too long to come.")


def _parser(conn: gthread.TConn) -> Any:
    """What reads the requests, by an _Unreader; of those that there are we have only the one for HTTP/1."""
    return conn.parser


def _asks_for_websocket(req: Request) -> bool:
    return any(name == "UPGRADE" and "websocket" in value.lower() for name, value in req.headers)


class _Page:
    """A descriptor of ours of a connection, whose own one the WebSocket's library may close at any time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock.dup()
        self._lock = threading.Lock()

    def hang_up(self) -> socket.socket:
        """End it: what was sent arrives, and the library's thread, which reads, is told. A descriptor to be closed."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            waiting = select.poll()
            waiting.register(self._sock, select.POLLRDHUP)
            waiting.poll(_PAGE_SECONDS * 1000)
        self.cut()
        return self._sock.dup()

    def cut(self) -> None:
        """Have everything that waits for it fail."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor up; the connection itself goes on."""
        with self._lock:
            self._sock.close()


class _Pages:
    """The WebSockets that are open."""

    def __init__(self) -> None:
        self._all: set[_Page] = set()

    @contextlib.contextmanager
    def held(self, sock: socket.socket) -> Iterator[_Page]:
        """One of them, as long as this lasts."""
        page = _Page(sock)
        self._all.add(page)
        try:
            yield page
        finally:
            self._all.discard(page)
            page.close()

    def cut(self) -> None:
        """End all of them."""
        for page in self._all.copy():
            page.cut()
