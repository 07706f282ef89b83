# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandbox's own X server: Xvfb, on a free display of its choice, closed to all without its cookie."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator

from . import files, namespaces, procs
from .errors import SandboxError
from .host import Host
from .procs import Process

_START_SECONDS = 20.0
_ATTEMPTS = 1000
_NUMBERS = range(100, 10000)  # of displays: below are those of people and of ssh
_FAMILY_WILD = 0xFFFF  # Xauth.h: an entry for any address
_FAMILY_SIZE = 2  # bytes
_PROTOCOL = b"MIT-MAGIC-COOKIE-1"


@dataclasses.dataclass(frozen=True)
class Display:
    """An X display that is up: number N is the socket /tmp/.X11-unix/XN."""

    number: int
    server: Process


class Starting:
    """An X server on its way up; `ready` waits for it, so that other work can be done meanwhile."""

    def __init__(self, host: Host, folder: str, size: tuple[int, int], glx: bool, stays: bool = True) -> None:
        """Start it. stays: whether it outlives this process."""
        self._folder = folder
        _write_cookie(cookie_file(folder))
        os.mkdir(f"{folder}/screen", 0o700)
        self._answer, write_end = os.pipe()
        try:
            with _reserved() as (number, hold), open(files.open_new(f"{folder}/xvfb.log"), "wb") as log:
                self._number = number
                self._server = subprocess.Popen(
                    [host.need("Xvfb"), f":{number}", "-displayfd", str(write_end), *_options(folder, size, glx)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=(write_end, hold),
                    env={"PATH": host.path},
                    cwd="/",
                    start_new_session=True,
                    preexec_fn=None if stays else namespaces.die_with_parent,  # noqa: PLW1509 - it calls the kernel alone
                )
        except BaseException:
            os.close(self._answer)
            raise
        finally:
            os.close(write_end)

    def ready(self) -> Display:
        """The display; a SandboxError with the server's own words where it does not come up."""
        text = self._wait()
        server = procs.identify(self._server.pid)
        if server is not None and text.strip() == str(self._number).encode():
            return Display(self._number, server)
        self.stop()
        raise SandboxError(f"Xvfb did not start: {_last_line(f'{self._folder}/xvfb.log')}.")

    def _wait(self) -> bytes:
        """What the server answers when it is ready; less than a line where it is not."""
        text = b""
        with open(self._answer, "rb", buffering=0) as pipe:
            while not text.endswith(b"\n"):
                piece = pipe.read(16) if select.select([pipe], [], [], _START_SECONDS)[0] else b""
                if not piece:
                    break
                text += piece
        return text

    def stop(self) -> None:
        """End the server, however far it got."""
        if self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(2)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()


def cookie_file(folder: str) -> str:
    """Where the display's cookie is, for the server and its clients."""
    return f"{folder}/xauth"


def framebuffer(folder: str) -> str:
    """Where the pixels are: a file in XWD format that the server keeps mapped."""
    return f"{folder}/screen/Xvfb_screen0"


@contextlib.contextmanager
def _reserved() -> Iterator[tuple[int, int]]:
    """A free display's number, and a descriptor that keeps it for whoever inherits it.

    Without its abstract socket, which is not to be there, Xvfb takes another server's display away. So that socket's
    name is taken, but not listened on: all X servers leave a display alone whose name is taken.
    """
    with socket.socket(socket.AF_UNIX) as hold:
        for _attempt in range(_ATTEMPTS):
            number = _NUMBERS.start + int.from_bytes(os.urandom(4), "big") % len(_NUMBERS)
            if not os.path.lexists(_socket(number)) and _takes(hold, number):
                break
        else:
            raise SandboxError("There is no free X display.", "Look in /tmp/.X11-unix for what takes them all.")
        yield number, hold.fileno()


def _takes(hold: socket.socket, number: int) -> bool:
    try:
        hold.bind(f"\0{_socket(number)}")
    except OSError:
        return False
    return True


def forget(number: int) -> None:
    """Remove the socket that a server has left which was killed; not where another one has the display now."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as hold:
        hold.bind(f"\0{_socket(number)}")
        os.unlink(_socket(number))


def _socket(number: int) -> str:
    return f"/tmp/.X11-unix/X{number}"


def _options(folder: str, size: tuple[int, int], glx: bool) -> list[str]:
    width, height = size
    # Neither TCP nor the abstract socket, which every sandbox that shares the network could reach.
    options = ["-screen", "0", f"{width}x{height}x24", "-auth", cookie_file(folder)]
    options += ["-nolisten", "tcp", "-nolisten", "local", "-noreset", "-fbdir", f"{folder}/screen"]
    # By MIT-SHM a client has the server, which is outside, read and write shared memory of the host's.
    options += ["-extension", "MIT-SHM"]
    # GLX loads LLVM: four times the memory, and twice the time to start.
    return options if glx else [*options, "-extension", "GLX"]


def _write_cookie(path: str) -> None:
    """A cookie file of one entry that fits any address and display."""
    files.create(path, _entry(b"", _PROTOCOL, os.urandom(16)))


def write_cookies(path: str, found: bytes, number: int) -> None:
    """Write the cookies that a file of an account's has for one display so that they fit on any host's name.

    A sandbox has a name of its own, and clients look for the cookie under that. found: the content of such a file.
    """
    files.create(path, b"".join(_entry(b"", name, data) for name, data in _cookies(found, str(number).encode())))


def _cookies(content: bytes, number: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of the entries for a display, up to the first that is none (the format of Xau(3))."""
    left = content
    while len(left) >= _FAMILY_SIZE:
        left, fields = left[_FAMILY_SIZE:], []
        for _field in range(4):
            size = int.from_bytes(left[:2], "big")
            if len(left) < 2 + size:
                return
            fields.append(left[2 : 2 + size])
            left = left[2 + size :]
        _address, display, name, data = fields
        if display in (b"", number):
            yield name, data


def _entry(display: bytes, name: bytes, data: bytes) -> bytes:
    """An entry that fits any address."""
    counted = (struct.pack(">H", len(text)) + text for text in (b"", display, name, data))
    return struct.pack(">H", _FAMILY_WILD) + b"".join(counted)


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(4096).split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
