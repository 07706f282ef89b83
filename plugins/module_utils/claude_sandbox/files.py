# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that another account, or a sandbox, may have prepared against us."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import Any, BinaryIO


def open_regular(path: str, own: int = 1) -> BinaryIO | None:
    """A regular file opened for reading, or None: no link is followed, no pipe or device makes a reader wait.

    own: how many of the path's last parts another account could have made links of.
    """
    *folders, name = path.rsplit("/", own)[1:]
    try:
        descriptor = _opened_below(path.rsplit("/", own)[0] or "/", folders, name)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return open(descriptor, "rb")


def _opened_below(top: str, folders: list[str], name: str) -> int:
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def read_json(path: str, limit: int) -> Any:
    """What a JSON file of up to `limit` bytes holds; None where it is no such file."""
    file = open_regular(path)
    if file is None:
        return None
    with file:
        content = file.read(limit + 1)
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(content) if len(content) <= limit else None
    return None


def create(path: str, content: bytes, mode: int = 0o600) -> None:
    """Make a file that is not there yet, with these bytes in it."""
    with open(open_new(path, mode), "wb") as file:
        file.write(content)


def open_new(path: str, mode: int = 0o600) -> int:
    """A descriptor to write a file that is not there yet."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def replace(path: str, content: bytes, mode: int = 0o600, lasting: bool = True) -> None:
    """Make or replace a file as a whole: after a power cut it is the old or the new one.

    lasting: whether it has to outlive a power cut at all. Raises OSError; nothing is left beside the file then.
    """
    draft = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        with open(open_new(draft, mode), "wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.rename(draft, path)
        if lasting:
            sync_folder(os.path.dirname(path))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def sync_folder(path: str) -> None:
    """Have the names in a folder outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
