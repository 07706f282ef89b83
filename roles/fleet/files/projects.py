# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes project directories that are missing: `python - [--check] DIRECTORY ACCOUNT…`; prints which, as JSON.

made: what was, or with --check would be, made. refused: what this account may not make or see, for root to try.

Root works here in directories of others, so nothing is done by a path: each part is opened below the one before, no
link is followed, and in a directory that its account may write to, the account makes what is missing itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
import sys
from collections.abc import Iterator

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _ProjectError(Exception):
    """Why a directory cannot be made, for a person."""


def main() -> int:
    """Run the command; its exit code."""
    words = sys.argv[1:]
    check = words[:1] == ["--check"]
    pairs = words[1:] if check else words
    found: dict[str, list[str]] = {"made": [], "refused": []}
    troubles = []
    for directory, account in dict(zip(pairs[::2], pairs[1::2], strict=True)).items():
        try:
            if _make(directory, account, check=check):
                found["made"].append(directory)
        except PermissionError as error:
            if os.geteuid() != 0:
                found["refused"].append(directory)
            else:
                troubles.append(f"{directory}: {error.strerror}")
        except (_ProjectError, OSError) as error:
            troubles.append(f"{directory}: {error.strerror if isinstance(error, OSError) else error}")
    sys.stdout.write(json.dumps(found))
    sys.stderr.write("\n".join(troubles))
    return 1 if troubles else 0


def _make(directory: str, account: str, *, check: bool) -> bool:
    """Make a directory that is missing, and those above it; whether it was."""
    parts = directory.split("/")
    if parts[0] != "" or ".." in parts:
        raise _ProjectError("This has to be an absolute path without '..'.")
    names = [part for part in parts if part not in ("", ".")]
    with contextlib.ExitStack() as held:
        parent = os.open("/", _OPEN)
        held.callback(os.close, parent)
        made = False
        for number, name in enumerate(names):
            try:
                child = _opened(parent, name)
            except FileNotFoundError:
                if check:
                    return True
                child = _made(parent, name, account, last=number == len(names) - 1)
                made = True
            held.callback(os.close, child)
            parent = child
    return made


def _opened(parent: int, name: str) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except NotADirectoryError:
        link = stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        what = "a symbolic link; give the path that it leads to" if link else "not a directory"
        raise _ProjectError(f"{name} is {what}.") from None


def _made(parent: int, name: str, account: str, *, last: bool) -> int:
    """Make one directory and open it. The last one belongs to the account."""
    try:
        owner = pwd.getpwnam(account)
    except KeyError:
        raise _ProjectError(f"there is no account {account} on this host.") from None
    if os.geteuid() not in (0, owner.pw_uid):
        raise PermissionError(1, f"only root can make it for {account}")
    with contextlib.suppress(PermissionError), _acting_as(owner):
        os.mkdir(name, 0o755, dir_fd=parent)
        return _opened(parent, name)
    if os.geteuid() != 0:
        raise PermissionError(13, "Permission denied")
    above = os.fstat(parent)
    if above.st_uid != 0 or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
        raise _ProjectError(f"{account} may not write above {name}, where others may. Make it yourself.")
    os.mkdir(name, 0o755, dir_fd=parent)
    child = _opened(parent, name)
    if last:
        os.fchown(child, owner.pw_uid, owner.pw_gid)
    return child


@contextlib.contextmanager
def _acting_as(owner: pwd.struct_passwd) -> Iterator[None]:
    """Have the rights of this account, and of its first group."""
    if os.geteuid() != 0 or owner.pw_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.pw_gid)
    os.seteuid(owner.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


if __name__ == "__main__":
    # A directory shall have its mode whatever the mask of whoever connects.
    os.umask(0o022)
    sys.exit(main())
