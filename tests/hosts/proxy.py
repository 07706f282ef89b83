"""The only way out for test hosts: to where this machine takes its packages from, and nowhere else.

It gets its listening socket, which lies in the hosts' network, and connects from the network that it is started in.
A Debian package that went through once is kept: its name carries its version, so it never changes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import os
import re
import shutil
import socket
import socketserver
import tempfile
import threading
import urllib.parse
import urllib.request
from pathlib import Path

_MAX_CONNECTIONS = 64
_SECONDS = 120.0
_CHUNK = 1 << 16
_KEPT = re.compile(r"/[A-Za-z0-9._+~%-]+(/[A-Za-z0-9._+~%-]+)*/pool/([A-Za-z0-9._+~%-]+/)+[A-Za-z0-9._+~%-]+\.deb")
_TO_SERVER = ("Accept", "Cache-Control", "If-Modified-Since", "If-Range", "Range", "User-Agent")
_TO_CLIENT = ("Accept-Ranges", "Content-Length", "Content-Range", "Content-Type", "ETag", "Last-Modified", "Location")
_HTTP = 80

Place = tuple[str, int]


def _connection(host: str, port: int, *, tunnel: bool) -> http.client.HTTPConnection:
    """A connection there, by this machine's own proxy where it has one."""
    url = urllib.request.getproxies().get("https" if tunnel else "http")
    if not url or urllib.request.proxy_bypass(host):
        return http.client.HTTPConnection(host, port, timeout=_SECONDS)
    proxy = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=_SECONDS)
    if tunnel:
        connection.set_tunnel(host, port)
    return connection


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _place(text: str) -> Place:
    host, _colon, port = text.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves on a socket that listens already."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, allowed: frozenset[Place], kept: Path) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.allowed = allowed
        self.kept = kept
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    def do_CONNECT(self) -> None:
        place = _place(self.path)
        self.close_connection = True
        if place not in self.server.allowed:
            self.send_error(403, "Not a source of packages")
            return
        connection = _connection(*place, tunnel=True)
        try:
            connection.connect()
        except OSError as error:
            self.send_error(502, str(error))
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.closing(connection):
            back = threading.Thread(target=_pump, args=(connection.sock, self.connection), daemon=True)
            back.start()
            _pump(self.connection, connection.sock)
            back.join()

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        place = (parts.hostname or "", parts.port or _HTTP)
        if parts.scheme != "http" or place not in self.server.allowed:
            self.send_error(403, "Not a source of packages")
            return
        kept = self._kept(parts)
        if kept and kept.is_file():
            self._send_file(kept)
            return
        with contextlib.closing(_connection(*place, tunnel=False)) as connection:
            try:
                answer = self._ask(connection, parts)
            except (OSError, http.client.HTTPException) as error:
                self.send_error(502, str(error))
                return
            try:
                self._pass_on(answer, kept)
            except (OSError, http.client.HTTPException) as error:
                self.close_connection = True
                self.log_error("%s: %s", self.path, error)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _kept(self, parts: urllib.parse.SplitResult) -> Path | None:
        if self.command != "GET" or not _KEPT.fullmatch(parts.path) or ".." in parts.path.split("/"):
            return None
        return self.server.kept / f"{parts.hostname}{parts.path}"

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.send_header("Content-Type", "application/vnd.debian.binary-package")
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, _CHUNK)

    def _ask(self, connection: http.client.HTTPConnection, parts: urllib.parse.SplitResult) -> http.client.HTTPResponse:
        headers = {name: self.headers[name] for name in _TO_SERVER if name in self.headers}
        # Only to another proxy it is a whole URL.
        direct = (connection.host, connection.port) == (parts.hostname, parts.port or _HTTP)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")) if direct else self.path
        connection.request(self.command, target, headers={"Host": parts.netloc, **headers})
        return connection.getresponse()

    def _pass_on(self, answer: http.client.HTTPResponse, kept: Path | None) -> None:
        self.send_response(answer.status, answer.reason)
        for name in _TO_CLIENT:
            if value := answer.headers[name]:
                self.send_header(name, value)
        if answer.headers["Content-Length"] is None:
            self.send_header("Connection", "close")
        self.end_headers()
        if kept and answer.status == 200 and answer.length is not None:
            self._send_and_keep(answer, kept)
        else:
            shutil.copyfileobj(answer, self.wfile, _CHUNK)

    def _send_and_keep(self, answer: http.client.HTTPResponse, kept: Path) -> None:
        """The file gets its name when it is whole."""
        kept.parent.mkdir(parents=True, exist_ok=True)
        wanted = answer.length
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=".", delete=False) as file:
            try:
                while data := answer.read(_CHUNK):
                    file.write(data)
                    self.wfile.write(data)
                file.flush()
                if os.fstat(file.fileno()).st_size == wanted:
                    os.rename(file.name, kept)
            finally:
                Path(file.name).unlink(missing_ok=True)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Only errors are logged."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The only way out for test hosts.")
    parser.add_argument("--socket", type=int, required=True, help="the number of a descriptor that listens")
    parser.add_argument("--kept", type=Path, required=True, help="where Debian packages are kept")
    parser.add_argument("places", nargs="+", metavar="HOST:PORT", type=_place, help="what may be reached")
    options = parser.parse_args()
    with Server(socket.socket(fileno=options.socket), frozenset(options.places), options.kept) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
