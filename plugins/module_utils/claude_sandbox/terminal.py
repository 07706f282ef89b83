# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A person's terminal, passed on to a terminal of its own for what runs in a sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator

from .errors import SandboxError

_PIECE = 65536  # bytes


@contextlib.contextmanager
def lent() -> Iterator[int]:
    """A new terminal, by its descriptor, that is this process' own to look at and to type into for a while.

    Whatever happens, the person's terminal is as it was afterwards. Raises SandboxError where there is none.
    """
    person = sys.stdin.fileno()
    if not os.isatty(person):
        raise SandboxError("There is no terminal to enter the sandbox with.", "Run a command in it instead.")
    before = termios.tcgetattr(person)
    master, slave = pty.openpty()
    _take_size(person, master)
    relay = os.fork()
    if relay == 0:
        try:
            os.close(slave)
            _pass_on(person, sys.stdout.fileno(), master)
        finally:
            os._exit(0)
    try:
        os.close(master)
        yield slave
    finally:
        # The relay ends when what it shows has all been shown.
        os.close(slave)
        os.waitpid(relay, 0)
        termios.tcsetattr(person, termios.TCSAFLUSH, before)


def _pass_on(person: int, shown: int, master: int) -> None:
    """Copy both ways until the terminal inside is closed."""
    signal.signal(signal.SIGWINCH, lambda _number, _frame: _take_size(person, master))
    tty.setraw(person)
    sources = [person, master]
    while True:
        for source in select.select(sources, [], [])[0]:
            try:
                piece = os.read(source, _PIECE)
            except OSError:
                piece = b""
            if piece:
                _write(master if source == person else shown, piece)
            elif source == master:
                return
            else:
                sources.remove(person)


def _write(sink: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(sink, left) :]


def _take_size(person: int, master: int) -> None:
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(person, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)
