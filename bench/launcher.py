# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command claude-sandbox from nothing to its end, against bwrap alone with the same program."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host

from . import place
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIMIT = 1.3
_ROUNDS = 15
_SECONDS = 60
_CLONE = pathlib.Path(__file__).resolve().parent.parent
_SOURCES = (_CLONE / "cli/claude_launcher", _CLONE / "plugins/module_utils/claude_sandbox")
# What every program needs to run on its own.
_NAMESPACES = "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --die-with-parent"
_MOUNTS = "--ro-bind /usr /usr --proc /proc --dev /dev --tmpfs /tmp --tmpfs /home"
_FILES_OF_ETC = ("ssl/certs", "resolv.conf", "hosts", "localtime", "ld.so.cache")


def measure(where: place.Place) -> Figure:
    """For an account that types the command itself: the two ways, in turns."""
    project = where.new_folder("projects/launcher")
    library = _installed(where)
    samples: dict[str, list[float]] = where.worker(lambda: _in_turns(where, project, library))
    notes = (shown(samples), "claude --version; the floor is bwrap with the same namespaces and mounts of its own")
    return Figure("launcher-version", ratio(samples["launcher"], samples["bwrap"]), LIMIT, notes)


def _installed(where: place.Place) -> str:
    """The sources, compiled, where the account can read them: as pip would have them."""
    library = f"{where.new_folder('library')}/lib"
    for source in _SOURCES:
        shutil.copytree(source, f"{library}/{source.name}", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([_python(), "-m", "compileall", "-q", library], check=True, timeout=_SECONDS)
    # What pip makes of an entry point.
    script = pathlib.Path(f"{library}/claude-sandbox")
    script.write_text(f"#!{_python()}\nfrom claude_launcher.__main__ import main\nmain()\n", encoding="utf-8")
    script.chmod(0o755)
    for folder, _folders, files in os.walk(library):
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            os.chown(path, where.owner.uid, where.owner.gid)
    return library


def _python() -> str:
    """One that the account may run."""
    return "/usr/bin/python3" if sys.executable.startswith((f"{_CLONE}/", "/root/")) else sys.executable


def _in_turns(where: place.Place, project: str, library: str) -> dict[str, list[float]]:
    home = where.owner.home
    environ = {"HOME": home, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": library, "LANG": "C.UTF-8"}
    # A bench leaves a person's own registry alone.
    environ["XDG_STATE_HOME"] = f"{where.folder}/home"
    launcher = [f"{library}/claude-sandbox", "--", "--version"]
    runs = {"bwrap": _bare(project, home), "launcher": launcher}
    return in_turns(_ROUNDS, {name: _timed(argv, environ, project) for name, argv in runs.items()})


def _timed(argv: Sequence[str], environ: dict[str, str], project: str) -> Any:
    def once() -> float:
        how: dict[str, Any] = {"env": environ, "cwd": project, "stdin": subprocess.DEVNULL, "timeout": _SECONDS}
        return milliseconds(lambda: subprocess.run(argv, check=True, capture_output=True, **how))

    return once


def _bare(project: str, home: str) -> list[str]:
    host = Host.this()
    links = [f"--symlink usr/{name} /{name}" for name in ("bin", "lib", "lib64", "sbin") if os.path.islink(f"/{name}")]
    words = " ".join((_NAMESPACES, _MOUNTS, *links)).split()
    files = [("--ro-bind", os.path.realpath(f"/etc/{name}"), f"/etc/{name}") for name in _FILES_OF_ETC]
    mounts = [word for each in files if os.path.exists(each[1]) for word in each]
    inside = ["--tmpfs", home, "--bind", project, project, "--chdir", project, "--setenv", "HOME", home]
    return [host.need("bwrap"), *words, *mounts, *inside, "--", host.need("claude"), "--version"]
