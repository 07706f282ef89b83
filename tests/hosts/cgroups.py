"""A control group of its own for each host, in every hierarchy: without, all would share their slices and limits."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_TOP = Path("/sys/fs/cgroup")
_SECONDS = 10.0
# What a new group has to be told before a process may enter it.
_WANTED_FIRST = ("cpuset.cpus", "cpuset.mems")


def _hierarchies() -> list[Path]:
    if (_TOP / "cgroup.procs").exists():
        return [_TOP]
    # Several controllers that share one hierarchy have links to it.
    return [path for path in sorted(_TOP.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]


def make(name: str) -> list[Path]:
    """Make it in every hierarchy; the directories."""
    made = []
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir()
        for setting in _WANTED_FIRST:
            if (hierarchy / setting).exists():
                (folder / setting).write_text((hierarchy / setting).read_text())
        made.append(folder)
    return made


def remove(prefix: str) -> None:
    """Remove all whose names begin so. Their processes must have been killed; this waits until they have gone."""
    end = time.monotonic() + _SECONDS
    for top in left(prefix):
        while top.exists():
            with contextlib.suppress(OSError):
                for folder, _folders, _files in os.walk(top, topdown=False):
                    os.rmdir(folder)
                continue
            if time.monotonic() > end:
                raise TimeoutError(f"{top} is still in use")
            time.sleep(0.02)


def left(prefix: str) -> list[Path]:
    """Those whose names begin so."""
    return [path for hierarchy in _hierarchies() for path in hierarchy.glob(f"{prefix}*")]
