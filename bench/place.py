# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the bench works: a folder, projects and an account of its own, all gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import lifecycle, procs, view
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import bubblewrap
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Account, account
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes

# The engine imports these when it first needs them; a worker may by then not be allowed to read them.
_NEEDED_BY_WORKERS = (lifecycle, view, bubblewrap)
_WORKER_SECONDS = 60
_END_SECONDS = 10.0


class Place:
    """The folder and the account. Root makes an account for the run; anybody else works as themselves."""

    def __init__(self, folder: str, owner: Account) -> None:
        self.folder = folder
        self.owner = owner
        self.has_own_account = owner.uid != os.geteuid()

    def new_folder(self, name: str) -> str:
        """A folder of the account's."""
        path = f"{self.folder}/{name}"
        os.makedirs(path, mode=0o700, exist_ok=True)
        if self.has_own_account:
            os.chown(path, self.owner.uid, self.owner.gid)
        return path

    def params(self, project: str) -> dict[str, Any]:
        """What is asked of a sandbox: all defaults, with an agent that does nothing."""
        asked: dict[str, Any] = {"project_dir": self.new_folder(f"projects/{project}"), "agent": ["sleep", "1d"]}
        if not self.has_own_account:
            # The grant claude makes folders in ~/.claude: a bench leaves a person's own alone.
            asked["grants"] = {"claude": False}
        return asked

    def worker(self, function: Callable[[], Any]) -> Any:
        """The function's value (JSON's), worked out by a process of the account's."""

        def bounded() -> Any:
            signal.alarm(_WORKER_SECONDS)
            return function()

        forked = procs.fork(self.owner if self.has_own_account else None, bounded)
        try:
            return forked.result()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(forked.pid, signal.SIGTERM)
            raise


@contextlib.contextmanager
def registry(folder: str) -> Iterator[Sandboxes]:
    """A registry that is emptied in the end."""
    found = Sandboxes(state_dir=folder)
    try:
        yield found
    finally:
        found.ensure_all([], prune=True)


def remove(sandboxes: Sandboxes, name: str) -> None:
    """Take a sandbox away with all that it kept, so that the next one starts from nothing."""
    sandboxes.ensure(Request(name, "absent", purge=True))


@contextlib.contextmanager
def made() -> Iterator[Place]:
    """A place, and nothing left of it afterwards."""
    # Not /tmp: where that is memory, writing a record down would cost nothing.
    as_root = os.geteuid() == 0
    folder = tempfile.mkdtemp(prefix="claude-bench-", dir="/var/lib" if as_root else pathlib.Path.home())
    try:
        if as_root:
            os.chmod(folder, 0o711)  # noqa: S103 - the account passes through it, and lists nothing
            with _account(f"claude-bench-{os.getpid()}", f"{folder}/home") as owner:
                yield _with_home(Place(folder, owner))
        else:
            yield _with_home(Place(folder, account(os.geteuid())))
    finally:
        shutil.rmtree(folder)


def _with_home(place: Place) -> Place:
    place.new_folder("home")
    # Made before anything in it, so that the account passes through it.
    os.mkdir(f"{place.folder}/projects", 0o711)
    return place


@contextlib.contextmanager
def _account(name: str, home: str) -> Iterator[Account]:
    subprocess.run(["useradd", "--home-dir", home, "--no-create-home", "--shell", "/bin/sh", name], check=True)
    try:
        owner = account(name)
        try:
            yield owner
        finally:
            _end_all(owner.uid)
    finally:
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


def _end_all(uid: int) -> None:
    """End what an account of our own still runs, which is nothing unless something went wrong."""
    end = time.monotonic() + _END_SECONDS
    while (left := [pid for pid in procs.every_pid() if _belongs(pid, uid)]) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _belongs(pid: int, uid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == uid
    except OSError:
        return False
