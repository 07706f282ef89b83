# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A sandbox in the terminal of this process, in the place of a session: it is seen there alone, and ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from . import landlock, namespaces, procs
from .backends.base import Command
from .errors import SandboxError
from .procs import Process
from .session import Session, pane_argv

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_OF_KEYS = (signal.SIGINT, signal.SIGQUIT)
_END_SECONDS = 1.0
# What Python ignores, and no other program expects to be ignored.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)


# By this what runs outside for a sandbox is found again; nothing inside has it.
_FOLDER = "CLAUDE_SANDBOX_RUNTIME"


def sweep(folder: str, uid: int) -> None:
    """End what is left of a command whose process was killed in the moment between bwrap's first two processes."""
    for process in procs.with_variable(_FOLDER, folder, uid):
        process.signal(signal.SIGKILL)
        process.wait(_END_SECONDS)


class Opening:
    """A command that was started with the standard streams of this process; as for a session, `up` says which it is."""

    def __init__(self, folder: str, command: Command) -> None:
        """Start it, where files are made with the usual umask."""
        argv, parent = pane_argv(folder, command), os.getpid()
        # Not by subprocess, which would take an interest in how it ends: that is for whoever waits for the sandbox.
        self._child = os.fork()
        if self._child:
            return
        try:
            _become(argv, parent, folder)
        finally:
            os._exit(127)

    def up(self) -> Session:
        """This process, and the command's."""
        ours = procs.identify(os.getpid())
        if ours is None:
            raise SandboxError("This process cannot see itself: /proc is not there.")
        return Session(ours, procs.identify(self._child) or Process(self._child, 0))


def _become(argv: list[str], parent: int, folder: str) -> None:
    """In the child: be the command, with nothing of this process but its standard streams, and not for longer."""
    namespaces.die_with_parent()
    if os.getppid() != parent:
        return
    # What whoever started us has left open would be open in the sandbox.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in _PYTHONS_OWN:
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    landlock.confine()
    os.execve(argv[0], argv, {"PATH": "/usr/bin:/bin", _FOLDER: folder})


class AskedToEndError(BaseException):
    """A signal came that asks this process to end; no Exception, as KeyboardInterrupt is none.

    number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Have this process end in order: while something starts, a signal that asks for it is an AskedToEndError.

    Once `hold` was called they wait for `wait`; keys that interrupt are for the command alone from then on.
    """
    before = {number: signal.signal(number, _ask_to_end) for number in _ENDING if _is_heeded(number)}
    before |= {number: signal.getsignal(number) for number in _OF_KEYS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        # What was asked again meanwhile has been done.
        while signal.sigtimedwait(_ENDING, 0) is not None:
            pass
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _is_heeded(number: int) -> bool:
    """Whether the signal ends this process: nohup has one ignored."""
    return signal.getsignal(number) is not signal.SIG_IGN


def _ask_to_end(number: int, _frame: FrameType | None) -> None:
    raise AskedToEndError(number)


def hold() -> None:
    """From here on, until `signals` is left, no signal disturbs this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _waited_for())
    for number in _OF_KEYS:
        signal.signal(number, signal.SIG_IGN)


def _waited_for() -> set[int]:
    return {signal.SIGCHLD, *(number for number in _ENDING if _is_heeded(number))}


def wait(pane: Process) -> int:
    """Wait for the command to end; its exit code, or 128 and the signal that ended it, or this process.

    To be called once signals are held.
    """
    while True:
        pid, status = os.waitpid(pane.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        number = signal.sigwait(_waited_for())
        if number != signal.SIGCHLD:
            return 128 + number
