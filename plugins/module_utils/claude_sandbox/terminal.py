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
import time
import tty
from collections.abc import Iterator
from typing import Any

from .errors import SandboxError

_PIECE = 65536  # bytes
_END_SECONDS = 0.3  # in which what this process has started has ended with it
# Leaves the other screen, shows the cursor, and has neither the mouse nor a paste report anything.
_CALM = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m"

_Settings = list[Any]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Have this process' terminal as it was afterwards, however the program in it ends, and this process, too."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    watched, ours = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        try:
            os.close(ours)
            _restore_without_us(watched, before)
        finally:
            os._exit(0)
    os.close(watched)
    try:
        yield
    finally:
        _take_back()
        _restore(before)
        os.write(ours, b".")
        os.close(ours)
        os.waitpid(watcher, 0)


def _restore_without_us(watched: int, before: _Settings) -> None:
    """In a process of its own: wait for the other one's word, and where it ends without a word, do its work."""
    # No key and no signal for the terminal's processes is for this one, and it may change the terminal all the same.
    os.setsid()
    if not os.read(watched, 1):
        time.sleep(_END_SECONDS)
        _restore(before)


def _take_back() -> None:
    """Be in the terminal's foreground again, where a shell that has ended was."""
    # Whoever is not in the foreground is stopped by this signal when it says so.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        foreground = os.tcgetpgrp(0)
        try:
            os.killpg(foreground, 0)
        except ProcessLookupError:
            os.tcsetpgrp(0, os.getpgrp())


def _restore(before: _Settings) -> None:
    # A window may have been closed.
    with contextlib.suppress(OSError, termios.error):
        if os.isatty(1) and termios.tcgetattr(0) != before:
            # It was left in the middle of its work.
            os.write(1, _CALM)
        termios.tcsetattr(0, termios.TCSADRAIN, before)


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
    parent, relay = os.getpid(), os.fork()
    if relay == 0:
        try:
            os.close(slave)
            # It may outlive the process in the foreground, and then has to be let to do what is left.
            for number in (signal.SIGTTOU, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _pass_on(person, sys.stdout.fileno(), master)
            if os.getppid() != parent:
                _restore(before)
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
    # What was typed meanwhile is for the one inside, too.
    tty.setraw(person, termios.TCSADRAIN)
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
