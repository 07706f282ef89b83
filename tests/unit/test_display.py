"""The sandbox's own X server: a real one, and what only its cookie opens."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import display, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host

SIZE = (64, 48)
PATIENCE = 10.0  # seconds, for what takes milliseconds
PROTOCOL = b"MIT-MAGIC-COOKIE-1"
needs_xvfb = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="there is no Xvfb")


def entries(content: bytes) -> list[tuple[int, bytes, bytes, bytes, bytes]]:
    """Family, address, number, protocol and data of each entry of a cookie file, as Xau(3) reads them."""
    found, at = [], 0
    while at < len(content):
        (family,) = struct.unpack_from(">H", content, at)
        at += 2
        fields = []
        for _ in range(4):
            (length,) = struct.unpack_from(">H", content, at)
            fields.append(content[at + 2 : at + 2 + length])
            assert len(fields[-1]) == length
            at += 2 + length
        address, number, protocol, data = fields
        found.append((family, address, number, protocol, data))
    return found


def answer(number: int, protocol: bytes, cookie: bytes) -> int:
    """The first byte that the server answers to a client's greeting: 1 for welcome, 0 for refused."""

    def padded(text: bytes) -> bytes:
        return text + b"\0" * (-len(text) % 4)

    greeting = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(protocol), len(cookie))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(f"/tmp/.X11-unix/X{number}")
        client.sendall(greeting + padded(protocol) + padded(cookie))
        return client.recv(1)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("display")


@pytest.fixture(scope="module")
def screen(folder: Path) -> Iterator[display.Display]:
    starting = display.Starting(Host.this(), str(folder), SIZE, glx=False)
    try:
        yield starting.ready()
    finally:
        starting.stop()


def the_cookie(folder: Path) -> bytes:
    return entries(Path(display.cookie_file(str(folder))).read_bytes())[0][4]


@needs_xvfb
def test_it_is_up(screen: display.Display) -> None:
    assert screen.server.alive()
    assert procs.command_name(screen.server.pid) == "Xvfb"


@needs_xvfb
def test_the_cookie_file(folder: Path, screen: display.Display) -> None:
    """One entry that fits any address and any display, for the number is not known when it is written."""
    path = Path(display.cookie_file(str(folder)))
    ((family, address, number, protocol, cookie),) = entries(path.read_bytes())
    assert (family, address, number, protocol) == (0xFFFF, b"", b"", PROTOCOL)
    assert len(cookie) == 16
    assert len(set(cookie)) > 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@needs_xvfb
def test_only_the_cookie_opens_it(folder: Path, screen: display.Display) -> None:
    cookie = the_cookie(folder)
    assert answer(screen.number, PROTOCOL, cookie) == 1
    assert answer(screen.number, PROTOCOL, bytes(16)) == 0
    assert answer(screen.number, PROTOCOL, cookie[:-1]) == 0
    assert answer(screen.number, b"", b"") == 0


def sockets(process: procs.Process) -> set[str]:
    """The inodes of a process' sockets."""
    links = (os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}


def table(name: str) -> list[list[str]]:
    """The lines of one of the kernel's tables of sockets, in words."""
    return [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]


@needs_xvfb
def test_it_listens_nowhere_but_at_its_socket(screen: display.Display) -> None:
    """The abstract socket and TCP could be reached by every sandbox with the host's network."""
    mine = sockets(screen.server)
    # Flag __SO_ACCEPTCON of net.h: a name may also be held without listening at it.
    listening = [line for line in table("unix") if line[6] in mine and int(line[3], 16) & 0x10000]
    assert [line[7:] for line in listening] == [[f"/tmp/.X11-unix/X{screen.number}"]]
    assert not [line for name in ("tcp", "tcp6") for line in table(name) if line[9] in mine]


@needs_xvfb
def test_the_framebuffer_is_a_file_of_that_size(folder: Path, screen: display.Display) -> None:
    content = Path(display.framebuffer(str(folder))).read_bytes()
    # The header of XWDFile.h: its size, version, format, depth, width, height.
    size, version, _, depth, width, height = struct.unpack_from(">6I", content)
    assert (version, depth, (width, height)) == (7, 24, SIZE)
    assert len(content) >= size + 4 * width * height


@needs_xvfb
def test_the_cookie_is_in_no_argv(folder: Path, screen: display.Display) -> None:
    argv = Path(f"/proc/{screen.server.pid}/cmdline").read_bytes()
    cookie = the_cookie(folder)
    assert cookie not in argv
    assert cookie.hex().encode() not in argv


@needs_xvfb
def test_two_have_displays_and_cookies_of_their_own(tmp_path: Path, folder: Path, screen: display.Display) -> None:
    second = display.Starting(Host.this(), str(tmp_path), SIZE, glx=False)
    try:
        other = second.ready()
        assert other.number != screen.number
        assert answer(other.number, PROTOCOL, the_cookie(folder)) == 0
        assert answer(screen.number, PROTOCOL, the_cookie(tmp_path)) == 0
    finally:
        second.stop()
    assert not other.server.alive()
    assert screen.server.alive()


@needs_xvfb
def test_two_that_choose_one_number_at_once_do_not_get_it_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = itertools.chain([5000, 5000], itertools.count(5001))
    monkeypatch.setattr("secrets.randbelow", lambda _: next(chosen))
    starting = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            starting.append(display.Starting(Host.this(), str(tmp_path / name), SIZE, glx=False))
        numbers = [each.ready().number for each in starting]
        assert len(set(numbers)) == 2
    finally:
        for each in starting:
            each.stop()


# To be answered at the descriptor that follows -displayfd, with the number that follows the colon.
FINDS_ANSWER = """\
for word; do
  case "$before $word" in -displayfd*) answer=/dev/fd/$word ;; *\\ :*) number=${word#:} ;; esac
  before=$word
done"""


def fake(folder: Path, script: str) -> Host:
    """A host whose Xvfb is a script."""
    program = folder / "Xvfb"
    program.write_text(f"#!/bin/sh\n{FINDS_ANSWER}\n{script}\n")
    program.chmod(0o755)
    return Host({"PATH": str(folder)}, os.geteuid())


@pytest.mark.parametrize(
    "script, words",
    [
        pytest.param("echo first >&2; echo 'Fatal: no.' >&2; echo >&2; exit 1", "Fatal: no.", id="says-why"),
        pytest.param("exit 1", "it said nothing", id="says-nothing"),
        pytest.param("echo odd >$answer", "it said nothing", id="answers-oddly"),
    ],
)
def test_one_that_does_not_come_up_is_told_in_its_own_words(tmp_path: Path, script: str, words: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    starting = display.Starting(fake(tmp_path, script), str(tmp_path), SIZE, glx=False)
    with pytest.raises(SandboxError, match=f"Xvfb did not start: {words}"):
        starting.ready()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("glx", [True, False])
def test_argv(tmp_path: Path, glx: bool) -> None:
    """OpenGL only where asked for, and no way in but the socket, whatever a server's own defaults are."""
    argv = tmp_path / "argv"
    host = fake(tmp_path, f'printf "%s\\n" "$@" >{argv}.new; mv {argv}.new {argv}; echo $number >$answer')
    starting = display.Starting(host, str(tmp_path), SIZE, glx)
    assert procs.until(argv.exists, PATIENCE)
    starting.stop()
    words = argv.read_text().splitlines()
    assert ("GLX" in words) is not glx
    assert "64x48x24" in words
    assert {after for word, after in itertools.pairwise(words) if word == "-nolisten"} == {"tcp", "local"}
    assert words[words.index("-auth") + 1] == display.cookie_file(str(tmp_path))


def test_stop_ends_one_that_does_not_listen(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    # A shell that is killed leaves its child: it becomes the program that does not listen itself.
    script = f"trap '' TERM; echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60"
    starting = display.Starting(fake(tmp_path, script), str(tmp_path), SIZE, glx=False)
    assert procs.until(pid.exists, PATIENCE)
    server = procs.identify(int(pid.read_text()))
    assert server is not None
    start = time.monotonic()
    starting.stop()
    assert time.monotonic() - start < PATIENCE
    assert not server.alive()


def test_a_server_that_cannot_be_executed_is_not_told_as_a_lack_of_displays(tmp_path: Path) -> None:
    host = fake(tmp_path, "")
    (tmp_path / "Xvfb").write_text("no program")
    with pytest.raises((OSError, SandboxError), match=r"Xvfb|Exec format"):
        display.Starting(host, str(tmp_path), SIZE, glx=False)


# The cookies of an account's own display.


def entry(family: int, address: bytes, number: bytes, data: bytes, protocol: bytes = PROTOCOL) -> bytes:
    """One entry of a cookie file."""
    fields = b"".join(struct.pack(">H", len(field)) + field for field in (address, number, protocol, data))
    return struct.pack(">H", family) + fields


def test_the_cookies_of_one_display_on_any_name(tmp_path: Path) -> None:
    """Of another display there is none: its server is not what was granted."""
    own = entry(256, b"desk", b"0", b"a" * 16) + entry(256, b"desk", b"1", b"b" * 16)
    own += entry(0, b"\x7f\0\0\1", b"0", b"c" * 16) + entry(0xFFFF, b"", b"", b"d" * 16)
    display.write_cookies(str(tmp_path / "xauth"), own, 0)
    found = entries((tmp_path / "xauth").read_bytes())
    assert found == [(0xFFFF, b"", b"", PROTOCOL, each * 16) for each in (b"a", b"c", b"d")]
    assert stat.S_IMODE((tmp_path / "xauth").stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 20, 47])
def test_a_cookie_file_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    whole = entry(256, b"desk", b"0", b"a" * 16)
    display.write_cookies(str(tmp_path / "xauth"), whole + whole[:cut], 0)
    assert len(entries((tmp_path / "xauth").read_bytes())) == 1


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 99, b"no cookies at all\n", b"\1\0\0\0\0\0\0\0\0"])
def test_what_is_no_cookie_file_gives_none(tmp_path: Path, content: bytes) -> None:
    display.write_cookies(str(tmp_path / "xauth"), content, 0)
    assert (tmp_path / "xauth").read_bytes() == b""


@needs_xvfb
def test_a_server_that_does_not_stay_ends_with_its_process(tmp_path: Path) -> None:
    """Also where that is killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            started = display.Starting(Host.this(), str(tmp_path), SIZE, glx=False, stays=False)
            os.write(write, f"{started.ready().server.pid}\n".encode())
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as pipe:
        server = procs.identify(int(pipe.readline()))
    assert server is not None
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert server.wait(PATIENCE)
