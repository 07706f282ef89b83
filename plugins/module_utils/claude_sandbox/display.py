# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandbox's own X server: Xvfb, on a free display of its choice, closed to all without its cookie."""

from __future__ import annotations

import dataclasses
import os
import secrets
import select
import struct
import subprocess

from . import files, procs
from .errors import SandboxError
from .host import Host
from .procs import Process

_START_SECONDS = 20.0
_FAMILY_WILD = 0xFFFF  # Xauth.h: an entry for any address
_PROTOCOL = b"MIT-MAGIC-COOKIE-1"


@dataclasses.dataclass(frozen=True)
class Display:
    """An X display that is up: number N is the socket /tmp/.X11-unix/XN."""

    number: int
    server: Process


class Starting:
    """An X server on its way up; `ready` waits for it, so that other work can be done meanwhile."""

    def __init__(self, host: Host, folder: str, size: tuple[int, int], glx: bool) -> None:
        self._folder = folder
        cookie = cookie_file(folder)
        _write_cookie(cookie)
        os.mkdir(f"{folder}/screen", 0o700)
        self._answer, write_end = os.pipe()
        try:
            with open(files.open_new(f"{folder}/xvfb.log"), "wb") as log:
                self._server = subprocess.Popen(
                    _argv(host.need("Xvfb"), write_end, folder, cookie, size, glx),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=(write_end,),
                    env={"PATH": host.path},
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._answer)
            raise
        finally:
            os.close(write_end)

    def ready(self) -> Display:
        """The display; a SandboxError with the server's own words where it does not come up."""
        with open(self._answer, "rb", buffering=0) as pipe:
            text = b""
            while not text.endswith(b"\n"):
                if not select.select([pipe], [], [], _START_SECONDS)[0]:
                    break
                piece = pipe.read(16)
                if not piece:
                    break
                text += piece
        server = procs.identify(self._server.pid)
        if server is None or not text.strip().isdigit():
            self.stop()
            raise SandboxError(f"Xvfb did not start: {_last_line(f'{self._folder}/xvfb.log')}.")
        return Display(int(text), server)

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


def _argv(xvfb: str, answer: int, folder: str, cookie: str, size: tuple[int, int], glx: bool) -> list[str]:
    width, height = size
    # Neither TCP nor the abstract socket, which every sandbox that shares the network could reach.
    argv = [xvfb, "-displayfd", str(answer), "-screen", "0", f"{width}x{height}x24", "-auth", cookie]
    argv += ["-nolisten", "tcp", "-nolisten", "local", "-noreset", "-fbdir", f"{folder}/screen"]
    # GLX loads LLVM: four times the memory, and twice the time to start.
    return argv if glx else [*argv, "-extension", "GLX"]


def _write_cookie(path: str) -> None:
    """A cookie file of one entry that fits any address and display (the format of Xau(3))."""

    def counted(text: bytes) -> bytes:
        return struct.pack(">H", len(text)) + text

    entry = struct.pack(">H", _FAMILY_WILD) + counted(b"") + counted(b"")
    files.create(path, entry + counted(_PROTOCOL) + counted(secrets.token_bytes(16)))


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(4096).split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
