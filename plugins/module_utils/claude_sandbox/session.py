# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sandbox's own tmux server, in whose one pane the backend runs. It outlives whoever made it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from collections.abc import Sequence

from . import files, procs
from .backends.base import Command
from .errors import SandboxError
from .host import Host
from .procs import Process

SESSION = "main"
LOG_LIMIT = 4 << 20  # bytes in each of the two files of a log
_HISTORY_LINES = 20000
_COLUMNS, _ROWS = 160, 48

# Copies the pane's output to a file, and begins another when it is full; the one before is kept.
_LOG_SCRIPT = """\
umask 077
while dd bs=65536 count="$LOG_LIMIT" iflag=count_bytes status=none >>"$LOG"; do
  [ "$(wc -c <"$LOG")" -ge "$LOG_LIMIT" ] || exit 0
  mv -f "$LOG" "$LOG.1"
done"""

# Whoever attaches sees the sandbox, and cannot open a shell of the host beside it by mistake.
_OPTIONS = (
    ("set", "-g", "remain-on-exit", "on"),
    ("set", "-g", "history-limit", str(_HISTORY_LINES)),
    ("set", "-g", "default-terminal", "tmux-256color"),
    ("set", "-g", "update-environment", ""),
    ("set", "-g", "status-right", ""),
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


def socket(folder: str) -> str:
    """Where the server listens; `folder` is the sandbox's runtime folder."""
    return f"{folder}/tmux"


def start(host: Host, folder: str, log: str, title: str, command: Command) -> Session:
    """Start the server with the command in its pane, where files are made with the usual umask.

    Raises SandboxError with tmux's own words where it refuses.
    """
    steps: list[Sequence[str]] = [("start-server",), *_OPTIONS, ("set", "-g", "status-left", f"[{title}] ")]
    size = ("-x", str(_COLUMNS), "-y", str(_ROWS))
    pane = _pane_argv(folder, command)
    steps.append(("new-session", "-d", "-s", SESSION, *size, "-P", "-F", "#{pid} #{pane_pid}", "--", *pane))
    steps.append(("pipe-pane", "-t", SESSION, _LOG_SCRIPT))
    argv = [";" if word is None else _literal(word) for step in steps for word in (*step, None)][:-1]
    env = {"PATH": host.path, "LANG": "C.UTF-8", "SHELL": "/bin/sh", "LOG": log, "LOG_LIMIT": str(LOG_LIMIT)}
    done = _tmux(host, folder, argv, env)
    words = done.stdout.split()
    if done.returncode != 0 or len(words) != 2:
        raise SandboxError(f"tmux did not start: {done.stderr.strip() or done.stdout.strip() or 'it said nothing'}.")
    server, first = (procs.identify(int(word)) for word in words)
    if server is None:
        raise SandboxError("tmux ended as soon as it had started.")
    # A pane that is over already is told from a live one by its process, which then is nobody.
    return Session(server, first or Process(int(words[1]), 0))


def capture(host: Host, folder: str, history: int = 0) -> str:
    """The text on the screen, with up to `history` lines above it; empty where there is no session."""
    done = _tmux(host, folder, ["capture-pane", "-p", "-J", "-t", SESSION, "-S", f"-{history}" if history else "0"])
    return done.stdout if done.returncode == 0 else ""


def send_text(host: Host, folder: str, text: str) -> None:
    """Type text as it is."""
    _send(host, folder, ["send-keys", "-t", SESSION, "-l", "--", _literal(text)])


def send_keys(host: Host, folder: str, keys: Sequence[str]) -> None:
    """Press keys by their tmux names: Enter, Escape, C-c."""
    _send(host, folder, ["send-keys", "-t", SESSION, "--", *map(_literal, keys)])


def attach_argv(host: Host, folder: str) -> list[str]:
    """What a person runs to see the session in a terminal."""
    return [host.need("tmux"), "-S", socket(folder), "attach", "-t", SESSION]


def _send(host: Host, folder: str, argv: Sequence[str]) -> None:
    done = _tmux(host, folder, argv)
    if done.returncode != 0:
        raise SandboxError(f"tmux did not take the input: {done.stderr.strip()}.")


def _tmux(
    host: Host, folder: str, argv: Sequence[str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [host.need("tmux"), "-u", "-f", "/dev/null", "-S", socket(folder), *argv],
        env=env or {"PATH": host.path, "LANG": "C.UTF-8"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=30,
        umask=0o022,
    )


def _literal(word: str) -> str:
    """A word that tmux does not take for the end of a command: a final semicolon is escaped."""
    return f"{word[:-1]}\\;" if word.endswith(";") else word


def _pane_argv(folder: str, command: Command) -> list[str]:
    """The command with its descriptors open, which tmux would close: a shell opens them and becomes the command.

    The script holds numbers and plain names only; every path and argument is a parameter of it.
    """
    redirections = [f'{number}<"$0/{number}"' for number in command.inputs]
    redirections += [f'{number}>"$0/{name}"' for number, name in command.outputs.items()]
    redirections += [f'{number}<"$0/{name}"' for number, name in command.gates.items()]
    return ["/bin/sh", "-c", f'exec "$@" {" ".join(redirections)}', launch_folder(folder), *command.argv]


def launch_folder(folder: str) -> str:
    """Where the command's descriptors lead."""
    return f"{folder}/launch"


def write_inputs(folder: str, command: Command) -> None:
    """Put down what the command reads: readable for the owner alone, and removed once it runs."""
    launch = launch_folder(folder)
    for number, content in command.inputs.items():
        files.create(f"{launch}/{number}", content)
    for name in command.gates.values():
        os.mkfifo(f"{launch}/{name}", 0o600)


def remove_inputs(folder: str, command: Command) -> None:
    """Take away what the command has read."""
    for name in [*map(str, command.inputs), *command.gates.values()]:
        os.unlink(f"{launch_folder(folder)}/{name}")


def shell_words(argv: Sequence[str]) -> str:
    """An argv as a person types it."""
    return shlex.join(argv)
