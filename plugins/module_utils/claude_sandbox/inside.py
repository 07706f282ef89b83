# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Working in a sandbox that runs: commands beside the agent, and the agent's own terminal.

All of it runs under the sandbox's account.
"""

from __future__ import annotations

import dataclasses
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

from . import claude, lifecycle, namespaces, procs, session, toolchain, usage
from .errors import SandboxError, shown
from .host import Host
from .instance import Instance
from .registry import Record

_OUTPUT_LIMIT = 16 << 20  # bytes of each stream that are kept
_STEP = 0.1  # seconds between two looks at a screen
_BEGIN_SECONDS = 3.0  # within which an agent that was given work has begun; measured: 0.06


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
        """As JSON can carry it: each byte is one character."""
        return {**self.__dict__, "stdout": self.stdout.decode("latin-1"), "stderr": self.stderr.decode("latin-1")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Completed:
        """The opposite of to_json."""
        streams = {name: content[name].encode("latin-1") for name in ("stdout", "stderr")}
        return cls(**{**content, **streams})


def live_instance(record: Record) -> Instance:
    """The running instance; a SandboxError where the sandbox does not run."""
    record.asked()
    if record.instance is None or record.instance.stopped_at is not None or not record.instance.running():
        raise SandboxError(f"Sandbox {shown(record.name)} is not running.", "Start it first (state: started).")
    return record.instance


def execute(
    record: Record,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    stdin: bytes = b"",
    timeout: float | None = None,
) -> Completed:
    """Run a command inside, bound by the sandbox as the agent is.

    env: its whole environment. timeout: seconds, after which it and its process group are killed.
    """
    instance = live_instance(record)
    namespaces.die_with_parent()
    enter = lifecycle.backend(record.asked()).enter
    # The sandbox's own shell comes first: a script could otherwise reach, by /proc/self/exe, the program that goes in,
    # which is a file of the host's. With -p the shell reads no file that a variable names.
    shell = toolchain.find(record.asked()).shell
    try:
        # The parent has one thread, so that the work between fork and exec cannot meet a lock held by another.
        process = subprocess.Popen(
            [shell, "-p", "-c", 'exec -- "$@"', "sh", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,
            umask=0o022,
            preexec_fn=lambda: _go_in(enter, instance, cwd),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError):
        raise SandboxError(
            f"Sandbox {shown(record.name)} could not be entered: it ended, or {shown(cwd)} is no directory in it."
        ) from None
    return _collect(process, stdin, timeout)


def _go_in(enter: Callable[[procs.Process], None], instance: Instance, cwd: str) -> None:
    """Between fork and exec: go in, and leave this process outside to wait for the one that runs inside."""
    enter(instance.init)
    namespaces.die_with_parent()
    # Only a child is in the pid namespace that was joined.
    child = os.fork()
    if child:
        _stand_by(child)
    namespaces.die_with_parent()
    os.chdir(cwd)


def _stand_by(child: int) -> None:
    """Wait for the child and end as it does; its pipes are closed here, so that their ends are the child's."""
    os.closerange(0, 1 << 16)
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


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
                truncated = truncated or len(kept) + len(piece) > _OUTPUT_LIMIT
                kept += piece[: _OUTPUT_LIMIT - len(kept)]
                if not piece:
                    selector.unregister(key.fileobj)
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


def exists(record: Record, path: str) -> bool:
    """Whether a path exists in the sandbox, as seen from inside."""
    instance = live_instance(record)

    def look() -> bool:
        # From here on nothing is imported: Python would look for it in the sandbox.
        namespaces.join(instance.init.pid)
        return os.path.lexists(path)

    return bool(procs.fork(None, look).result())


@dataclasses.dataclass(frozen=True)
class Wait:
    """What to wait for on the agent's screen: a pattern, or the agent being idle; at most `timeout` seconds."""

    pattern: str | None = None
    idle: bool = False
    timeout: float = 60.0


def converse(host: Host, record: Record, text: str | None, keys: Sequence[str], wait: Wait) -> dict[str, Any]:
    """Type into the agent's terminal, wait, and read the screen.

    Returns the screen's text, and whether what was waited for came. Raises SandboxError where it cannot be waited for.
    """
    instance = live_instance(record)
    pattern = _compiled(wait.pattern)
    if wait.idle and record.asked().agent != ["claude"]:
        raise SandboxError("Only Claude Code says when it is idle.", "Wait for a pattern on the screen instead.")
    if (text or keys) and record.asked().agent == ["claude"]:
        # It says what it does as soon as it takes input.
        procs.until(lambda: _activity(record, instance) or not instance.pane.alive(), wait.timeout, _STEP)
    before = _activity(record, instance)
    if text:
        session.send_text(host, instance.folder, text)
        # An interface that takes fast input for a paste would take the Enter for a part of it.
        time.sleep(0.3 if keys else 0)
    if keys:
        session.send_keys(host, instance.folder, keys)
    since = time.monotonic() if text or keys else None

    def come() -> bool:
        if pattern is not None and not pattern.search(session.capture(host, instance.folder)):
            return False
        return not wait.idle or _is_idle(record, instance, before, since)

    found = True
    if pattern is not None or wait.idle:
        found = bool(procs.until(lambda: come() or not instance.pane.alive(), wait.timeout, _STEP)) and come()
    activity = _activity(record, instance)
    return {
        "screen": session.capture(host, instance.folder),
        "found": found,
        "alive": instance.pane.alive(),
        "activity": activity.status if activity else None,
    }


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, re.MULTILINE) if pattern is not None else None
    except re.error as error:
        raise SandboxError(f"{shown(pattern)} is no regular expression: {error}.") from None


def _is_idle(record: Record, instance: Instance, before: usage.Activity | None, since: float | None) -> bool:
    """Whether the agent is idle, and has said so since `before`, where something was typed at the time `since`.

    What makes no work (a key, /clear) makes it say nothing anew: it is idle, too, when it has not begun for a while.
    """
    now = _activity(record, instance)
    if now is None or now.status != "idle":
        return False
    return since is None or before is None or now.mark != before.mark or time.monotonic() - since > _BEGIN_SECONDS


def _activity(record: Record, instance: Instance) -> usage.Activity | None:
    agent = next(iter(procs.children(instance.init.pid)), None)
    pid = procs.innermost_pid(agent.pid) if agent else None
    return usage.activity(f"{record.data}/{claude.SESSIONS}", pid) if pid else None


def activity_of(record: Record) -> str | None:
    """What the agent of a running sandbox says that it does: idle, busy, waiting; None where it says nothing."""
    found = _activity(record, live_instance(record))
    return found.status if found else None
