"""An account of its own for a test, with projects that it owns, and nothing left of either afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_BASE = Path("/srv")


class Account:
    """An unprivileged account of this machine; `root` is a directory of its own, outside its home."""

    def __init__(self, name: str, root: Path) -> None:
        entry = pwd.getpwnam(name)
        self.name = name
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.home = Path(entry.pw_dir)
        self.root = root

    def project(self, name: str = "project") -> Path:
        """A new project directory."""
        path = self.root / name
        path.mkdir()
        self.own(path)
        return path

    def own(self, *paths: Path) -> None:
        """Give paths, and what is below them, to the account."""
        for top in paths:
            for path in [top, *top.rglob("*")]:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def processes(self) -> list[int]:
        """The pids of its processes that still run."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == self.uid and _runs(entry):
                    found.append(int(entry.name))
        return found


def _runs(entry: Path) -> bool:
    return entry.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")


@contextlib.contextmanager
def unprivileged_account() -> Iterator[Account]:
    """An account that exists for as long as this lasts. Needs root."""
    name = f"cst{secrets.token_hex(4)}"
    root = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_BASE))
    root.chmod(0o755)
    # A subuid range would be written to /etc/subuid and is not used here.
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "-K", "SUB_UID_COUNT=0", name], check=True)
    account = Account(name, root)
    account.own(root)
    try:
        yield account
    finally:
        for pid in account.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)
        shutil.rmtree(root)


@contextlib.contextmanager
def account_for_tests() -> Iterator[Account]:
    """Whose sandboxes they are: an account made for the tests where root runs them, else the one that does."""
    if os.geteuid() == 0:
        with unprivileged_account() as made:
            yield made
            assert made.processes() == [], "the tests left processes behind"
        return
    with tempfile.TemporaryDirectory(prefix="cst-projects-") as root:
        yield Account(pwd.getpwuid(os.geteuid()).pw_name, Path(root))
