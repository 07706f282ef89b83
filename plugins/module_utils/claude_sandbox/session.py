# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandbox's own tmux server, in whose one pane the backend runs. It outlives whoever made it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

from . import landlock, procs
from .backends.base import Command
from .errors import SandboxError
from .host import Host
from .instance import SESSION, launch_folder, socket
from .procs import Process

LOG_LIMIT = 4 << 20  # bytes after which the log begins another file; two files are kept
_HISTORY_LINES = 20000
_COLUMNS, _ROWS = 160, 48
_KEY_SECONDS = 0.1  # between two keys
_PIECE = 2000  # characters typed at once
_SECONDS = 30.0  # within which tmux and a command's start must be through

# Copies the pane's output to a file, and begins another when it is full; the one before is kept.
# dd writes what it has read at once, and counts reads; a read that brought nothing is the end.
_LOG_SCRIPT = """\
umask 077
was=0
while dd bs=4096 count="$LOG_READS" status=none >>"$LOG"; do
  is=$(wc -c <"$LOG")
  [ "$is" -gt "$was" ] || exit 0
  was=$is
  [ "$is" -lt "$LOG_LIMIT" ] || { mv -f "$LOG" "$LOG.1"; was=0; }
done"""

# Whoever attaches sees the sandbox, and cannot open a shell of the host beside it by mistake.
_OPTIONS = (
    ("set", "-g", "remain-on-exit", "on"),
    # tmux's own line about a dead pane would push a line of the last screen out of it.
    ("set", "-g", "remain-on-exit-format", ""),
    ("set", "-g", "history-limit", str(_HISTORY_LINES)),
    ("set", "-g", "default-terminal", "tmux-256color"),
    ("set", "-g", "update-environment", ""),
    # For whoever leaves "attach" out: tmux would start a shell of the host's.
    ("set", "-g", "default-command", "echo 'This belongs to a sandbox: attach -t main shows it.'; sleep 5"),
    ("set", "-g", "status-right", "#{?pane_dead,the agent has ended (#{pane_dead_status}),} C-b d leaves"),
    ("set", "-g", "status-right-length", "60"),
    ("set", "-s", "set-clipboard", "off"),
    ("set", "-s", "escape-time", "10"),
    ("set", "-s", "focus-events", "on"),
    ("set", "-as", "terminal-features", ",*:RGB"),
    ("unbind", "-a", "-T", "prefix"),
    ("unbind", "-a", "-T", "root"),
    ("bind", "d", "detach-client"),
    ("bind", "[", "copy-mode"),
    ("bind", "PPage", "copy-mode", "-u"),
    ("bind", "]", "paste-buffer"),
    ("bind", "r", "refresh-client"),
    ("bind", "C-b", "send-prefix"),
)


@dataclasses.dataclass(frozen=True)
class Session:
    """A tmux server that is up, and the first process of its pane."""

    server: Process
    pane: Process


class Opening:
    """A session on its way up; `up` waits for it, so that other work can be done meanwhile."""

    def __init__(self, host: Host, folder: str, log: str, title: str, command: Command) -> None:
        """Start the server with the command in its pane, where files are made with the usual umask."""
        steps: list[Sequence[str]] = [("start-server",), *_OPTIONS, ("set", "-g", "status-left", f"[{title}] ")]
        size = ("-x", str(_COLUMNS), "-y", str(_ROWS))
        pane = pane_argv(folder, command)
        steps.append(("new-session", "-d", "-s", SESSION, *size, "-P", "-F", "#{pid} #{pane_pid}", "--", *pane))
        if not command.resizes:
            # Not before the session: tmux 3.3 ends when it makes one then.
            steps.append(("set", "-g", "window-size", "manual"))
        steps.append(("pipe-pane", "-t", SESSION, _LOG_SCRIPT))
        words = [";" if word is None else _literal(word) for step in steps for word in (*step, None)][:-1]
        self._client = subprocess.Popen(
            _argv(host, folder, words),
            env={**_environment(host), "SHELL": "/bin/sh", "LOG": log, **_log_bounds()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            umask=0o022,
            preexec_fn=landlock.confine,  # noqa: PLW1509 - it calls the kernel alone, and takes no lock
        )

    def up(self) -> Session:
        """The session. Raises SandboxError with tmux's own words where it refuses."""
        out, err = self._client.communicate(timeout=_SECONDS)
        words = out.split()
        if self._client.returncode != 0 or len(words) != 2:
            raise SandboxError(f"tmux did not start: {err.strip() or out.strip() or 'it said nothing'}.")
        server, first = (procs.identify(int(word)) for word in words)
        if server is None:
            raise SandboxError("tmux ended as soon as it had started.")
        # A pane that is over already is told from a live one by its process, which then is nobody.
        return Session(server, first or Process(int(words[1]), 0))


def capture(host: Host, folder: str, history: int = 0) -> str:
    """The text on the screen, with up to `history` lines above it; empty where there is no session."""
    done = _tmux(host, folder, ["capture-pane", "-p", "-J", "-t", SESSION, "-S", f"-{history}" if history else "0"])
    return done.stdout if done.returncode == 0 else ""


@dataclasses.dataclass(frozen=True)
class Look:
    """A session's screen: its size in characters, and its lines with the sequences that colour them."""

    columns: int
    rows: int
    text: str


def look(host: Host, folder: str) -> Look | None:
    """The screen as it is now; None where there is no session."""
    steps = ["display-message", "-p", "-t", SESSION, "#{window_width} #{window_height}", ";"]
    done = _tmux(host, folder, [*steps, "capture-pane", "-p", "-e", "-t", SESSION])
    size, _newline, text = done.stdout.partition("\n")
    words = size.split()
    if done.returncode != 0 or len(words) != 2:
        return None
    return Look(int(words[0]), int(words[1]), text)


def attach_argv(host: Host, folder: str, writes: bool) -> list[str]:
    """What shows the session in a terminal; one that does not write has no say in the session's size either."""
    return _argv(host, folder, ["attach", *([] if writes else ["-r"]), "-t", SESSION])


def send_text(host: Host, folder: str, text: str) -> None:
    """Type text as it is."""
    # tmux takes 16 KiB in one command; a character has 4 bytes at most.
    for start in range(0, len(text), _PIECE):
        _send(host, folder, ["send-keys", "-t", SESSION, "-l", "--", _literal(text[start : start + _PIECE])])


def send_keys(host: Host, folder: str, keys: Sequence[str]) -> None:
    """Press keys by their tmux names: Enter, Escape, C-c; one after the other, as fast as a menu can follow."""
    for number, key in enumerate(keys):
        if number:
            time.sleep(_KEY_SECONDS)
        _send(host, folder, ["send-keys", "-t", SESSION, "--", _literal(key)])


def _send(host: Host, folder: str, argv: Sequence[str]) -> None:
    done = _tmux(host, folder, argv)
    if done.returncode != 0:
        raise SandboxError(f"tmux did not take the input: {done.stderr.strip()}.")


def _tmux(host: Host, folder: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _argv(host, folder, words),
        env=_environment(host),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=_SECONDS,
    )


def _argv(host: Host, folder: str, words: Sequence[str]) -> list[str]:
    return [host.need("tmux"), "-u", "-f", "/dev/null", "-S", socket(folder), *words]


def _log_bounds() -> dict[str, str]:
    """The log's bounds for the script: a file is renamed once it is full, so it can be one round of reads longer."""
    return {"LOG_LIMIT": str(LOG_LIMIT), "LOG_READS": str(max(1, LOG_LIMIT // 4096))}


def _environment(host: Host) -> dict[str, str]:
    return {"PATH": host.path, "LANG": "C.UTF-8"}


def _literal(word: str) -> str:
    """A word that tmux does not take for the end of a command: a final semicolon is escaped."""
    return f"{word[:-1]}\\;" if word.endswith(";") else word


def pane_argv(folder: str, command: Command) -> list[str]:
    """The command with its descriptors open, which tmux would close: a shell opens them and becomes the command.

    The script holds numbers and plain names only; every path and argument is a parameter of it.
    """
    redirections = [f'{number}<"$0/{number}"' for number in command.inputs]
    redirections += [f'{number}>"$0/{name}"' for number, name in command.outputs.items()]
    redirections += [f'{number}<"$0/{name}"' for number, name in command.gates.items()]
    return ["/bin/sh", "-c", f'exec "$@" {" ".join(redirections)}', launch_folder(folder), *command.argv]


class Pipes:
    """What a command reads while it starts: pipes, so that no secret is ever in a file on the way."""

    def __init__(self, folder: str, command: Command) -> None:
        self._folder = launch_folder(folder)
        names = {**{number: str(number) for number in command.inputs}, **command.gates}
        for name in names.values():
            os.mkfifo(f"{self._folder}/{name}", 0o600)
        # Open for both, none has to wait for the other: not we for the command, nor the command for us.
        self._names = names
        self._ends = {n: os.open(f"{self._folder}/{name}", os.O_RDWR | os.O_NONBLOCK) for n, name in names.items()}
        self._gates = tuple(command.gates)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_error: object) -> None:
        for descriptor in self._ends.values():
            os.close(descriptor)
        for name in self._names.values():
            os.unlink(f"{self._folder}/{name}")

    def feed(self, contents: Mapping[int, bytes], reader: Process) -> None:
        """Have the contents read; returns early where the reader ends. The first one is read before the others."""
        first, *others = contents
        self._write(first, contents[first], reader)
        # It is read only once every pipe is open at the other end, so that ours can be closed.
        procs.until(lambda: self._drained(first) or not reader.alive(), _SECONDS)
        self._close(first)
        for number in others:
            self._write(number, contents[number], reader)
            self._close(number)

    def release(self) -> None:
        """Open the gates."""
        for number in self._gates:
            os.write(self._ends[number], b"go")

    def _write(self, number: int, content: bytes, reader: Process) -> None:
        left = memoryview(content)
        while left and reader.alive():
            try:
                left = left[os.write(self._ends[number], left) :]
            except BlockingIOError:
                select.select([], [self._ends[number]], [], 0.05)

    def _drained(self, number: int) -> bool:
        waiting = fcntl.ioctl(self._ends[number], termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(waiting, sys.byteorder) == 0

    def _close(self, number: int) -> None:
        os.close(self._ends.pop(number))
