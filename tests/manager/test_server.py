"""What callers can hold of the server: others are answered meanwhile, or soon after."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket

from tests.manager.served import Served
from tests.manager.test_peer import INSIDE, PYTHON

ROOT = Path(__file__).parents[2]
MANY = 150  # more than there are threads
HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half: "
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

# The manager's server before an app of its own, with deadlines that a test can wait for, and few threads.
SERVER = """
import os, sys, time
from flask import Flask, request
from flask_sock import Sock
from manager_app import config, logs, security, server

server._HEAD_SECONDS, server._BODY_SECONDS, server._THREADS = 1.5, 1.5, 4

class Small(server.Server):
    def load_config(self):
        super().load_config()
        self.cfg.set("worker_exit", lambda server, worker: None)

    def load(self):
        app = Flask("small")
        security.protect(app, self._configuration)
        app.add_url_rule("/healthz", "health", lambda: "well")
        app.add_url_rule("/api/slow", "slow", lambda: (request.get_data(), time.sleep(3), "slow")[2], methods=["POST"])
        app.add_url_rule("/api/unread", "unread", lambda: (time.sleep(3), "unread")[1], methods=["POST"])
        Sock(app).route("/ws/echo")(lambda ws: ws.send(ws.receive()))
        return app

logs.set_up()
Small(config.from_environ(os.environ)).run()
"""
# In a sandbox. Its arguments: the port, how many connections, and what each sends. It prints the statuses.
CALL_MANY = """
import socket, sys, time
from http.client import HTTPResponse
callers = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20) for _ in range(int(sys.argv[2]))]
content = sys.stdin.buffer.read()
for caller in callers:
    caller.sendall(content)
print("sent", flush=True)
found = set()
for caller in callers:
    answer = HTTPResponse(caller)
    answer.begin()
    found.add(f"{answer.status} {answer.headers['Content-Type']} {answer.read().decode()}")
print(*found, sep="", flush=True)
time.sleep(60)
"""


@dataclasses.dataclass(frozen=True)
class Small:
    port: int


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """A server with four threads, and deadlines of one and a half seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MANAGER_")},
        "PYTHONPATH": f"{ROOT}:{ROOT}/plugins/module_utils",
        "MANAGER_LISTEN": f"127.0.0.1:{port}",
        "MANAGER_STATE_DIR": str(tmp_path_factory.mktemp("state")),
    }
    log = tmp_path_factory.mktemp("log") / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SERVER], env=environ, cwd="/", stdout=file, stderr=file)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(ConnectionError):
                healthz(port)
                break
        yield Small(port)
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        assert process.wait(20) == 0


def healthz(port: int) -> float:
    """How long it takes to be told that all is well, on a connection of its own."""
    begun = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=40)) as connection:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    return time.monotonic() - begun


@contextlib.contextmanager
def callers(port: int, number: int, content: bytes) -> Iterator[list[socket.socket]]:
    """So many who send that, and go on to hold the connection."""
    with contextlib.ExitStack() as held:
        found = []
        for _number in range(number):
            found.append(held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)))
            found[-1].sendall(content)
        yield found


def drip(caller: socket.socket, seconds: float) -> float:
    """Send a byte every tenth of a second; how long that was taken."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < begun + seconds:
            caller.sendall(b"x")
            time.sleep(0.1)
    return time.monotonic() - begun


# Requests that do not end


def test_halves_of_requests_hold_the_threads_only_for_so_long(served: Served) -> None:
    with callers(served.port, 90, HALF):
        assert healthz(served.port) < 6
    with callers(served.port, MANY, HALF):
        assert healthz(served.port) < 14


def test_who_drips_holds_a_thread_only_for_so_long(small: Small) -> None:
    with callers(small.port, 1, HALF) as (caller,):
        assert 1 < drip(caller, 10) < 4
    body = b"POST /api/slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with callers(small.port, 1, body + b"Content-Length: 1000\r\n\r\n") as (caller,):
        # It may be answered 400 before.
        assert 1 < drip(caller, 10) < 5


def test_a_body_that_does_not_come_is_told_of(small: Small) -> None:
    head = b"POST /api/slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for more in (b"Content-Length: 10\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        with callers(small.port, 1, head + more) as (caller,):
            begun = time.monotonic()
            assert caller.recv(100).startswith(b"HTTP/1.1 400 ")
            assert 1 < time.monotonic() - begun < 4


def test_who_sends_nothing_holds_no_thread(small: Small) -> None:
    with callers(small.port, 30, b""):
        time.sleep(1)
        assert healthz(small.port) < 1


def test_who_does_not_hang_up_holds_nobody_up(small: Small) -> None:
    """Whether or not they go on to send."""
    with callers(small.port, 30, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n") as held:
        assert held[-1].recv(100).startswith(b"HTTP/1.0 200 ")
        for caller in held[:15]:
            caller.sendall(b"more")
        assert healthz(small.port) < 1
        for caller in held:
            while caller.recv(1000):
                pass


def test_a_request_that_takes_longer_than_it_may_take_to_come(small: Small) -> None:
    """What came in time can be worked on, and the connection can be used again."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", small.port, timeout=20)) as connection:
        for path, body in (("slow", b"[1]"), ("slow", b""), ("slow", b"[2]")):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/api/{path}", body, headers)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"slow")
            assert connection.sock is not None


def test_what_came_late_is_no_request_of_its_own(small: Small) -> None:
    """A body that nobody has read when its time is over."""
    head = b"POST /api/unread HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with callers(small.port, 1, head + b"Content-Length: 1000\r\n\r\n") as (caller,):
        time.sleep(2.5)
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        content = b"".join(iter(lambda: caller.recv(65536), b""))
        assert content.count(b"HTTP/1.1 ") == 1


def test_a_websocket_that_waits_longer_than_a_request_may(small: Small) -> None:
    client = websocket.create_connection(f"ws://localhost:{small.port}/ws/echo", timeout=10)
    time.sleep(3)
    client.send("still here")
    assert client.recv() == "still here"
    client.close()
    client.shutdown()  # type: ignore[no-untyped-call]  # a part of the library that has no types


def test_an_address_that_is_too_long_is_told_by_the_app(served: Served) -> None:
    answer = served.call("GET", f"/api/sandboxes?a={'x' * 5000}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (414, "application/problem+json")


# From inside a sandbox


@contextlib.contextmanager
def inside(port: int, number: int, content: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """So many connections from inside, on each of which that was sent."""
    argv = [*INSIDE, PYTHON, "-I", "-c", CALL_MANY, str(port), str(number)]
    with subprocess.Popen(argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(content)
            child.stdin.close()
            assert child.stdout is not None
            assert child.stdout.readline() == b"sent\n"
            yield child
        finally:
            child.kill()


@needs_bwrap
@pytest.mark.parametrize("content", [HALF, b""], ids=["half", "nothing"])
def test_who_is_inside_holds_nothing(served: Served, content: bytes) -> None:
    with inside(served.port, MANY, content) as child:
        assert healthz(served.port) < 4
        assert child.stdout is not None
        status, kind, problem = child.stdout.readline().decode().split(" ", 2)
        assert (status, kind) == ("403", "application/problem+json")
        assert "inside a sandbox" in json.loads(problem)["detail"]
        # They hold their connections still.
        assert healthz(served.port) < 1


@needs_bwrap
def test_who_is_inside_is_told_so_whatever_they_send(small: Small) -> None:
    head = b"POST /api/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n"
    # More than fits in between.
    with inside(small.port, 3, head + b"x" * 8_000_000) as child:
        assert child.stdout is not None
        # All of them: one status, one text.
        assert child.stdout.readline().startswith(b"403 application/problem+json {")
