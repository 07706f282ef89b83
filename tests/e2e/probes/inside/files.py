"""Attempts at the host's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Sequence

from .attempt import attempt, contents, outcome


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
