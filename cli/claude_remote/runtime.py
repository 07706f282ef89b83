# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is kept of a connection while it lasts: sockets and a few facts, in a directory that nobody else may enter."""

from __future__ import annotations

import os
import stat

from .config import Target
from .errors import FAILED, RemoteError
from .text import inert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# A UNIX socket's path: 104 bytes with the final NUL on macOS, 108 on Linux. ssh first binds a name that is 17 longer.
_PATH_LIMIT = 103 - 17
_ENDING = len(".http")
_HASH = 16  # digits
_PRIME = (1 << 61) - 1
_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@"


class Files:
    """The paths of one connection. Others' options are others' connections, so they are in the name."""

    def __init__(self, target: Target, environ: Mapping[str, str]) -> None:
        base = folder(environ)
        stem = f"{base}/{_name(target, _PATH_LIMIT - _ENDING - len(os.fsencode(base)) - 1)}"
        self.control = f"{stem}.ctl"  # ssh's own
        self.http = f"{stem}.http"  # leads to the manager
        self.facts = f"{stem}.json"
        self.lock = f"{stem}.lock"
        self.shell = f"{stem}.ssh"  # a script, for programs that want to start ssh


def _name(target: Target, limit: int) -> str:
    plain = target.host if target.port == 3000 else f"{target.host}+{target.port}"
    if not (target.ssh_opts or target.token_file) and len(plain) <= limit and all(each in _PLAIN for each in plain):
        return plain
    identity = "\0".join((target.host, str(target.port), target.token_file or "", *target.ssh_opts))
    # Nobody but you chooses what goes in, so that it need not withstand an attack; hashlib takes some milliseconds.
    return f"+{int.from_bytes(os.fsencode(identity), 'big') % _PRIME:0{_HASH}x}"


def folder(environ: Mapping[str, str]) -> str:
    """The directory; made where it is not there. Raises RemoteError where it is not ours alone."""
    for path in _candidates(environ):
        if len(os.fsencode(path)) + 1 + _HASH + 1 + _ENDING <= _PATH_LIMIT and ":" not in path and path.isprintable():
            return _private(path)
    raise RemoteError("There is no directory for sockets.", "Set XDG_RUNTIME_DIR to one with a short path.")


def _candidates(environ: Mapping[str, str]) -> list[str]:
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # Where the system gives none, as on macOS. The last is for homes with long paths.
    others = [os.path.expanduser("~/.cache/claude-remote"), f"/tmp/claude-remote-{os.getuid()}"]
    if runtime.startswith("/") and os.path.isdir(runtime):
        return [f"{runtime}/claude-remote", *others]
    return others


def _private(path: str) -> str:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # another command was faster
        except OSError as error:
            raise RemoteError(f"{inert(path)} cannot be made: {error.strerror}.", "Set XDG_RUNTIME_DIR.") from None
        found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RemoteError(f"{inert(path)} is not a directory of yours alone.", "Remove it, then try again.", FAILED)
    return path
