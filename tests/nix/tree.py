"""Nix, of Debian 13, in a tree that is made once; with a store that lasts no longer than whoever asks for it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fresh.fresh import CARRIED_VARIABLES, carry_sources
from tests.hosts import sources, trees
from tests.hosts.layout import CHECKOUT

RELEASE = "trixie"
PACKAGES = ("git", "nix-bin")
_CACHE = CHECKOUT / ".cache/nix"
_INSTALL = f"""\
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --no-install-recommends {" ".join(PACKAGES)}
find /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man -not -type d -delete
find /var/cache/apt /var/lib/apt/lists -type f -delete
"""
# Nothing is asked of the network. On booted hosts builds see nothing but what they depend on; here, all of the tree.
_CONFIGURATION = """\
experimental-features = nix-command flakes
substituters =
flake-registry =
build-users-group =
sandbox = false
warn-dirty = false
"""
_SECONDS = 300.0


class NixError(Exception):
    """Nix has failed; what it said."""


def tree() -> Path:
    """The kept tree, in which nothing runs. Needs root where there is none yet."""
    made_from = json.dumps([PACKAGES, _INSTALL])
    mirrors = sources.mirrors()
    base = trees.tree(RELEASE, mirrors)
    digest = hashlib.sha256(f"{base.name}{made_from}".encode()).hexdigest()[:8]
    kept = _CACHE / f"{RELEASE}-{digest}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{RELEASE}-", dir=_CACHE) as scratch:
                new = Path(scratch, "tree")
                trees.copy(base, new)
                carry_sources(new, RELEASE, mirrors)
                for name in ("resolv.conf", "hosts"):
                    (new / "etc" / name).unlink(missing_ok=True)
                    shutil.copy(f"/etc/{name}", new / "etc" / name)
                _install(new)
                new.rename(kept)
    return kept


def _install(root: Path) -> None:
    carried = {name: os.environ[name] for name in CARRIED_VARIABLES if name in os.environ}
    argv = ["chroot", str(root), "/bin/sh", "-c", _INSTALL]
    done = subprocess.run(
        argv,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **carried},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NixError(f"Nix could not be installed in a tree of Debian:\n{done.stdout}{done.stderr}")


class Nix:
    """Nix with a store of its own.

    folder: for the store and Nix's own files; it must outlive this.
    shown: folders that Nix sees, read-only and at the same path.
    """

    def __init__(self, folder: Path, shown: Sequence[Path]) -> None:
        self._tree = tree()
        self._shown = shown
        # What is /nix for Nix.
        self.root = folder / "nix"
        self._home = folder / "home"
        for each in (self.root, self._home):
            each.mkdir(parents=True, exist_ok=True)

    def run(self, *argv: str, timeout: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """Run one of Nix's programs; `timeout` is in seconds."""
        enter = ["bwrap", "--die-with-parent", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        for name in ("usr", "etc"):
            enter += ["--ro-bind", str(self._tree / name), f"/{name}"]
        for name in ("bin", "lib", "lib64", "sbin"):
            enter += ["--symlink", f"usr/{name}", f"/{name}"]
        enter += ["--bind", str(self._home), "/root", "--bind", str(self.root), "/nix"]
        enter += ["--unshare-net"]
        for each in self._shown:
            enter += ["--ro-bind", str(each), str(each)]
        enter += ["--clearenv", "--setenv", "HOME", "/root", "--setenv", "PATH", "/usr/bin:/usr/sbin"]
        enter += ["--setenv", "LC_ALL", "C.UTF-8", "--setenv", "NIX_CONFIG", _CONFIGURATION, "--", *argv]
        return subprocess.run(
            enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )

    def said(self, *argv: str, timeout: float = _SECONDS) -> str:
        """What it prints, where it has to succeed. Raises NixError where it does not."""
        done = self.run(*argv, timeout=timeout)
        if done.returncode:
            raise NixError(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def json(self, *argv: str) -> Any:
        """The same, as what it means."""
        return json.loads(self.said(*argv))

    def remove(self) -> None:
        """Remove the store, in which nothing may be written."""
        for folder, names, _files in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o755)
        shutil.rmtree(self.root)
