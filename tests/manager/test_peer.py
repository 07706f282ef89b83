"""Who is at the other end of a connection, with real servers, accounts and sandboxes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from manager_app import peer
from manager_app.peer import Kind, Peer, Peers

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-these-tests-0123456789"
# Nobody's, so that no other process of this machine is taken for one of the test's.
ACCOUNT, OTHER = 54321, 54322
CONTAINERS_OWN = 0x80000 + 77
INSIDE = ("bwrap", "--unshare-pid", "--unshare-user", "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc")
PYTHON = "/usr/bin/python3"  # that of these tests may lie where other accounts do not get
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")

SERVER = """
import encodings.idna, sys  # a codec is loaded at its first use, perhaps from where the account may not read
from flask import Flask, g
from gunicorn.app.base import BaseApplication
from manager_app import config, login, peer, problems, security

descriptor, token, uid = int(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
looks, done = [], []
real = peer.look
peer.look = lambda connection: looks.append(1) or real(connection)
app = Flask("manager_app")
app.config["PROPAGATE_EXCEPTIONS"] = True
hosts = frozenset(["localhost", "127.0.0.1", "[::1]"])
security.protect(app, config.Config("127.0.0.1", 3000, "/nowhere", "/nowhere", token, hosts))
app.register_blueprint(login.blueprint)
app.add_url_rule("/healthz", "health", lambda: "well")
app.add_url_rule("/api/who", "who", lambda: f"{g.peer.kind.value} {g.peer.uid} {len(looks)}")
app.add_url_rule("/api/do", "do", lambda: done.append(1) or "done", methods=["POST"])
app.add_url_rule("/api/done", "done", lambda: str(len(done)))

class Server(BaseApplication):
    def load_config(self):
        settings = {"bind": [f"fd://{descriptor}"], "worker_class": "gthread", "threads": 4, "user": uid, "group": uid,
                    "loglevel": "critical", "control_socket_disable": True}
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return app

Server().run()
"""
# Their arguments: the port, then headers. They print the status and the body.
CALL = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
connection.request("GET", "/api/who", headers=dict(word.split("=", 1) for word in sys.argv[2:]))
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""
# The socket is on its way from this process to itself while the server looks: no process has a descriptor of it.
CALL_HIDDEN = """
import array, socket, sys, time
from http.client import HTTPResponse
there, back = socket.socketpair()
caller = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
lines = [word.replace("=", ": ", 1) for word in sys.argv[2:]]
head = "\\r\\n".join(["GET /api/who HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
caller.sendall(head[:-2])
there.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [caller.fileno()]))])
# The last line is sent by a descriptor that is gone before it can be looked at.
late = socket.socket(fileno=caller.detach())
late.sendall(head[-2:]); late.close()
time.sleep(1.5)
_, descriptors, _, _ = socket.recv_fds(back, 1, 1)
again = socket.socket(fileno=descriptors[0])
again.settimeout(20)
answer = HTTPResponse(again)
answer.begin()
print(answer.status, answer.read().decode())
"""
UNTRACED = "import ctypes; assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n"


@dataclasses.dataclass(frozen=True)
class Served:
    """A manager's defence before a trivial app."""

    port: int

    def call(
        self, *headers: str, code: str = CALL, within: Sequence[str] = (), uid: int | None = None
    ) -> tuple[int, str]:
        """The status and the body that a client gets which runs within a program and as an account."""
        argv = [*within, PYTHON, "-I", "-c", code, str(self.port), *headers]
        who = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, cwd="/", **who)  # type: ignore[call-overload]
        status, _, body = done.stdout.strip().partition(" ")
        return int(status), body


@contextlib.contextmanager
def serving(token: str = "", uid: int | None = None) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/plugins/module_utils"}
        argv = [sys.executable, "-c", SERVER, str(listener.fileno()), token, str(os.geteuid() if uid is None else uid)]
        server = subprocess.Popen(argv, pass_fds=[listener.fileno()], env=environ, cwd="/")
        try:
            yield Served(listener.getsockname()[1])
        finally:
            server.terminate()
            server.wait(20)


@contextlib.contextmanager
def neighbour(uid: int) -> Iterator[None]:
    """A sandbox of the account's, in which something runs."""
    argv = [*INSIDE, "sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd="/", user=uid, group=uid, extra_groups=[]) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            yield
        finally:
            child.kill()
            # What is inside is killed by the kernel, a little later.
            while any(uid in each.uids and each.depth > 1 for each in peer._everyone()):
                time.sleep(0.01)


@pytest.fixture(scope="module")
def open_server() -> Iterator[Served]:
    """One without a token."""
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def token_server() -> Iterator[Served]:
    with serving(TOKEN) as served:
        yield served


@pytest.fixture(scope="module")
def account_server() -> Iterator[Served]:
    """One without a token that an unprivileged account runs."""
    with serving(uid=ACCOUNT) as served:
        yield served


BEARER = f"Authorization=Bearer {TOKEN}"
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def test_a_program_of_the_same_account_is_answered(open_server: Served) -> None:
    status, body = open_server.call()
    assert (status, body.split()[:2]) == (200, ["outside", str(os.geteuid())])


@needs_bwrap
def test_a_program_in_a_sandbox_is_refused(open_server: Served, token_server: Served) -> None:
    status, body = open_server.call(within=INSIDE)
    assert status == 403
    assert "inside a sandbox" in body
    # Not even with the token, which it may have found.
    assert token_server.call(BEARER)[0] == 200
    assert token_server.call(BEARER, within=INSIDE)[0] == 403
    assert token_server.call(within=INSIDE)[0] == 403


@needs_bwrap
def test_a_sandbox_in_a_sandbox_and_other_addresses_are_no_way_round(open_server: Served) -> None:
    assert (
        open_server.call(within=(*INSIDE, "bwrap", "--unshare-pid", "--unshare-user", "--dev-bind", "/", "/"))[0] == 403
    )
    for address in ("localhost", "127.0.0.2", *own_addresses()):
        code = CALL.replace("timeout=20", f"timeout=20, source_address=({address!r}, 0)")
        assert open_server.call(code=code)[0] == 200, address
        assert open_server.call(code=code, within=INSIDE)[0] == 403, address


def own_addresses() -> list[str]:
    """An address of this machine's that is not its loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return [probe.getsockname()[0]]
    return []


@needs_bwrap
def test_what_is_done_without_waiting_for_the_answer_is_not_done_from_inside(open_server: Served) -> None:
    """A socket that was closed belongs to nobody, which the kernel's table shows as root."""
    blind = (
        "import socket, sys\n"
        "for _ in range(10):\n"
        "    caller = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "    caller.sendall(b'POST /api/do HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
        "    caller.close()\n"
        "print(0)"
    )
    count = CALL.replace("/api/who", "/api/done")
    before = open_server.call(code=count)[1]
    open_server.call(code=blind, within=INSIDE)
    assert open_server.call(code=count)[1] == before
    waits = CALL.replace('"GET", "/api/who"', '"POST", "/api/do"')
    assert open_server.call(code=waits) == (200, "done")
    assert open_server.call(code=count)[1] != before


@needs_bwrap
def test_a_socket_that_no_process_holds_is_doubted(open_server: Served) -> None:
    status, body = open_server.call(code=CALL_HIDDEN, within=INSIDE)
    assert status == 403
    assert "cannot be told" in body


@as_root
@needs_bwrap
def test_a_socket_that_no_process_holds_is_doubted_only_beside_a_sandbox(account_server: Served) -> None:
    assert account_server.call(code=CALL_HIDDEN, uid=ACCOUNT)[1].split()[:2] == ["unseen", str(ACCOUNT)]
    with neighbour(ACCOUNT):
        assert account_server.call(code=CALL_HIDDEN, uid=ACCOUNT)[0] == 403


@as_root
@needs_bwrap
def test_a_program_that_cannot_be_looked_into_is_doubted_only_beside_a_sandbox(account_server: Served) -> None:
    """As the one of sshd that passes an account's connections on."""
    assert account_server.call(code=UNTRACED + CALL, uid=ACCOUNT)[1].split()[0] == "unseen"
    with neighbour(OTHER):
        assert account_server.call(code=UNTRACED + CALL, uid=ACCOUNT)[1].split()[0] == "unseen"
    with neighbour(ACCOUNT):
        status, body = account_server.call(code=UNTRACED + CALL, uid=ACCOUNT)
        assert status == 403
        assert "MANAGER_TOKEN_FILE" in body
        # One that can be looked into is beyond doubt.
        assert account_server.call(uid=ACCOUNT)[1].split()[0] == "outside"


@as_root
@needs_bwrap
def test_with_a_token_a_program_in_doubt_needs_no_more_than_that() -> None:
    with serving(TOKEN, ACCOUNT) as served, neighbour(ACCOUNT):
        assert served.call(BEARER, code=UNTRACED + CALL, uid=ACCOUNT)[1].split()[0] == "doubtful"
        assert served.call(code=UNTRACED + CALL, uid=ACCOUNT)[0] == 401


@as_root
@needs_bwrap
def test_a_program_in_a_sandbox_of_an_unprivileged_account_is_refused(account_server: Served) -> None:
    assert account_server.call(uid=ACCOUNT)[0] == 200
    assert account_server.call(uid=ACCOUNT, within=INSIDE)[0] == 403
    assert account_server.call(uid=ACCOUNT, within=INSIDE, code=UNTRACED + CALL)[0] == 403


@as_root
def test_another_account_needs_a_token(open_server: Served, account_server: Served, token_server: Served) -> None:
    for served in (open_server, account_server):
        status, body = served.call(uid=OTHER)
        assert status == 403
        assert f"Account {OTHER}" in body
        assert "MANAGER_TOKEN_FILE" in body
    assert token_server.call(uid=OTHER)[0] == 401
    assert token_server.call(BEARER, uid=OTHER)[0] == 200
    # Whether it is well, all may know.
    assert open_server.call(code=CALL.replace("/api/who", "/healthz"), uid=OTHER) == (200, "well")


@as_root
def test_an_id_of_containers_is_inside(token_server: Served) -> None:
    assert token_server.call(BEARER, uid=CONTAINERS_OWN)[0] == 403


def test_a_connection_is_looked_at_once(open_server: Served) -> None:
    twice = CALL.replace(
        "print", "answer.read()\nconnection.request('GET', '/api/who')\nanswer=connection.getresponse()\nprint"
    )
    looks = int(open_server.call()[1].split()[2])
    assert int(open_server.call(code=twice)[1].split()[2]) == looks + 1
    assert int(open_server.call()[1].split()[2]) == looks + 2


# Within this process


@dataclasses.dataclass
class Pair:
    """Both ends of a connection."""

    client: socket.socket
    accepted: socket.socket


@contextlib.contextmanager
def connected(family: int = socket.AF_INET, at: str = "127.0.0.1", to: str | None = None) -> Iterator[Pair]:
    """A connection to a listener of that family; the client is of the other where its address is."""
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((at, 0))
        listener.listen()
        client = socket.socket(socket.AF_INET6 if ":" in (to or at) else socket.AF_INET)
        client.connect((to or at, listener.getsockname()[1]))
        accepted = listener.accept()[0]
        with client, accepted:
            yield Pair(client, accepted)


FAMILIES = pytest.mark.parametrize(
    "family,at,to",
    [
        (socket.AF_INET, "127.0.0.1", None),
        (socket.AF_INET6, "::1", None),
        (socket.AF_INET6, "::", "127.0.0.1"),
        (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
    ],
    ids=["4", "6", "4-to-6", "mapped-to-6", "mapped-to-4"],
)


def _no_table(*_arguments: object) -> Iterator[peer._Row]:
    raise AssertionError("all connections were read")


def _no_netlink(*_arguments: object) -> bytes:
    raise PermissionError(1, "as a filter of system calls says")


@pytest.fixture(params=["by asking", "by the table"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the socket at the other end is found."""
    if request.param == "by asking":
        monkeypatch.setattr(peer, "_rows", _no_table)
    else:
        monkeypatch.setattr(peer, "_question", _no_netlink)


@FAMILIES
@pytest.mark.usefixtures("way")
def test_addresses_of_both_families_are_found(family: int, at: str, to: str | None) -> None:
    with connected(family, at, to) as pair:
        assert peer.look(pair.accepted) == Peer(Kind.OUTSIDE, os.geteuid())


@FAMILIES
@pytest.mark.usefixtures("way")
def test_whoever_closed_the_connection_is_gone(family: int, at: str, to: str | None) -> None:
    with connected(family, at, to) as pair:
        pair.client.shutdown(socket.SHUT_WR)
        assert peer.look(pair.accepted).kind is Kind.OUTSIDE  # it still waits for the answer
        pair.client.close()
        assert peer.look(pair.accepted) == Peer(Kind.GONE)


@as_root
@pytest.mark.usefixtures("way")
def test_a_socket_of_another_account_is_told() -> None:
    code = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = [PYTHON, "-I", "-c", code, str(listener.getsockname()[1])]
        with subprocess.Popen(argv, cwd="/", user=OTHER, group=OTHER, extra_groups=[]) as caller:
            try:
                with listener.accept()[0] as accepted:
                    assert peer.look(accepted) == Peer(Kind.OUTSIDE, OTHER)
            finally:
                caller.kill()


@pytest.mark.usefixtures("way")
def test_a_socket_that_is_bound_to_an_interface_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            assert peer.look(accepted) == Peer(Kind.OUTSIDE, os.geteuid())


@pytest.mark.usefixtures("way")
def test_what_is_left_of_a_socket_is_not_taken_for_the_caller() -> None:
    with connected() as pair:
        client, server = peer._end(pair.client.getsockname()), peer._end(pair.client.getpeername())
        assert peer._row(client, server) == peer._Row(os.geteuid(), os.fstat(pair.client.fileno()).st_ino)
        pair.client.close()
        # Both ways: our own end is here still, and no process has the other.
        assert peer._row(server, client) == peer._Row(os.geteuid(), os.fstat(pair.accepted.fileno()).st_ino)
        assert peer._row(client, server) is None


def test_a_listener_is_not_taken_for_the_caller() -> None:
    """The kernel answers with it where nobody else has that address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, connected() as pair:
        assert peer._asked(peer._end(listener.getsockname()), peer._end(pair.client.getsockname())) is None


def test_the_table_is_read_where_nobody_answers_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's answer is the same where it has no module for that."""
    monkeypatch.setattr(peer, "_answered", lambda _message, _local, _remote: None)
    with connected() as pair:
        assert peer.look(pair.accepted) == Peer(Kind.OUTSIDE, os.geteuid())


@pytest.mark.parametrize("torn", [[], [peer._Row(1, 2), peer._Row(3, 4)]], ids=["missed", "twice"])
def test_a_table_that_changed_while_it_was_read_is_read_again(
    monkeypatch: pytest.MonkeyPatch, torn: list[peer._Row]
) -> None:
    monkeypatch.setattr(peer, "_question", _no_netlink)
    monkeypatch.setattr(peer, "_places", lambda local, remote: [("a table", peer._written(local, remote))])
    with connected() as pair:
        caller = peer._Row(os.geteuid(), os.fstat(pair.client.fileno()).st_ino)
        reads = iter([torn, [caller], []])
        monkeypatch.setattr(peer, "_rows", lambda _path, _ends: next(reads))
        assert peer.look(pair.accepted) == Peer(Kind.OUTSIDE, os.geteuid())


def test_whoever_goes_while_being_looked_for_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as pair:

        def closes(_inode: int, _uid: int) -> Kind:
            pair.client.close()
            return Kind.UNSEEN

        monkeypatch.setattr(peer, "_kind", closes)
        assert peer.look(pair.accepted).kind is Kind.GONE


def test_what_only_a_program_holds_that_takes_anything_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent can send its socket to its X server, which is outside."""
    with connected() as pair, subprocess.Popen(["sleep", "60"], pass_fds=[pair.client.fileno()]) as holder:
        try:
            pair.client.close()
            assert peer.look(pair.accepted).kind is Kind.OUTSIDE
            program = os.path.basename(os.path.realpath(f"/proc/{holder.pid}/exe"))
            # Also when its sandbox has ended since.
            outside = [each for each in peer._everyone() if each.depth == 1]
            monkeypatch.setattr(peer, "_everyone", lambda: outside)
            monkeypatch.setattr(peer, "_RECEIVERS", frozenset([program]))
            assert peer.look(pair.accepted).kind is Kind.DOUBTFUL
        finally:
            holder.kill()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_an_x_server_keeps_what_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes have theirs outside, so without more it would look as if it called."""
    number, told = os.pipe()
    argv = ["Xvfb", "-displayfd", str(told), "-nolisten", "tcp"]
    with connected() as pair, subprocess.Popen(argv, pass_fds=[told], stderr=subprocess.DEVNULL) as server:
        try:
            with socket.socket(socket.AF_UNIX) as display:
                display.connect(f"/tmp/.X11-unix/X{os.read(number, 10).decode().strip()}")
                # The beginning of a greeting, which is never finished.
                socket.send_fds(display, [b"l\0"], [pair.client.fileno()])
                pair.client.close()
                assert eventually(lambda: peer.look(pair.accepted).kind is Kind.DOUBTFUL)
                monkeypatch.setattr(peer, "_RECEIVERS", frozenset())
                assert eventually(lambda: peer.look(pair.accepted).kind is Kind.OUTSIDE)
        finally:
            server.terminate()
            os.close(number)
            os.close(told)


def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.05)
    return False


@needs_bwrap
def test_what_is_held_inside_as_well_is_inside() -> None:
    with connected() as pair:
        argv = [*INSIDE, "sh", "-c", "echo up; exec sleep 60"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=[pair.client.fileno()]) as child:
            try:
                assert child.stdout is not None
                child.stdout.readline()
                assert peer.look(pair.accepted).kind is Kind.INSIDE
            finally:
                child.kill()


def test_a_connection_that_comes_after_another_has_not_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same descriptor, inode or port as it may be."""
    peers = Peers()
    monkeypatch.setattr(peer, "look", lambda _connection: Peer(Kind.OUTSIDE, 1))
    with connected() as pair:
        first = pair.accepted.fileno()
        assert peers.of(pair.accepted).kind is Kind.OUTSIDE
        monkeypatch.setattr(peer, "look", lambda _connection: Peer(Kind.INSIDE, 2))
        assert peers.of(pair.accepted).kind is Kind.OUTSIDE
    with connected() as pair:
        assert pair.accepted.fileno() == first
        assert peers.of(pair.accepted).kind is Kind.INSIDE


def test_only_so_many_verdicts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "look", lambda _connection: Peer(Kind.OUTSIDE))
    monkeypatch.setattr(peer, "_REMEMBERED", 3)
    peers = Peers()
    for _ in range(5):
        with connected() as pair:
            peers.of(pair.accepted)
    assert len(peers._known) == 3


def test_what_is_no_connection_over_tcp_is_unknown() -> None:
    assert Peers().of(None) == Peer(Kind.UNKNOWN)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Peers().of(ours).kind is Kind.UNKNOWN


def test_another_machine_is_told_from_this_one() -> None:
    def of_this_host(theirs: str, ours: str) -> bool:
        return peer._is_of_this_host(peer._end((theirs, 1))[0], peer._end((ours, 2))[0])

    assert not of_this_host("192.0.2.7", "192.0.2.1")
    assert not of_this_host("2001:db8::7", "2001:db8::1")
    assert of_this_host("127.9.9.9", "127.0.0.1")
    assert of_this_host("192.0.2.7", "127.0.0.1")
    assert of_this_host("::ffff:127.0.0.1", "::ffff:127.0.0.1")
    for own in own_addresses():
        assert of_this_host(own, "192.0.2.1")


@pytest.mark.parametrize("number", [0, os.geteuid()])
def test_root_and_this_account_have_no_id_of_containers(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("claude_sandbox.host.mapped_ranges", lambda: [(0, 1 << 32)])
    assert not peer._is_mapped(number)
    assert peer._is_mapped(4242)


def test_ids_of_containers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sandbox.host.mapped_ranges", lambda: [(100000, 65536)])
    assert [peer._is_mapped(uid) for uid in (99999, 100000, 165535, 165536)] == [False, True, True, False]
    assert peer._is_mapped(CONTAINERS_OWN)
    # An account of a large directory.
    monkeypatch.setattr("pwd.getpwuid", lambda uid: uid)
    assert not peer._is_mapped(CONTAINERS_OWN)


@as_root
@pytest.mark.parametrize("options,only_some", [("rw", False), ("hidepid=2", True)])
def test_hidden_processes_are_known_to_be_there(options: str, only_some: bool) -> None:
    """In mounts of its own: nobody else's /proc changes."""
    code = "from manager_app import peer; print(peer._sees_only_some())"
    mount = f"mount -t proc -o {options} proc /proc && exec {sys.executable} -c '{code}'"
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/plugins/module_utils"}
    # Where /proc is what it was, the mount above it tells nothing of hiding.
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str(only_some)
