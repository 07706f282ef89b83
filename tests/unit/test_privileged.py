"""Requests to root: what an account sends is taken to be hostile, and nothing of it stays behind."""

from __future__ import annotations

import array
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import host, privileged, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
ME = host.account(os.geteuid())
SENTENCE = SandboxError("What ü.", "Do.")
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def echo(content: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
    return {"content": dict(content), "read": [os.pread(each, 100, 0).decode() for each in descriptors]}


def refuse(content: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
    raise SENTENCE


def fail(content: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
    return content["missing"]


def stay(content: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
    """What a request does to its process, the next one does not see."""
    before = os.getcwd(), os.environ.get("LEFT")
    os.chdir("/proc")
    os.environ["LEFT"] = "1"
    return [*before, os.getpid(), os.getppid(), len(os.listdir("/proc/self/fd"))]


HANDLERS: dict[str, privileged.Handler] = {"echo": echo, "refuse": refuse, "fail": fail, "stay": stay}


def served(function: Callable[[], Any], owner: host.Account = ME) -> Any:
    return privileged.serving(owner, HANDLERS, function)


# Asking.


@pytest.mark.parametrize(
    "content",
    [{}, {"a": [1, None, {"b": "ü\n"}]}, {"long": "x" * 1_000_000}],
    ids=["nothing", "nested", "more-than-a-socket-holds"],
)
def test_an_answer(content: dict[str, Any]) -> None:
    expected = {"content": {**content, "operation": "echo"}, "read": []}
    assert served(lambda: privileged.ask("echo", content)) == expected


def test_several_requests_and_a_value_of_its_own() -> None:
    def work() -> Any:
        return [privileged.ask("echo", {"n": number})["content"]["n"] for number in range(5)]

    assert served(work) == [0, 1, 2, 3, 4]
    assert served(lambda: "x" * 1_000_000) == "x" * 1_000_000


def test_only_a_process_that_is_served_can_ask() -> None:
    assert not privileged.connected()
    assert served(privileged.connected) is True
    assert not privileged.connected()
    with pytest.raises(RuntimeError, match="nobody serves this process"):
        privileged.ask("echo", {})


@pytest.mark.parametrize("count", [1, 2, 250, 251, 253, 254, 500, 900])
def test_descriptors_arrive_in_their_order(tmp_path: Path, count: int) -> None:
    """Also more than the kernel takes at once."""

    def work() -> Any:
        descriptors = []
        for number in range(count):
            descriptors.append(os.open(tmp_path / str(number % 10), os.O_RDWR | os.O_CREAT))
            os.pwrite(descriptors[-1], str(number % 10).encode(), 0)
        return privileged.ask("echo", {}, descriptors)["read"]

    assert served(work) == [str(number % 10) for number in range(count)]


def test_each_request_has_a_process_of_its_own() -> None:
    def work() -> Any:
        with open("/dev/null", "rb") as null:
            return [privileged.ask("stay", {}, [null.fileno()] * 3) for _ in range(3)]

    answers = served(work)
    assert {(cwd, left) for cwd, left, *_ in answers} == {(os.getcwd(), None)}
    assert len({pid for _, _, pid, *_ in answers}) == 3
    assert {parent for *_, parent, _ in answers} == {os.getpid()}
    # The first leaves no descriptor to the last.
    assert len({count for *_, count in answers}) == 1


def test_an_error_is_the_same_on_the_other_side() -> None:
    def work() -> Any:
        with pytest.raises(SandboxError) as caught:
            privileged.ask("refuse", {})
        return [caught.value.what, caught.value.hint]

    assert served(work) == [SENTENCE.what, SENTENCE.hint]
    with pytest.raises(SandboxError) as caught:
        served(lambda: privileged.ask("refuse", {}))
    assert (caught.value.what, caught.value.hint) == (SENTENCE.what, SENTENCE.hint)


@pytest.mark.parametrize("operation", ["fail", "nothing", "__class__", ""])
def test_what_cannot_be_done_is_refused_and_the_next_is_done(operation: str) -> None:
    def work() -> Any:
        with pytest.raises(SandboxError, match="The request to root was refused"):
            privileged.ask(operation, {})
        return privileged.ask("echo", {"a": 1})["content"]["a"]

    assert served(work) == 1


def test_an_error_or_the_end_of_the_function_is_carried() -> None:
    def fails() -> Any:
        raise SENTENCE

    with pytest.raises(SandboxError, match="What"):
        served(fails)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        served(lambda: 1 // 0)
    with pytest.raises(SandboxError, match="ended by itself"):
        served(lambda: os._exit(0))


@as_root
def test_the_function_is_the_accounts_and_the_handlers_are_roots() -> None:
    nobody = host.account("nobody")

    def work() -> Any:
        return [os.geteuid(), os.getgroups(), privileged.ask("who", {})]

    found = privileged.serving(nobody, {"who": lambda *_: os.geteuid()}, work)
    assert found == [nobody.uid, sorted(nobody.groups), 0]


def test_without_handlers_everything_is_refused() -> None:
    def work() -> Any:
        with pytest.raises(SandboxError, match="refused: there is no such operation"):
            privileged.ask("start", {})
        return "refused"

    assert privileged.serving(ME, {}, work) == "refused"


# Hostile peers.


def message(content: bytes, descriptors: int = 0, size: int | None = None) -> bytes:
    return privileged._HEADER.pack(len(content) if size is None else size, descriptors) + content


def passing(channel: socket.socket, count: int, data: bytes = b"+") -> None:
    with open("/dev/null", "rb") as null:
        channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * count))])


def header(content: bytes, count: int, send: int) -> Callable[[socket.socket], None]:
    """A message that says it comes with so many descriptors, and with those that it comes with."""

    def talk(channel: socket.socket) -> None:
        channel.sendall(privileged._HEADER.pack(len(content), count))
        passing(channel, send)
        channel.sendall(content)

    return talk


def cut_after_descriptors(channel: socket.socket) -> None:
    channel.sendall(message(b"", 5, 10))
    passing(channel, 3)


def bytes_(data: bytes) -> Callable[[socket.socket], None]:
    return lambda channel: channel.sendall(data)


PEERS: dict[str, Callable[[socket.socket], None]] = {
    "nothing": bytes_(b""),
    "half-a-header": bytes_(b"\0" * 5),
    "huge": bytes_(message(b"{}", size=(64 << 20) + 1)),
    "as-large-as-can-be": bytes_(b"\xff" * 12),
    "too-many-descriptors": bytes_(message(b"{}", descriptors=1001)),
    "garbage": bytes_(message(b"\xff\xfe{")),
    "no-text": bytes_(message(b"\xff")),
    "unfinished": bytes_(message(b'{"operation": ')),
    "empty": bytes_(message(b"")),
    "list": bytes_(message(b'["echo"]')),
    "text": bytes_(message(b'"echo"')),
    "none": bytes_(message(b"null")),
    "closed-in-the-middle": bytes_(message(b"{}", size=100)),
    "no-descriptors": bytes_(message(b'{"operation": "echo"}', descriptors=3)),
    "fewer-descriptors": header(b'{"operation": "echo"}', 3, 2),
    "descriptors-and-garbage": header(b"no json", 2, 2),
    "descriptors-and-the-end": cut_after_descriptors,
    "descriptors-beside-the-header": lambda channel: passing(channel, 3, message(b"no json")),
}


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.settimeout(PATIENCE)
        yield ours, theirs


@pytest.mark.parametrize("peer", PEERS)
def test_a_hostile_peer_is_left_alone(channel: tuple[socket.socket, socket.socket], peer: str) -> None:
    """Nothing is done for it, nothing of it is kept, and whoever serves it goes on with its own."""
    done: list[Any] = []
    ours, theirs = channel
    PEERS[peer](theirs)
    theirs.shutdown(socket.SHUT_WR)
    before = len(os.listdir("/proc/self/fd"))
    privileged._serve(ours, {"echo": lambda *_: done.append(1)})
    assert len(os.listdir("/proc/self/fd")) == before
    assert done == []


@pytest.mark.parametrize("peer", ["huge", "as-large-as-can-be", "too-many-descriptors"])
def test_what_is_too_long_is_not_waited_for(channel: tuple[socket.socket, socket.socket], peer: str) -> None:
    """The first words of it are enough; nothing of the rest is taken."""
    ours, theirs = channel
    PEERS[peer](theirs)
    with pytest.raises(ValueError, match="too long a message"):
        privileged._receive(ours)


def test_a_peer_that_reads_no_answer_is_left_alone(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    theirs.sendall(message(b'{"operation": "echo"}'))
    theirs.close()
    privileged._serve(ours, HANDLERS)


@pytest.mark.parametrize(
    "operation",
    [None, 1, ["echo"], {"a": 1}, "ECHO", "echo\0"],
    ids=["none", "number", "list", "mapping", "case", "nul"],
)
def test_what_is_no_operation_is_refused(channel: tuple[socket.socket, socket.socket], operation: Any) -> None:
    ours, theirs = channel
    theirs.sendall(message(json.dumps({"operation": operation}).encode()))
    theirs.shutdown(socket.SHUT_WR)
    privileged._serve(ours, HANDLERS)
    received = privileged._receive(theirs)
    assert received is not None
    assert received[0]["what"].startswith("The request to root was refused: there is no such operation")


def test_more_descriptors_than_said_are_closed(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    header(b'{"operation": "echo"}', 1, 50)(theirs)
    theirs.shutdown(socket.SHUT_WR)
    privileged._serve(ours, HANDLERS)


def test_what_arrives_is_not_inherited(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    header(b"{}", 2, 2)(theirs)
    received = privileged._receive(ours)
    assert received is not None
    assert [os.get_inheritable(each) for each in received[1]] == [False, False]
    for each in received[1]:
        os.close(each)


def test_a_slow_peer_is_waited_for(channel: tuple[socket.socket, socket.socket]) -> None:
    """What comes byte by byte is one message."""
    ours, theirs = channel

    def talk() -> None:
        for byte in message(b'{"operation": "echo"}'):
            theirs.sendall(bytes([byte]))
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=talk)
    thread.start()
    received = privileged._receive(ours)
    thread.join()
    assert received == ({"operation": "echo"}, [])


# By sudo.


@pytest.fixture
def sudo(tmp_path: Path) -> Callable[[str], str]:
    """Makes a sudo of a few lines of Python, which writes down its arguments and what it reads."""

    def make(body: str) -> str:
        program = tmp_path / "sudo"
        seen = f"json.dump([sys.argv[1:], sys.stdin.readline(), os.getcwd()], open({str(tmp_path / 'seen')!r}, 'w'))"
        program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{seen}\n{body}\n")
        program.chmod(0o755)
        return str(program)

    return make


def seen(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "seen").read_text())


def asked(sudo: str, seconds: float | None = PATIENCE) -> Any:
    return privileged.by_sudo(sudo, "exists", "/state/sandboxes/demo", {"path": "/ü", "key": "secret"}, seconds)


@pytest.mark.parametrize("value", [None, True, 0, "ü", {"what": "a"}, [1, {"hint": "b"}]])
def test_the_answer_of_sudo(sudo: Callable[[str], str], tmp_path: Path, value: Any) -> None:
    assert asked(sudo(f"print(json.dumps({{'value': {value!r}}}))")) == value
    argv, read, cwd = seen(tmp_path)
    assert argv == ["-n", privileged.HELPER, "exists", "/state", "demo"]
    assert json.loads(read) == {"path": "/ü", "key": "secret"}
    assert cwd == "/"


def test_an_error_by_sudo_is_the_same_here(sudo: Callable[[str], str]) -> None:
    with pytest.raises(SandboxError) as caught:
        asked(sudo(f"print(json.dumps({{'what': {SENTENCE.what!r}, 'hint': {SENTENCE.hint!r}}}))"))
    assert (caught.value.what, caught.value.hint) == (SENTENCE.what, SENTENCE.hint)


@pytest.mark.parametrize(
    "body, words",
    [
        pytest.param("sys.exit('sudo: a password is required')", "sudo: a password is required.", id="refused"),
        pytest.param("sys.stderr.write('one\\ntwo\\n'); sys.exit(1)", "two.", id="the-last-line"),
        pytest.param("sys.exit(3)", "it ended with 3.", id="without-a-word"),
        pytest.param("os.kill(os.getpid(), 9)", "it ended with -9.", id="killed"),
        pytest.param("print('garbage')", "it ended with 0.", id="garbage"),
        pytest.param("print('[1]')", "it ended with 0.", id="list"),
        pytest.param("print('null')", "it ended with 0.", id="none"),
        pytest.param("print('{}')", "it ended with 0.", id="no-value"),
        pytest.param('print(\'{"what": "a"}\')', "it ended with 0.", id="no-hint"),
        pytest.param("os.write(1, b'\\xff'); os.write(2, b'\\xff')", "\ufffd.", id="no-text"),
    ],
)
def test_a_sudo_that_does_not_answer_is_told(sudo: Callable[[str], str], body: str, words: str) -> None:
    with pytest.raises(SandboxError) as caught:
        asked(sudo(body))
    assert caught.value.what == f"sudo did not run {privileged.HELPER}: {words}"
    assert "the role sandbox installs both" in caught.value.hint


def test_a_sudo_that_hangs_is_told(sudo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileged, "_HELPER_SECONDS", 0.3)
    with pytest.raises(SandboxError, match="did not answer"):
        asked(sudo("time.sleep(60)"), 0.2)


def test_what_has_no_limit_is_waited_for(sudo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileged, "_HELPER_SECONDS", 0.0)
    assert asked(sudo("time.sleep(0.2); print(json.dumps({'value': 1}))"), None) == 1


def test_nothing_of_a_request_is_in_an_argv(sudo: Callable[[str], str], tmp_path: Path) -> None:
    """Whoever lists processes sees the operation and the sandbox, no content."""
    asked(sudo("print(json.dumps({'value': 1}))"))
    argv, read, _ = seen(tmp_path)
    assert "secret" in read
    assert not any("secret" in word for word in argv)


# Whether standard input has come to its end, within that time.
ENDED = "select.select([0], [], [], {}) != ([], [], []) and os.read(0, 1) == b''"


def test_the_request_is_a_line_and_stays_open_until_the_answer(sudo: Callable[[str], str]) -> None:
    """By its end the helper knows that nobody waits any longer."""
    assert asked(sudo(f"import select; print(json.dumps({{'value': {ENDED.format(0.3)}}}))")) is False


def test_a_request_ends_with_whoever_asks(sudo: Callable[[str], str], tmp_path: Path) -> None:
    """However that ends."""
    program = sudo(f"import select; open({str(tmp_path / 'ended')!r}, 'w').write(str({ENDED.format(PATIENCE)}))")
    asking = os.fork()
    if asking == 0:
        try:
            asked(program, None)
        finally:
            os._exit(0)
    procs.until((tmp_path / "seen").exists, PATIENCE)
    os.kill(asking, 9)
    os.waitpid(asking, 0)
    assert procs.until(lambda: (tmp_path / "ended").exists() and (tmp_path / "ended").read_text(), PATIENCE) == "True"


def test_a_sudo_that_reads_nothing_is_told_what_it_says(tmp_path: Path) -> None:
    """Also where the request is more than a pipe holds."""
    program = tmp_path / "sudo"
    program.write_text("#!/bin/sh\necho no rule >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(SandboxError, match="no rule"):
        privileged.by_sudo(str(program), "execute", "/state/sandboxes/demo", {"input": "x" * 1_000_000}, PATIENCE)


def test_a_long_request_arrives(sudo: Callable[[str], str], tmp_path: Path) -> None:
    program = sudo("print(json.dumps({'value': 1}))")
    privileged.by_sudo(program, "execute", "/state/sandboxes/demo", {"input": "x\n" * 500_000}, PATIENCE)
    assert json.loads(seen(tmp_path)[1]) == {"input": "x\n" * 500_000}
