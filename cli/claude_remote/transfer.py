# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command sync: a directory of this machine to the server, by rsync over the connection."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from . import ssh
from .changing import remote_path
from .errors import CONNECTION, FAILED, OK, USAGE, RemoteError
from .looking import manager_of
from .manager import Manager
from .terminal import as_user
from .text import ask, inert, is_person, out, say

_VERSION_RULE = re.compile(r"rsync\s+version v?([0-9]+)\.([0-9]+)")
_OLDEST = (3, 1)  # of rsync: --info
_SHOWN = 10
_INSTALL = "apt-get install rsync, or brew install rsync"


class Place:
    """A directory on the server. user: whose sandbox works in it; None where that is not known to be anybody's."""

    def __init__(self, path: str, user: str | None) -> None:
        self.path = path
        self.user = user


def sync(options: Any) -> int:
    """Bring a directory to the server."""
    local = local_directory(options.dir)
    _check_rsync()
    manager = manager_of(options)
    place = found_place(manager, local, options.remote)
    flags = ["--filter=:- .gitignore"] if options.gitignore else []
    if options.delete:
        flags.append("--delete")
        if not options.dry_run and not options.yes and not _may_delete(manager, local, place, flags):
            raise RemoteError("Nothing was done.", "Leave --delete out to delete nothing.", FAILED)
    if options.dry_run:
        _rsync(manager, local, place, [*flags, "--dry-run", "--itemize-changes"])
        return OK
    _transfer(manager, local, place, flags, quiet=False)
    return OK


def bring(manager: Manager, local: str, remote: str, user: str | None, quiet: bool) -> None:
    """Bring a directory to where a sandbox is to be made. Raises RemoteError."""
    source = local_directory(local)
    _check_rsync()
    _transfer(manager, source, Place(remote, user), [], quiet)


def local_directory(path: str) -> str:
    """Its absolute path, which no program takes for an option or another machine's. Raises RemoteError (usage)."""
    found = os.path.abspath(path)
    if not os.path.isdir(found):
        raise RemoteError(f"{inert(path)} is no directory here.", "Give the directory to bring to the server.", USAGE)
    return found


def found_place(manager: Manager, local: str, remote: str | None) -> Place:
    """Where the directory goes: as asked; else to the project of the sandbox that is named like it; else into the home.

    Work goes on as the account whose sandbox it is: another one's files could not be changed inside, and an agent could
    have led root elsewhere by a link. Raises RemoteError.
    """
    name = os.path.basename(local)
    facts = manager.link.facts
    try:
        sandboxes = manager.sandboxes()
    except RemoteError as error:
        if facts.login == "root":
            # It could not be told whose directory that is.
            raise
        say(f"{error.what} Going on without the manager.")
        sandboxes = []
    if remote is None:
        named = [each for each in sandboxes if each.get("name") == name and each.get("project_dir")]
        path = str(named[0]["project_dir"]) if named else remote_path(manager, name)
    else:
        path = remote_path(manager, remote)
    owners = [each.get("user") for each in sandboxes if _holds(str(each.get("project_dir") or ""), path)]
    return Place(path, next((str(each) for each in owners if each is not None), None))


def _holds(project: str, path: str) -> bool:
    return bool(project) and (path == project or path.startswith(f"{project}/"))


def _check_rsync() -> None:
    if shutil.which("rsync") is None:
        raise RemoteError("There is no rsync here.", f"{_INSTALL}.", FAILED)
    told = subprocess.run(["rsync", "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False)
    found = _VERSION_RULE.search(told.stdout)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise RemoteError(
            "The rsync here is too old, or another program.", f"3.1 or later is needed: {_INSTALL}.", FAILED
        )


def _may_delete(manager: Manager, local: str, place: Place, flags: Sequence[str]) -> bool:
    """Whether the person agrees to what would be deleted."""
    done = subprocess.run(
        _words(manager, local, place, [*flags, "--dry-run", "--itemize-changes"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    # The directory may not be there yet: then there is nothing to delete either.
    doomed = [line.split(None, 1)[1] for line in done.stdout.splitlines() if line.startswith("*deleting ")]
    if not doomed:
        return True
    say(f"Deleted in {inert(place.path)} on {manager.target.host}: {len(doomed)}")
    for name in doomed[:_SHOWN]:
        say(f"  {inert(name)}")
    if len(doomed) > _SHOWN:
        say(f"  … and {len(doomed) - _SHOWN} more")
    if not is_person():
        raise RemoteError("--delete asks, and nobody is there to answer.", "Add --yes.", USAGE)
    return ask("Delete them?")


def _transfer(manager: Manager, local: str, place: Place, flags: Sequence[str], quiet: bool) -> None:
    command = [*as_user(manager.link.facts.login, place.user, asks=False), "mkdir", "-p", "--", place.path]
    made = subprocess.run(
        manager.link.run_argv(shlex.join(command), "-T"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if made.returncode != 0:
        said = inert(made.stderr.strip().rpartition("\n")[2])[:300]
        raise RemoteError(
            f"{inert(place.path)} cannot be made on {manager.target.host}: {said}",
            "Make it there, for the account whose sandbox it is.",
            CONNECTION if made.returncode == 255 else FAILED,
        )
    progress = ["--info=progress2"] if sys.stdout.isatty() and not quiet else []
    _rsync(manager, local, place, [*flags, *progress])
    if not quiet:
        out(f"{inert(local)} is on {manager.target.host} at {inert(place.path)}.")


def _rsync(manager: Manager, local: str, place: Place, flags: Sequence[str]) -> None:
    code = subprocess.run(_words(manager, local, place, flags), stdin=subprocess.DEVNULL, check=False).returncode
    if code == 255:
        raise RemoteError(
            "The connection was lost.", "Do it again: what is there already is not sent again.", CONNECTION
        )
    if code == 127:
        hint = "Install it there: apt-get install rsync."
        raise RemoteError(f"{manager.target.host} has no rsync.", hint, FAILED)
    if code != 0:
        raise RemoteError(f"rsync ended with {code}.", "It said why, above.", FAILED)


def _words(manager: Manager, local: str, place: Place, flags: Sequence[str]) -> list[str]:
    """rsync's words. No owners: accounts of this machine are not those of the server."""
    user = as_user(manager.link.facts.login, place.user, asks=False)
    there = [f"--rsync-path={shlex.join([*user, 'rsync'])}"] if user else []
    shell = f"--rsh='{ssh.write_shell(manager.target, manager.link.files)}'"
    return ["rsync", "-rlpt", "-s", shell, *there, *flags, "--", f"{local}/", f"{ssh.PLACE}:{place.path}/"]
