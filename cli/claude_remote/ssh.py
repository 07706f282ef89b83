# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts ssh, and says in one line what it complains of."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence

from . import link
from .config import Target
from .errors import CONNECTION, TOKEN, LostError, RemoteError
from .link import Facts
from .runtime import Files
from .text import inert

_PERSIST_SECONDS = 600
_RUN_SECONDS = 60.0
# After the user's own, for the first that names an option wins.
_DEFAULTS = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_MARK = "claude-remote: facts"
_TOKEN_FILES = ("~/.config/claude-sandbox/token", "/etc/claude-sandbox/manager-token")
_TOKEN_BYTES = (16, 512)  # as the manager wants it
# Whatever the account's shell is, and whatever it says when it starts. In one line: csh quotes no more than that.
_FACTS = "; ".join(
    (
        """echo; echo "$0"; id -un; printf '%s\\n' "$HOME\"""",
        """for file in "$@"; do case $file in "~/"*) file=$HOME/${file#"~/"};; esac""",
        """if [ -r "$file" ]; then echo token; exec head -c 1024 "$file"; fi; done""",
        '[ -z "$ASKED" ] || echo missing',
    )
)

_UNREACHABLE = ("timed out", "No route to host", "Network is unreachable", "Host is down")
# These may be otherwise in a moment, when a network comes back or a server has started.
_PASSING = (
    *_UNREACHABLE,
    "Could not resolve",
    "Connection refused",
    "Connection reset",
    "Connection closed",
    "Broken pipe",
)
# What ssh says, what that means, and what to do. {host} is the server.
_COMPLAINTS = (
    (
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "Host key for"),
        "{host} shows another host key than before.",
        "Find out why. If it was installed anew: ssh-keygen -R {name}, then ssh {host}.",
    ),
    (
        ("Host key verification failed", "No matching host key", "host key is known"),
        "{host}'s host key is not known here.",
        "Run ssh {host} once, compare the key, and accept it.",
    ),
    (
        ("Permission denied", "Too many authentication failures", "No more authentication methods"),
        "{host} refuses the login.",
        "Look whether ssh {host} works; ssh-copy-id {host} brings your key there.",
    ),
    (("Could not resolve",), "There is no server {host}: its name is not known.", "Look how it is written."),
    (
        ("Connection refused",),
        "{host} takes no SSH connections: refused.",
        "Look whether sshd runs there, at that port.",
    ),
    (_UNREACHABLE, "{host} cannot be reached: {said}", "Look whether the network is there."),
)


class _RefusedError(RemoteError):
    """ssh cannot connect, and will not be able to in a moment either."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint, CONNECTION)


def argv(target: Target, files: Files, *options: str, command: str | None = None) -> list[str]:
    """The words that start ssh over the connection; where that is gone, or full (MaxSessions), ssh makes another."""
    fixed = ["-o", "ControlMaster=no", "-o", "RemoteCommand=none"]
    words = [_ssh(), "-S", files.control.replace("%", "%%"), *fixed, *options, *target.ssh_opts, *_DEFAULTS]
    return [*words, "--", target.host, *([] if command is None else [command])]


def opened(target: Target, files: Files) -> Facts:
    """Make the connection, if no other command was faster, and find out what there is to know. Raises RemoteError."""
    with _alone(files):
        if not is_alive(target, files):
            _close(target, files)
            forwards = _start(target, files)
        else:
            forwards = os.path.exists(files.http) and _takes(files.http)
        return found_out(target, files, forwards)


def is_alive(target: Target, files: Files) -> bool:
    """Whether the ssh that commands share is there. It may not know yet that the network is gone."""
    if not os.path.exists(files.control):
        return False
    return _run(argv(target, files, "-O", "check")).returncode == 0


def close(target: Target, files: Files) -> bool:
    """End the connection, and forget what was found out. Whether there was one."""
    with _alone(files):
        was = is_alive(target, files)
        _close(target, files)
        return was


def found_out(target: Target, files: Files, forwards: bool) -> Facts:
    """Ask the server for facts, and keep them. Raises RemoteError."""
    names = (target.token_file,) if target.token_file else _TOKEN_FILES
    script = f"ASKED={'1' if target.token_file else ''}; {_FACTS}"
    done = _run(argv(target, files, "-T", command=shlex.join(["sh", "-c", script, _MARK, *names])))
    _, _, told = done.stdout.rpartition(f"\n{_MARK}\n")
    login, home, *more = [*told.split("\n"), "", "", ""][:5]
    if done.returncode != 0 or not home.startswith("/"):
        raise _complaint(target, done.stderr)
    facts = Facts(login, home, _token(target, more), forwards, link.mark(files.control))
    _keep(files, facts)
    return facts


def _token(target: Target, told: Sequence[str]) -> str | None:
    if told[0] == "missing":
        what = f"{inert(target.token_file)} is not there on {target.host}, or cannot be read."
        raise RemoteError(what, "Set token_file to where the manager's token is, or leave it out.", TOKEN)
    if told[0] != "token":
        return None
    found = told[1].strip()
    if not (_TOKEN_BYTES[0] <= len(found) <= _TOKEN_BYTES[1] and found.isascii() and found.isprintable()):
        raise RemoteError(f"The file for the token on {target.host} holds none.", "It is one line of 16 to 512.", TOKEN)
    return found


def _keep(files: Files, facts: Facts) -> None:
    """The token is among them. Whoever can read this is you, and could fetch it by ssh as well."""
    draft = f"{files.facts}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w") as file:
        json.dump(vars(facts), file)
    os.rename(draft, files.facts)


def piped(target: Target, files: Files) -> socket.socket:
    """A socket to the manager, carried by an ssh of its own, for where none can be forwarded."""
    ours, its = socket.socketpair()
    words = argv(target, files, "-W", f"127.0.0.1:{target.port}")
    with its:
        end = its.fileno()
        # It ends when our end is closed; nobody needs to wait for it.
        subprocess.Popen(words, stdin=end, stdout=end, stderr=subprocess.DEVNULL, start_new_session=True)
    return ours


def forward(target: Target, files: Files, port: int) -> None:
    """Have a TCP port of this machine lead to the manager. Raises RemoteError."""
    done = _run(argv(target, files, "-O", "forward", "-L", _tcp(target, port)))
    if done.returncode != 0:
        raise RemoteError(
            f"Port {port} of this machine cannot be used: {_said(done.stderr)}", "Choose another by --port."
        )


def unforward(target: Target, files: Files, port: int) -> None:
    """Give the port back; it may be gone with the connection."""
    _run(argv(target, files, "-O", "cancel", "-L", _tcp(target, port)))


def why_refused(target: Target, files: Files) -> RemoteError:
    """Why the server closes connections to the manager: found out there, for ssh does not tell."""
    if not is_alive(target, files):
        return LostError(f"The connection to {target.host} was lost.", "Try again.")
    script = shlex.join(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{target.port}"])
    listens = _run(argv(target, files, "-T", command=script)).returncode == 0
    if listens:
        what = f"{target.host} forbids to forward connections, or what is at its port {target.port} hangs up."
        return RemoteError(what, "sshd there needs: AllowTcpForwarding yes (or local).", CONNECTION)
    what = f"No manager answers on {target.host} at 127.0.0.1:{target.port}."
    return RemoteError(what, "Start it there, or set CLAUDE_REMOTE_PORT to its port.", CONNECTION)


def may_pass(error: RemoteError) -> bool:
    """Whether another try may go better: the network may come back; a login that is refused stays so."""
    return isinstance(error, LostError)


def write_shell(target: Target, files: Files) -> str:
    """The path of a script that others start as ssh; whatever host they name, it leads to the server."""
    # Nor a connection of its own: it could not ask for a password, and whoever waits for it knows how to go on.
    words = shlex.join(argv(target, files, "-T", "-o", "ProxyCommand=false"))
    # unison adds -e none, against ssh's own escapes; without a terminal there are none.
    script = f"""#!/bin/sh
while [ "$#" != 0 ] && [ "$1" != {PLACE} ]; do shift; done
shift
if [ "$1" = -e ]; then shift 2; fi
exec {words} "$@"
"""
    draft = f"{files.shell}.{os.getpid()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o700), "w") as file:
        file.write(script)
    os.rename(draft, files.shell)
    return files.shell


PLACE = "claude-remote"  # what stands for the server in the words of rsync and unison


def _ssh() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise RemoteError(
            "There is no ssh here.", "Install OpenSSH's client: apt-get install openssh-client.", CONNECTION
        )
    return found


def _tcp(target: Target, port: int) -> str:
    return f"127.0.0.1:{port}:127.0.0.1:{target.port}"


@contextlib.contextmanager
def _alone(files: Files) -> Iterator[None]:
    """Two at once would each make a connection, and the second one's would never end."""
    with open(os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(target: Target, files: Files) -> bool:
    """Start ssh. Whether it forwards our socket. Raises RemoteError."""
    own = ["-o", "ControlMaster=yes", "-o", f"ControlPersist={_PERSIST_SECONDS}", "-o", "RemoteCommand=none"]
    own += ["-S", files.control.replace("%", "%%"), "-o", "StreamLocalBindUnlink=yes", "-o", "ExitOnForwardFailure=yes"]
    place = f"{files.http}:127.0.0.1:{target.port}"
    stderr = ""
    for forward_options in (["-L", place], []):
        words = [_ssh(), "-f", "-N", "-T", *own, *forward_options, *target.ssh_opts, *_DEFAULTS, "--", target.host]
        # It asks for passwords at the terminal itself. No limit of time: the person may be looking for one.
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode == 0:
            # Settings may say ClearAllForwardings.
            return bool(forward_options) and os.path.exists(files.http)
        stderr = done.stderr.decode("utf-8", "replace")
        if "forward" not in stderr and "unix_listener" not in stderr:
            raise _complaint(target, stderr)
    raise _complaint(target, stderr)


def _close(target: Target, files: Files) -> None:
    if os.path.exists(files.control):
        _run(argv(target, files, "-O", "exit"))
    for path in (files.control, files.http, files.facts):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _takes(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_RUN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise LostError(
            "The server does not answer in time.", "Look whether the network is there, and try again."
        ) from None


def _complaint(target: Target, stderr: str) -> RemoteError:
    """What ssh said, in a line of ours where its meaning is known."""
    said = _said(stderr)
    name = target.host.rpartition("@")[2]
    passes = any(each in stderr for each in _PASSING)
    kind = LostError if passes else _RefusedError
    for marks, what, hint in _COMPLAINTS:
        if any(each in stderr for each in marks):
            places = {"host": target.host, "name": name, "said": said}
            return kind(what.format(**places), hint.format(**places))
    return kind(f"There is no connection to {target.host}: {said}", f"Look whether ssh {target.host} works.")


def _said(stderr: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return inert(lines[-1])[:300] if lines else "ssh said nothing."
