# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands in the terminal: attach, exec."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from typing import Any

from . import changing, text
from .errors import CONNECTION, FAILED, OK, RemoteError
from .looking import manager_of
from .manager import Manager
from .text import say

_USER_RULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?")
_SOCKET_RULE = re.compile(r"/[A-Za-z0-9/._+-]{1,200}")
_SESSION_RULE = re.compile(r"[A-Za-z0-9_]{1,64}")
_LOST = 255  # ssh's own exit code
# A program that was cut off may have left any of these on: other screen, mouse, pasting, hidden cursor, other keys.
_RESET = (
    "".join(f"\x1b[?{mode}l" for mode in (1049, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004, 1))
    + "\x1b[>4m\x1b[?25h\x1b>\x1b[0m\r\n"
)
# A server may not know the kind of this terminal; most are like xterm.
_KNOWN_TERM = 'infocmp >/dev/null 2>&1 || export TERM=xterm-256color; exec "$@"'
# What a server may have for operators, who may not become the sandboxes' account (the role manager).
_ATTACH = "/usr/local/libexec/claude-sandbox/attach"
# The account and the sandbox; what follows is for those who may become the account.
_AS_OPERATOR = (
    f'user=$1 name=$2; shift 2; if [ -x {_ATTACH} ] && sudo -n -l -u "$user" {_ATTACH} "$name" >/dev/null 2>&1; '
    f'then exec sudo -n -u "$user" {_ATTACH} "$name"; fi; exec "$@"'
)


def attach(options: Any) -> int:
    """Show a sandbox's terminal in this one."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise RemoteError("attach needs a terminal.", "claude-remote logs shows what a sandbox's terminal was sent.")
    manager = manager_of(options)
    sandbox = _running(manager, manager.sandbox(options.ref))
    words = ["sh", "-c", _KNOWN_TERM, "sh", *_tmux(manager.link.facts.login, sandbox)]
    code = _in_terminal(manager.link.run_argv(shlex.join(words), "-t", "-e", "none"))
    if code == _LOST or code < 0:
        what = f"The connection was lost; {sandbox['name']} goes on."
        raise RemoteError(what, f"claude-remote attach {sandbox['name']}", CONNECTION)
    if code != OK:
        raise RemoteError(
            f"{sandbox['name']} cannot be attached to as {manager.link.facts.login} (status {code}).",
            f"Log in as its account, {sandbox.get('user')}, or let sudo change to it.",
            FAILED,
        )
    return OK


def _running(manager: Manager, sandbox: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sandbox, started where the person wants that. Raises RemoteError."""
    name, status = sandbox["name"], sandbox.get("status")
    if status == "running":
        return sandbox
    what, hint = f"Sandbox {name} is {text.inert(status)}.", f"claude-remote start {name}"
    if status not in ("stopped", "dead"):
        raise RemoteError(what, "claude-remote list shows more.", FAILED)
    if not text.ask(f"{what} Start it?"):
        raise RemoteError(what, hint, FAILED)
    changing.started(manager, name)
    # As it is now: the socket is another one.
    return manager.sandbox(name)


def _tmux(login: str, sandbox: Mapping[str, Any]) -> list[str]:
    """What shows the terminal on the server, to whoever logs in there."""
    socket, session = sandbox.get("tmux_socket"), sandbox.get("tmux_session")
    checked(_SOCKET_RULE, socket, "tmux_socket")
    checked(_SESSION_RULE, session, "tmux_session")
    command = ["env", "-u", "TMUX", "tmux", "-u", "-S", str(socket), "attach", "-t", str(session)]
    before = as_user(login, sandbox.get("user"))
    if before[:1] == ["sudo"]:
        before = ["sh", "-c", _AS_OPERATOR, "sh", str(sandbox["user"]), str(sandbox["name"]), *before]
    return [*before, *command]


def as_user(login: str, user: object, asks: bool = True) -> list[str]:
    """What comes before a command that is to run as the sandbox's account. asks: whether sudo may want a password."""
    if user is None or user == login:
        return []
    checked(_USER_RULE, user, "user")
    # Only root can use runuser, and it is there where sudo is not.
    if login == "root":
        return ["runuser", "-u", str(user), "--"]
    return ["sudo", *([] if asks else ["-n"]), "-u", str(user), "--"]


def checked(rule: re.Pattern[str], value: object, name: str) -> None:
    """Raises RemoteError where the manager's word for a field is none."""
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise RemoteError(f"The manager says a {name} that is none: {text.inert(value)[:100]}.", "", FAILED)


def _in_terminal(words: Sequence[str]) -> int:
    """Run a program that has the terminal; the terminal is as before afterwards, whatever became of the program."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    code = _LOST
    try:
        code = subprocess.run(words, check=False).returncode
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        # One that ended by itself has tidied up, and some of these move the cursor.
        if code == _LOST or code < 0:
            sys.stdout.write(_RESET)
            sys.stdout.flush()
    return code


def execute(options: Any) -> int:
    """Run a command in a sandbox, by the launcher on the server."""
    manager = manager_of(options)
    name = manager.sandbox(options.ref)["name"]
    present = subprocess.run(
        manager.link.run_argv("command -v claude-sandbox", "-T"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if present.returncode == _LOST:
        raise RemoteError(f"The connection to {manager.target.host} was lost.", "Try again.", CONNECTION)
    if present.returncode != 0:
        raise RemoteError(
            f"{manager.target.host} has no claude-sandbox on its PATH.", "Install the package there.", FAILED
        )
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    command = shlex.join(["claude-sandbox", "exec", name, "--", *options.words])
    words = manager.link.run_argv(command, *(("-t",) if tty else ("-T",)), "-e", "none")
    if not tty:
        os.execv(words[0], words)
    code = _in_terminal(words)
    if code == _LOST:
        say("ssh ended with 255: the connection was lost, or that is the command's own code.")
    return code
