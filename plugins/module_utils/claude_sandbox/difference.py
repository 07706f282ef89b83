# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is different between two snapshots of a project: the files' names, and a patch of their texts.

What is in the project is the agent's: texts can be made to take as long as one likes to compare, and an alarm of the
process ends that. So a process of one thread has to do it.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .snapshot import Entry, Snapshot
from .untrusted import visible

_NAMES_LIMIT = 5_000  # of changed files that are named
_PATCH_LIMIT = 1 << 20  # characters
_PATCH_SECONDS = 2.0  # for the difference of one file
_PATCHES_SECONDS = 20.0


def between(before: Snapshot, after: Snapshot) -> tuple[dict[str, Any], str]:
    """The files created, changed and deleted, and the difference of their texts."""
    created = sorted(after.entries.keys() - before.entries.keys())
    deleted = sorted(before.entries.keys() - after.entries.keys())
    changed = sorted(
        path
        for path in before.entries.keys() & after.entries.keys()
        if _differ(before.entries[path], after.entries[path])
    )
    complete = before.complete and after.complete
    found: dict[str, Any] = {}
    room = _NAMES_LIMIT
    for kind, paths in (("created", created), ("changed", changed), ("deleted", deleted)):
        found[kind] = [_named(path) for path in paths[:room]]
        complete = complete and len(paths) <= room
        room -= len(found[kind])
    patch, whole = _patch(before, after, sorted([*created, *changed, *deleted])[:_NAMES_LIMIT])
    return {**found, "truncated": not (complete and whole)}, patch


def _differ(old: Entry, new: Entry) -> bool:
    """Whether a file that was there, and still is, is another one."""
    if (old.kind, old.mode) != (new.kind, new.mode):
        return True
    if old.content is not None and new.content is not None:
        return old.content != new.content
    return old.mark != new.mark


def _named(path: str) -> str:
    """A path as text: bytes that are none are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _patch(before: Snapshot, after: Snapshot, paths: Sequence[str]) -> tuple[str, bool]:
    """The differences of these files, and whether these are all."""
    pieces: list[str] = []
    left = _PATCH_LIMIT
    end = time.monotonic() + _PATCHES_SECONDS
    for path in paths:
        piece = _patch_of(path, before.entries.get(path), after.entries.get(path), end - time.monotonic())
        if len(piece) > left:
            return "".join(pieces), False
        pieces.append(piece)
        left -= len(piece)
    return "".join(pieces), True


def _patch_of(path: str, old: Entry | None, new: Entry | None, seconds: float) -> str:
    name = visible(_named(path)).replace("\n", "\\n").replace("\t", "\\t")
    head = f"--- {f'a/{name}' if old else '/dev/null'}\n+++ {f'b/{name}' if new else '/dev/null'}\n"
    if old and new and old.mode != new.mode:
        head = f"mode of {name}: {old.mode:04o} -> {new.mode:04o}\n{head}"
    texts = [_lines(entry) for entry in (old, new)]
    if texts[0] is None or texts[1] is None:
        return f"{head}(not compared: no small text)\n"
    try:
        with _at_most(min(seconds, _PATCH_SECONDS)):
            found = list(itertools.islice(difflib.unified_diff(texts[0], texts[1]), 2, None))
    except _TooLongError:
        return f"{head}(not compared: it takes too long)\n"
    return head + "".join(each if each.endswith("\n") else f"{each}\n\\ No newline at end of file\n" for each in found)


def _lines(entry: Entry | None) -> list[str] | None:
    """The lines of a file's text, none of one that is not there; None where it has no text that can be compared."""
    if entry is None:
        return []
    if entry.content is None:
        return None
    try:
        text = entry.content.decode()
    except UnicodeDecodeError:
        return None
    *whole, rest = text.split("\n")
    return [f"{each}\n" for each in whole] + ([rest] if rest else [])


class _TooLongError(Exception):
    """Something took longer than it may."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises _TooLongError in what takes longer; in a process of one thread."""

    def late(_number: int, _frame: object) -> None:
        raise _TooLongError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
