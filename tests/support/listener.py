"""Canaries: targets that count what reaches them, so that a test asserts the effect and not the configuration.

    with TcpCanary() as canary:
        sandbox.run(["curl", "-s", canary.url])
        assert canary.count == 0

An absence is proved only by a canary that does count when it is reachable: let each test also make the contact once
from outside the sandbox.
"""

from __future__ import annotations

import collections
import contextlib
import html
import http.server
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

GREETING = b"canary\n"
MAX_KEPT = 1000
MAX_PAYLOAD = 64 * 1024
READ_TIMEOUT = 1.0

Colour = tuple[int, int, int]
TEAL: Colour = (0, 128, 128)


class _Counter:
    """What arrived so far; shared by the threads of a server and the test."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._received: collections.deque[bytes] = collections.deque(maxlen=MAX_KEPT)

    @property
    def count(self) -> int:
        with self._changed:
            return self._count

    @property
    def received(self) -> Sequence[bytes]:
        """The payloads, oldest first; a connection's comes once it ended or fell silent."""
        with self._changed:
            return tuple(self._received)

    def add(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def keep(self, data: bytes) -> None:
        with self._changed:
            self._received.append(data)
            self._changed.notify_all()

    def wait(self, wanted: int = 1, timeout: float = 5.0) -> bool:
        """Whether at least `wanted` contacts arrived in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count >= wanted, timeout)


class Canary(_Counter):
    """Runs a server in its own thread; what kind of server is what the classes below differ in."""

    def __init__(self, server: socketserver.TCPServer) -> None:
        super().__init__()
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        # The handlers find their canary on the server.
        server.canary = self  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet:
    """A client that is cut off, which is what sandboxes do to them, is no news."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[misc]


class _StreamHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        canary: Canary = self.server.canary  # type: ignore[attr-defined]
        canary.add()
        self.request.settimeout(READ_TIMEOUT)
        self.request.sendall(GREETING)
        data = b""
        with contextlib.suppress(OSError):
            while len(data) < MAX_PAYLOAD and (more := self.request.recv(4096)):
                data += more
        canary.keep(data)


class _DatagramHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, answer_to = self.request
        canary: Canary = self.server.canary  # type: ignore[attr-defined]
        canary.keep(data)
        canary.add()
        answer_to.sendto(GREETING, self.client_address)


class _TcpServer(_Quiet, socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = _family(address[0])
        super().__init__(address, _StreamHandler)


class _UdpServer(_Quiet, socketserver.UDPServer):
    max_packet_size = MAX_PAYLOAD

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = _family(address[0])
        super().__init__(address, _DatagramHandler)


class _UnixServer(_Quiet, socketserver.ThreadingUnixStreamServer):
    pass


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _InetCanary(Canary):
    @property
    def host(self) -> str:
        return str(self._server.socket.getsockname()[0])

    @property
    def port(self) -> int:
        return int(self._server.socket.getsockname()[1])

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}/" if ":" in self.host else f"http://{self.host}:{self.port}/"


class TcpCanary(_InetCanary):
    """Counts connections and greets each; `host` may be `::1`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(_TcpServer((host, port)))


class UdpCanary(_InetCanary):
    """Counts datagrams and answers each; `host` may be `::1`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(_UdpServer((host, port)))


class AbstractCanary(Canary):
    """Counts connections to an abstract UNIX socket, which only a network namespace of one's own keeps out."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"claude-sandbox-canary-{os.getpid()}-{os.urandom(4).hex()}"
        super().__init__(_UnixServer("\0" + self.name, _StreamHandler))

    @property
    def address(self) -> str:
        """For `socket.connect`; socat calls it `ABSTRACT-CONNECT:<name>`."""
        return "\0" + self.name


def has_ipv6() -> bool:
    """Whether ::1 can be bound: some build machines have no IPv6 at all."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::1", 0))
        return True
    return False


# --- a page to be recognised on a screenshot --------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text}</title><style>
html, body {{ margin: 0; height: 100%; background: rgb{colour}; overflow: hidden }}
body {{ display: flex; align-items: center; justify-content: center; font: bold 96px sans-serif; color: #fff }}
</style></head><body>{text}</body></html>
"""


class _PageServer(_Quiet, http.server.ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = _family(address[0])
        super().__init__(address, _PageHandler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for its name, which can hang for seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _PageHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class gave it
        """Say nothing: visits are counted."""

    def do_GET(self) -> None:
        page: WebPage = self.server.canary  # type: ignore[attr-defined]
        found = self.path.partition("?")[0] == "/"
        if found:
            page.add()
        data = page.html.encode() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)


class WebPage(_InetCanary):
    """A page of one colour with large white text; `count` is how often it was asked for."""

    def __init__(
        self, colour: Colour = TEAL, text: str = "sandbox canary", *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.colour = colour
        self.text = text
        super().__init__(_PageServer((host, port)))

    @property
    def html(self) -> str:
        return _PAGE.format(text=html.escape(self.text), colour=self.colour)


def colour_share(rgb: bytes, colour: Colour, tolerance: int = 8) -> float:
    """Which part of an image, given as raw RGB bytes (Pillow: `image.convert("RGB").tobytes()`), has that colour."""
    pixels = collections.Counter(zip(rgb[0::3], rgb[1::3], rgb[2::3], strict=True))
    near = sum(
        count
        for pixel, count in pixels.items()
        if all(abs(have - want) <= tolerance for have, want in zip(pixel, colour, strict=True))
    )
    return near / max(1, pixels.total())
