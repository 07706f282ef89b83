"""The project's flake, and flakes in the places of what it depends on: for machines that reach no cache of Nix."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hosts.layout import CHECKOUT

_HERE = Path(__file__).parent
# Of Debian's busybox-static: it loads nothing.
_BUSYBOX = "/usr/bin/busybox"
_PROGRAMS = {"bwrap": "/usr/bin/bwrap", "bash": "/usr/bin/bash", "tmux": "/usr/bin/tmux"}
# What writes the manual pages.
_MODULES = ("shtab", "argparse_manpage", "build_manpages")
# Of Python's library, what no program of ours imports, and much.
_NEEDLESS = ("__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "config-*")
_OF_FLAKE = (
    *("flake.nix", "flake.lock", "nix", "pyproject.toml", "README.md", "LICENSE", "cli", "manager_app", "docs"),
    *("plugins/module_utils/claude_sandbox", "roles/sandbox/files/guest", "roles/manager/templates"),
)


def make(directory: Path) -> None:
    """Put the flakes `project`, `nixpkgs` and `claude-code` there. They build wherever this one's programs run."""
    copy_project(directory / "project")
    for name in ("nixpkgs", "claude-code"):
        shutil.copytree(_HERE / name, directory / name)
    machine = directory / "nixpkgs/machine"
    (machine / "bin").mkdir(parents=True)
    shutil.copy(_BUSYBOX, machine / "bin/busybox")
    for name, program in _PROGRAMS.items():
        _carry(Path(program), machine / name, name)
    _carry_python(machine / "python")


def inputs(nixpkgs: str, claude_code: str) -> list[str]:
    """Arguments of Nix by which the project's flake takes these."""
    return ["--override-input", "nixpkgs", nixpkgs, "--override-input", "claude-code", claude_code]


def copy_project(target: Path) -> None:
    """What is, or could be, committed of what the flake is made from."""
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *_OF_FLAKE]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)


def _carry(program: Path, folder: Path, name: str) -> None:
    """Copy a program, and into `lib` all that it loads; the loader is called so."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, folder / name)
    _carry_libraries(program, folder / "lib")


def _carry_libraries(program: Path, libraries: Path) -> None:
    libraries.mkdir(exist_ok=True)
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        name = "loader" if Path(path).name.startswith("ld-") else Path(path).name
        shutil.copy(path, libraries / name)


def _carry_python(folder: Path) -> None:
    """Debian's Python with its library, compiled anew: in a store no file has a date."""
    python = Path("/usr/bin/python3.11")
    _carry(python, folder, "bin/python3")
    library = folder / "lib/python3.11"
    shutil.copytree("/usr/lib/python3.11", library, ignore=shutil.ignore_patterns(*_NEEDLESS))
    for extension in (library / "lib-dynload").glob("*.so"):
        _carry_libraries(extension, folder / "lib")
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is missing: make env-dev"
        assert spec.origin is not None
        shutil.copytree(
            Path(spec.origin).parent, folder / "modules" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    compiler = [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*compiler, str(library)], check=True)
