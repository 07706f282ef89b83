# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands run in a sandbox beside the agent, where it is one of this kernel: by a process that goes in."""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import os
import select
import selectors
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from . import namespaces
from .errors import SandboxError, shown

OUTPUT_LIMIT = 16 << 20  # bytes of each stream that are kept


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What is to be run, with its whole environment.

    shell: the sandbox's own, by which it is started. timeout: seconds, after which it and its process group are
    killed.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    shell: str
    stdin: bytes = b""
    timeout: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it; bytes by base64, which makes of the worst of them no more than of any other."""
        return {**self.__dict__, "stdin": base64.b64encode(self.stdin).decode()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Invocation:
        """The opposite of to_json."""
        return cls(**{**content, "argv": tuple(content["argv"]), "stdin": base64.b64decode(content["stdin"])})


@dataclasses.dataclass(frozen=True)
class Completed:
    """How a command inside ended. Bytes beyond the limit of a stream are dropped, and `truncated` says so.

    code: its exit code; 128 and the signal's number where one ended it; 127 where there is no such program, and 126
    where it cannot be executed.
    """

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    timed_out: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it, as an invocation."""
        streams = {name: base64.b64encode(getattr(self, name)).decode() for name in ("stdout", "stderr")}
        return {**self.__dict__, **streams}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Completed:
        """The opposite of to_json."""
        streams = {name: base64.b64decode(content[name]) for name in ("stdout", "stderr")}
        return cls(**{**content, **streams})


def run(invocation: Invocation, enter: Callable[[], None]) -> Completed:
    """Run a command in the sandbox that `enter` brings a process into, with no more rights than its agent has.

    Raises SandboxError where it cannot be entered. This process must have one thread, and ends with its parent.
    """
    process = _started(invocation, enter, subprocess.PIPE, None)
    return _collect(process, invocation.stdin, invocation.timeout)


def run_in_terminal(invocation: Invocation, enter: Callable[[], None], terminal: int | None) -> int:
    """The same in a terminal, given by its descriptor, which becomes the command's own; its exit code.

    terminal: None for the standard streams of this process.
    """
    code = _started(invocation, enter, terminal, terminal).wait()
    return code if code >= 0 else 128 - code


def _started(
    invocation: Invocation, enter: Callable[[], None], streams: int | None, terminal: int | None
) -> subprocess.Popen[bytes]:
    namespaces.die_with_parent()
    ourselves = os.pidfd_open(os.getpid())
    # The sandbox's own shell comes first: a script could otherwise reach, by /proc/self/exe, the program that goes in,
    # which is a file of the host's. With -p the shell reads no file that a variable names.
    try:
        # The parent has one thread, so that the work between fork and exec cannot meet a lock held by another.
        return subprocess.Popen(
            [invocation.shell, "-p", "-c", 'exec -- "$@"', "sh", *invocation.argv],
            stdin=streams,
            stdout=streams,
            stderr=streams,
            env=dict(invocation.env),
            start_new_session=True,
            umask=0o022,
            preexec_fn=lambda: _go_in(enter, invocation.cwd, terminal is not None, ourselves),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError):
        raise SandboxError(
            f"The sandbox could not be entered: it ended, or {shown(invocation.cwd)} is no directory in it."
        ) from None
    finally:
        os.close(ourselves)


def _go_in(enter: Callable[[], None], cwd: str, in_terminal: bool, parent: int) -> None:
    """Between fork and exec: go in, and leave this process outside to wait for the one that runs inside.

    parent: a descriptor of whoever waits for this process (a pidfd).
    """
    enter()
    if _has_ended(parent):
        os._exit(1)
    ourselves = os.pidfd_open(os.getpid())
    # Only a child is in the pid namespace that was joined.
    child = os.fork()
    if child:
        _stand_by(child, parent)
    namespaces.die_with_parent()
    # Inside, whoever is outside has no pid to be known by.
    if _has_ended(ourselves):
        os._exit(1)
    if in_terminal:
        # By a leader inside: a shell there has no name for the process group of one that is outside.
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(cwd)


def _stand_by(child: int, parent: int) -> None:
    """Wait for the child and end as it does; its pipes are closed here, so that their ends are the child's.

    When the parent ends, the child does, too, and with it all that is in its process group.
    """
    os.dup2(parent, 0)
    os.dup2(os.pidfd_open(child), 1)
    os.closerange(2, 1 << 16)
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(1, select.POLLIN)
    if not any(descriptor == 1 for descriptor, _event in poller.poll()):
        os.killpg(0, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _has_ended(process: int) -> bool:
    """Whether the process of this descriptor (a pidfd) has ended."""
    poller = select.poll()
    poller.register(process, select.POLLIN)
    return bool(poller.poll(0))


def _collect(process: subprocess.Popen[bytes], stdin: bytes, timeout: float | None) -> Completed:
    source, *sinks = (cast(IO[bytes], stream) for stream in (process.stdin, process.stdout, process.stderr))
    end = None if timeout is None else time.monotonic() + timeout
    streams: dict[object, bytearray] = {sink: bytearray() for sink in sinks}
    truncated = timed_out = False
    with selectors.DefaultSelector() as selector:
        for sink in sinks:
            selector.register(sink, selectors.EVENT_READ)
        if stdin:
            os.set_blocking(source.fileno(), False)
            selector.register(source, selectors.EVENT_WRITE)
        else:
            source.close()
        while selector.get_map():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                timed_out = True
                os.killpg(process.pid, signal.SIGKILL)
                break
            for key, _events in selector.select(left):
                if key.fileobj is source:
                    stdin = _feed(selector, source, stdin)
                    continue
                piece = os.read(key.fd, 65536)
                kept = streams[key.fileobj]
                truncated = truncated or len(kept) + len(piece) > OUTPUT_LIMIT
                kept += piece[: OUTPUT_LIMIT - len(kept)]
                if not piece:
                    selector.unregister(key.fileobj)
    try:
        code = process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        # It may go on for long after it has closed its streams.
        timed_out = True
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    out, err = (bytes(kept) for kept in streams.values())
    for stream in (source, *sinks):
        stream.close()
    return Completed(124 if timed_out else code if code >= 0 else 128 - code, out, err, truncated, timed_out)


def _feed(selector: selectors.BaseSelector, pipe: Any, data: bytes) -> bytes:
    """Write a piece of stdin; what is left of it."""
    try:
        data = data[os.write(pipe.fileno(), data[:65536]) :]
    except BrokenPipeError:
        data = b""
    if not data:
        selector.unregister(pipe)
        pipe.close()
    return data
