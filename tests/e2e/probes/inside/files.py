"""Attempts at the host's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import struct
import time
import uuid
from collections.abc import Sequence

from .attempt import attempt, contents, outcome

_ANYBODY = (0, 1, 65533)  # uids
_SETUID = 0o6755
_RACE_SECONDS = 1.5


@attempt
def read(paths: Sequence[str]) -> dict[str, str]:
    """What can be read of files, and the names in folders."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = "\n".join(os.listdir(path)) if os.path.isdir(path) else contents(path)
    return found


@attempt
def links(paths: Sequence[str]) -> dict[str, str]:
    """Where symbolic links lead."""
    return {path: os.readlink(path) for path in paths}


@attempt
def write(paths: Sequence[str], text: str) -> dict[str, str]:
    """Add text to files that are there, and make those that are not, with the folders on the way."""

    def add(path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)

    return {path: outcome(add, path) for path in paths}


@attempt
def replace(paths: Sequence[str], text: str) -> dict[str, list[str]]:
    """Every way of putting something else in a file's or a folder's place without opening it for writing."""
    ways = (_rename_over, _link_over, _rename_away, _remove, _rename_parent, _chmod_and_write, _hard_link, _exchange)
    return {path: [outcome(way, path, text) for way in ways] for path in paths}


def _draft(path: str, text: str) -> str:
    draft = f"{os.path.dirname(path)}/draft-{uuid.uuid4().hex}"
    if os.path.isdir(path):
        os.mkdir(draft)
        draft_file = f"{draft}/evil.md"
    else:
        draft_file = draft
    with open(draft_file, "w", encoding="utf-8") as file:
        file.write(text)
    return draft


def _rename_over(path: str, text: str) -> None:
    draft = _draft(path, text)
    try:
        os.rename(draft, path)
    finally:
        _discard(draft)


def _link_over(path: str, text: str) -> None:
    draft, link = _draft(path, text), f"{path}-{uuid.uuid4().hex}"
    try:
        os.symlink(draft, link)
        os.rename(link, path)
    finally:
        # Where the link is in its place now, what it points to must stay.
        with contextlib.suppress(OSError):
            os.unlink(link)
            _discard(draft)


def _rename_away(path: str, text: str) -> None:
    os.rename(path, f"{path}-{uuid.uuid4().hex}")
    os.rename(_draft(path, text), path)


def _remove(path: str, text: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        os.unlink(path)
    os.rename(_draft(path, text), path)


def _rename_parent(path: str, text: str) -> None:
    parent = os.path.dirname(path)
    os.rename(parent, f"{parent}-{uuid.uuid4().hex}")
    os.makedirs(parent)
    os.rename(_draft(path, text), path)


def _chmod_and_write(path: str, text: str) -> None:
    os.chmod(path, 0o700)
    target = f"{path}/evil.md" if os.path.isdir(path) else path
    with open(target, "a", encoding="utf-8") as file:
        file.write(text)


def _hard_link(path: str, text: str) -> None:
    # The same inode by a name that lies on a writable mount.
    other = f"{os.path.dirname(path)}/link-{uuid.uuid4().hex}"
    os.link(path, other)
    with open(other, "a", encoding="utf-8") as file:
        file.write(text)


def _exchange(path: str, text: str) -> None:
    from .kernel import rename_exchange

    draft = _draft(path, text)
    try:
        rename_exchange(draft, path)
    finally:
        _discard(draft)


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


@attempt
def out_of_share(folder: str, target: str, text: str) -> dict[str, str]:
    """Read and write a file outside by way of a folder: links of others, links of one's own, `..`, and a race."""
    name, found = os.path.basename(target), {}
    ways = [f"{folder}/absolute", f"{folder}/relative", f"{folder}/own", f"{folder}/hard", f"{folder}/away/{name}"]
    outcome(os.symlink, target, f"{folder}/own")
    outcome(lambda: os.link(f"{folder}/absolute", f"{folder}/hard", follow_symlinks=False))
    outcome(lambda: os.link(target, f"{folder}/same"))
    outcome(os.symlink, os.path.dirname(target), f"{folder}/away")
    ways += [f"{folder}/same", folder + "/.." * 12 + target, f"{folder}/inner" + "/.." * 12 + target]
    for way in ways:
        with contextlib.suppress(OSError):
            found[way] = contents(way)
        found[f"write {way}"] = outcome(_append, way) if os.path.lexists(way) else "ENOENT"
    # What was looked up as a folder is a link when it is opened, changed or removed.
    opened = os.open(f"{folder}/inner", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rename(f"{folder}/inner", f"{folder}/moved")
        os.rename(f"{folder}/away", f"{folder}/inner")
        found["meanwhile"] = outcome(lambda: found.update(late=_read_at(opened, name)))
        found["write meanwhile"] = outcome(lambda: os.chmod(name, 0o640, dir_fd=opened))
    finally:
        os.close(opened)
    found["raced"] = _raced(folder, name)
    return found


def _read_at(folder: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(descriptor, 4096).decode("latin-1")
    finally:
        os.close(descriptor)


def _raced(folder: str, name: str) -> str:
    """Read through a name that another process has be a folder and a link by turns."""
    other = os.fork()
    if other == 0:
        while True:
            for one, two in (("inner", "link"), ("moved", "inner"), ("inner", "moved"), ("link", "inner")):
                with contextlib.suppress(OSError):
                    os.rename(f"{folder}/{one}", f"{folder}/{two}")
    read = set()
    try:
        end = time.monotonic() + _RACE_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                read.add(contents(f"{folder}/inner/{name}"))
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    return "".join(sorted(read))


@attempt
def swap_for_link(path: str, target: str) -> str:
    """Put a symbolic link in a path's place, whatever it was."""

    def swap() -> None:
        if os.path.lexists(path):
            os.rename(path, f"{path}-{uuid.uuid4().hex}")
        os.symlink(target, path)

    return outcome(swap)


@attempt
def hostile_transcripts(folder: str, session: str) -> dict[str, str]:
    """What is no transcript, where transcripts are looked for; `session` likewise is where a session file is."""
    os.makedirs(folder, exist_ok=True)

    def sparse() -> None:
        with open(f"{folder}/sparse.jsonl", "wb") as file:
            file.truncate(1 << 40)

    def nested() -> None:
        with open(f"{folder}/nested.jsonl", "wb") as file:
            file.write(b"[" * 4_000_000 + b"\n")

    def bomb() -> None:
        # A line that takes twenty times its length once it is read.
        with open(f"{folder}/bomb.jsonl", "wb") as file:
            file.write(b"[" + b"{}," * 20_000_000 + b"{}]\n")

    def session_pipe() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(session)
        os.mkfifo(session)

    return {
        "pipe": outcome(lambda: os.mkfifo(f"{folder}/pipe.jsonl")),
        "link": outcome(lambda: os.symlink("/dev/zero", f"{folder}/link.jsonl")),
        "device": outcome(lambda: os.mknod(f"{folder}/device.jsonl", 0o20666, os.makedev(1, 5))),
        "folder": outcome(lambda: os.mkdir(f"{folder}/folder.jsonl")),
        "sparse": outcome(sparse),
        "nested": outcome(nested),
        "bomb": outcome(bomb),
        "session": outcome(session_pipe),
    }


@attempt
def change(paths: Sequence[str]) -> dict[str, list[str]]:
    """What may be done to a file of somebody else's: its content, mode, owner, times, attributes."""
    return {
        path: [
            outcome(_append, path),
            outcome(os.truncate, path, 0),
            outcome(os.chmod, path, 0o666),
            outcome(os.chown, path, os.getuid(), os.getgid()),
            outcome(os.utime, path, (1, 1)),
            outcome(os.setxattr, path, "user.probe", b"evil"),
        ]
        for path in paths
    }


def _append(path: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("evil\n")


@attempt
def make_for_others(folder: str) -> dict[str, str]:
    """Make files that belong to somebody else, or that give rights to whoever runs them; in a namespace, too."""
    from .kernel import enter_own_user_namespace, in_child

    os.makedirs(folder, exist_ok=True)

    def nested() -> dict[str, str]:
        enter_own_user_namespace(0)
        return _for_others(f"{folder}/nested")

    return _for_others(f"{folder}/plain") | {f"nested {name}": result for name, result in in_child(nested)}


def _for_others(prefix: str) -> dict[str, str]:
    found = {}
    for uid in _ANYBODY:
        path = f"{prefix}-{uid}"
        _append(path)
        found[f"chown {uid}"] = outcome(os.chown, path, uid, uid)
        found[f"device {uid}"] = outcome(os.mknod, f"{path}-device", stat.S_IFCHR | 0o666, os.makedev(1, 1))
    # Version 2, effective: cap_setuid.
    capability = struct.pack("<IIIII", 0x02000001, 1 << 7, 0, 0, 0)
    _append(f"{prefix}-capable")
    found["capability"] = outcome(os.setxattr, f"{prefix}-capable", "security.capability", capability)
    return found


@attempt
def leave_setuid(folder: str) -> dict[str, str]:
    """Files that make whoever runs them outside the one who owns them, by every call that sets a mode."""
    os.makedirs(folder, exist_ok=True)

    def made(name: str) -> None:
        os.umask(0)
        os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT, _SETUID))

    def node() -> None:
        os.mknod(f"{folder}/node", stat.S_IFREG | _SETUID)

    def by_path() -> None:
        _append(f"{folder}/path")
        os.chmod(f"{folder}/path", _SETUID)

    def by_descriptor() -> None:
        with open(f"{folder}/descriptor", "wb") as file:
            os.fchmod(file.fileno(), _SETUID)

    return {
        "open": outcome(made, "open"),
        "mknod": outcome(node),
        "chmod": outcome(by_path),
        "fchmod": outcome(by_descriptor),
    }
