"""Terminals and logs over WebSockets, with sandboxes that really run and clients that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.manager.served import Served, _below
from tests.manager.test_api import until

# Says how large its terminal is whenever a line is typed, and what was typed.
ECHO = ["sh", "-c", 'stty -echo; while read line; do echo "got <$line> $(stty size)"; done']


@contextlib.contextmanager
def opened(served: Served, path: str, **options: Any) -> Iterator[websocket.WebSocket]:
    client = websocket.create_connection(f"ws://localhost:{served.port}/ws{path}", timeout=10, **options)
    try:
        yield client
    finally:
        client.close()
        # Where the other side has closed it first, that leaves the socket open.
        drop(client)


def drop(client: websocket.WebSocket) -> None:
    """Close the connection without a word, as a browser that is killed."""
    client.shutdown()  # type: ignore[no-untyped-call]  # a part of the library that has no types


class Page:
    """What a page has been sent: bytes of the terminal, and JSON about it."""

    def __init__(self, client: websocket.WebSocket) -> None:
        self.client = client
        self.content = b""
        self.told: list[dict[str, Any]] = []
        self.closed = False

    def take(self, seconds: float = 0.2) -> None:
        """Whatever comes within that time."""
        self.client.settimeout(seconds)
        try:
            code, content = self.client.recv_data()
        except websocket.WebSocketTimeoutException:
            return
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            self.closed = True
            return
        if code == websocket.ABNF.OPCODE_BINARY:
            self.content += content
        elif code == websocket.ABNF.OPCODE_TEXT:
            self.told.append(json.loads(content))
        else:
            self.closed = True

    def until(self, question: Any, seconds: float = 15) -> Any:
        end = time.monotonic() + seconds
        while not (value := question()) and time.monotonic() < end and not self.closed:
            self.take()
        return value

    def shows(self, text: str) -> bool:
        return bool(self.until(lambda: text.encode() in self.content))

    def type(self, text: str) -> None:
        self.client.send_binary(text.encode())


def worker(served: Served) -> int:
    """The process that answers."""
    assert served.process is not None
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return int(children[0])


def descriptors(served: Served) -> int:
    return len(os.listdir(f"/proc/{worker(served)}/fd"))


def clients(served: Served) -> list[int]:
    """The clients of sessions that were started for pages."""
    assert served.process is not None
    found = []
    for pid in _below(served.process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"tmux") and b"attach" in words:
                found.append(pid)
    return found


def screen(served: Served) -> str:
    return served.call("GET", "/api/sandboxes/echo/screen").text


def test_a_terminal_shows_and_takes_nothing(served: Served) -> None:
    served.make("echo", agent=ECHO)
    with opened(served, "/sandboxes/echo/terminal") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        # The session's own size, and the line that tmux shows below it.
        assert page.told[0] == {"size": [160, 49]}
        page.type("from the page\r")
        client.send(json.dumps({"resize": [50, 20]}))
        page.type("\x02d\x03")
        # Typed by another door, and so after it: had the page's words arrived, they would be there, too.
        served.engine.converse("echo", "by another door", ["Enter"], _no_wait())
        assert page.shows("got <by another door> 48 160")
        assert b"from the page" not in page.content
    assert "from the page" not in screen(served)
    assert "got <by another door> 48 160" in screen(served)
    assert served.call("GET", "/api/sandboxes/echo").json()["status"] == "running"


def _no_wait() -> Any:
    from claude_sandbox.inside import Wait

    return Wait()


def test_a_terminal_that_writes(served: Served) -> None:
    served.make("echo", agent=ECHO)
    with opened(served, "/sandboxes/echo/terminal?write=1&columns=90&rows=31") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        assert page.told[0] == {"size": [90, 31]}
        page.type("ünï <b>\r")
        assert page.shows("got <ünï <b>> 30 90")
        client.send(json.dumps({"resize": [70, 25]}))
        assert page.until(lambda: {"size": [70, 25]} in page.told)
        assert page.until(lambda: "24 70" in typed(page, served, "again\r"))
        long = "x" * 1000
        page.type(f"{long}\r")
        assert page.until(lambda: long in screen(served).replace("\n", ""))


def typed(page: Page, served: Served, text: str) -> str:
    """The screen after that was typed."""
    page.type(text)
    return screen(served)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "null",
        '{"resize": null}',
        '{"resize": ["a", {}]}',
        '{"resize": [1e999, 2]}',
        '{"resize": [NaN, 2]}',
        '{"resize": [' + "9" * 5000 + ", 1]}",
        "[" * 60_000,
    ],
    ids=lambda text: text[:24],
)
def test_words_that_a_page_does_not_say(served: Served, message: str) -> None:
    served.make("echo", agent=ECHO)
    before = served.log.read_text().count("Traceback")
    with opened(served, "/sandboxes/echo/terminal?write=1") as client:
        page = Page(client)
        client.send(message)
        page.type("on\r")
        assert page.shows("got <on>")
    assert served.log.read_text().count("Traceback") == before


@pytest.mark.parametrize("size, wanted", [((1, 1), [2, 2]), ((10**9, 10**9), [1000, 1000]), ((-5, 20), [2, 20])])
def test_sizes_have_limits(served: Served, size: tuple[int, int], wanted: list[int]) -> None:
    served.make("echo", agent=ECHO)
    with opened(served, "/sandboxes/echo/terminal?write=1&columns=40&rows=20") as client:
        page = Page(client)
        client.send(json.dumps({"resize": size}))
        assert page.until(lambda: {"size": wanted} in page.told)
    assert served.call("GET", "/api/sandboxes/echo").json()["status"] == "running"


@pytest.mark.parametrize("kind", ["terminal", "logs"])
def test_no_such_sandbox(served: Served, kind: str) -> None:
    for ref in ("none", "%2e%2e", "%00", "a%0ab", "x" * 900):
        with opened(served, f"/sandboxes/{ref}/{kind}") as client:
            page = Page(client)
            assert page.until(lambda page=page: page.told)
            assert "There is no sandbox" in page.told[0]["ended"]
            assert page.until(lambda page=page: page.closed)


def test_a_sandbox_that_does_not_run_has_no_terminal(served: Served) -> None:
    served.make("echo", agent=ECHO)
    served.call("POST", "/api/sandboxes/echo/stop")
    with opened(served, "/sandboxes/echo/terminal") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        assert page.told == [{"ended": "Sandbox echo is stopped: it has no terminal."}]
    with opened(served, "/sandboxes/echo/logs") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        assert "lines" in page.told[0]


@pytest.mark.parametrize("action", ["stop", "delete"])
def test_the_sandbox_ends(served: Served, action: str) -> None:
    served.make("echo", agent=ECHO)
    with opened(served, "/sandboxes/echo/terminal") as terminal, opened(served, "/sandboxes/echo/logs") as logs:
        page, log = Page(terminal), Page(logs)
        assert page.until(lambda: page.told)
        assert log.until(lambda: log.told)
        if action == "stop":
            served.call("POST", "/api/sandboxes/echo/stop")
        else:
            served.call("DELETE", "/api/sandboxes/echo")
        assert page.until(lambda: "ended" in page.told[-1])
        assert page.until(lambda: page.closed)
        if action == "delete":
            assert log.until(lambda: "ended" in log.told[-1])
    assert until(lambda: not clients(served))


def test_a_log_and_what_comes(served: Served) -> None:
    served.make("echo", agent=ECHO)
    served.engine.converse("echo", "one\x1b[31m", ["Enter"], _no_wait())
    assert until(lambda: served.call("GET", "/api/sandboxes/echo/logs").json()["lines"])
    with opened(served, "/sandboxes/echo/logs") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        assert page.told[0]["lines"][0].startswith("got <one")
        assert len(page.told[0]["lines"]) == 1
        client.send("whatever")
        client.send_binary(b"whatever\r")
        served.engine.converse("echo", "two", ["Enter"], _no_wait())
        served.engine.converse("echo", "three", ["Enter"], _no_wait())
        assert page.until(lambda: sum(len(each["lines"]) for each in page.told) >= 3)
        lines = [line for each in page.told for line in each["lines"]]
        assert lines[1:] == ["got <two> 48 160", "got <three> 48 160"]
        assert "\x1b" not in str(page.told)


def test_nothing_is_left_when_pages_are_gone(served: Served) -> None:
    served.make("echo", agent=ECHO)
    paths = ["/sandboxes/echo/terminal", "/sandboxes/echo/terminal?write=1", "/sandboxes/echo/logs"]
    for path in paths:
        with opened(served, path) as client:
            assert Page(client).until(client.recv)
    assert until(lambda: not clients(served))
    before, crashed = descriptors(served), served.log.read_text().count("Traceback")
    for number in range(21):
        client = websocket.create_connection(f"ws://localhost:{served.port}/ws{paths[number % 3]}", timeout=10)
        assert client.recv()
        assert number % 3 == 2 or until(lambda: clients(served))
        if number % 2:
            client.close()
        drop(client)
    assert until(lambda: not clients(served))
    assert until(lambda: descriptors(served) <= before), (before, descriptors(served))
    assert served.log.read_text().count("Traceback") == crashed


def test_a_page_that_does_not_read(served: Served) -> None:
    """A terminal that writes without end, and a page that takes nothing of it: nobody else waits for that."""
    served.make("echo", agent=["sh", "-c", "while :; do seq 100000; done"])
    client = websocket.create_connection(f"ws://localhost:{served.port}/ws/sandboxes/echo/terminal", timeout=10)
    assert client.recv()
    for _attempt in range(20):
        assert served.call("GET", "/api/sandboxes/echo").status_code == 200
        assert served.call("GET", "/api/sandboxes/echo/screen").status_code == 200
    drop(client)
    assert until(lambda: not clients(served))


def test_no_more_than_there_are_places(served: Served) -> None:
    served.make("echo", agent=ECHO)
    with contextlib.ExitStack() as held:
        for _number in range(64):
            assert held.enter_context(opened(served, "/sandboxes/echo/logs")).recv()
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            held.enter_context(opened(served, "/sandboxes/echo/logs"))
        assert caught.value.status_code == 503
        # There is room for everybody else.
        assert served.call("GET", "/api/sandboxes/echo").status_code == 200
    assert until(lambda: _opens(served))


def _opens(served: Served) -> bool:
    with contextlib.suppress(websocket.WebSocketException), opened(served, "/sandboxes/echo/logs") as client:
        return bool(client.recv())
    return False


def test_a_message_that_is_too_long(served: Served) -> None:
    served.make("echo", agent=ECHO)
    with opened(served, "/sandboxes/echo/terminal?write=1") as client:
        page = Page(client)
        assert page.until(lambda: page.told)
        with contextlib.suppress(ConnectionError, websocket.WebSocketException):
            page.type("x" * (1 << 20))
        assert page.until(lambda: page.closed)
    assert until(lambda: not clients(served))
    assert served.call("GET", "/api/sandboxes/echo").json()["status"] == "running"


def is_told(client: websocket.WebSocket) -> bool:
    """Whether the connection was closed with a word."""
    with contextlib.suppress(websocket.WebSocketException, ConnectionError):
        while client.recv_data(control_frame=True)[0] != websocket.ABNF.OPCODE_CLOSE:
            pass
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_manager_ends_with_pages_open(served: Served, number: int) -> None:
    made = served.make("echo", agent=ECHO)
    with contextlib.ExitStack() as held:
        paths = ("/sandboxes/echo/terminal", "/sandboxes/echo/terminal?write=1", "/sandboxes/echo/logs") * 3
        pages = [held.enter_context(opened(served, path)) for path in paths]
        assert all(page.recv() for page in pages)
        assert until(lambda: len(clients(served)) == 6)
        mine = clients(served)
        begun = time.monotonic()
        code = served.end(number)
        took = time.monotonic() - begun
        assert code == 0, served.log.read_text()[-2000:]
        assert took < 5
        # They are told of it, unless it is to end at once.
        assert number == signal.SIGINT or all(is_told(page) for page in pages)
        assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))
    served.start()
    assert served.call("GET", "/api/sandboxes/echo").json() == made


def test_the_manager_ends_with_a_page_that_does_not_read(served: Served) -> None:
    served.make("echo", agent=["sh", "-c", "while :; do seq 100000; done"])
    little = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    with opened(served, "/sandboxes/echo/terminal", sockopt=little) as client:
        assert client.recv()
        # Until no more can be sent.
        time.sleep(4)
        begun = time.monotonic()
        assert served.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 5
    served.start()
    assert served.call("GET", "/api/sandboxes/echo").json()["status"] == "running"
