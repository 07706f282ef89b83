"""A nixpkgs of our own and a flake that takes its packages from there: for hosts that reach no cache of Nix."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent
# Of Debian's busybox-static: it loads nothing.
BUSYBOX = "/usr/bin/busybox"


def make(directory: Path) -> None:
    """Put the flakes `nixpkgs` and `project` there. What they build runs on any machine with this one's processor."""
    for name in ("nixpkgs", "project"):
        shutil.copytree(_HERE / name, directory / name)
    machine = directory / "nixpkgs/machine"
    machine.mkdir()
    shutil.copy(BUSYBOX, machine / "busybox")
    _carry("/usr/bin/bwrap", machine)


def _carry(program: str, directory: Path) -> None:
    """Copy a program, and into `lib` all that it loads; the loader is called so."""
    shutil.copy(program, directory)
    libraries = directory / "lib"
    libraries.mkdir()
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        name = "loader" if Path(path).name.startswith("ld-") else Path(path).name
        shutil.copy(path, libraries / name)
