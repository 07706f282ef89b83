# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tokens and activity, from the files that Claude Code writes. A sandbox writes them: every one is hostile.

Facts about the files' names and records were measured with Claude Code 2.1.197.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TypeGuard

from . import files
from .claude import encoded

_TOTAL_LIMIT = 512 << 20  # bytes that are read in all; the rest is left out, and said so
_LINE_LIMIT = 4 << 20  # bytes; a message of a model's is shorter, and JSON grows twentyfold in memory
_SESSION_LIMIT = 1 << 16
_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclasses.dataclass
class Usage:
    """What the transcripts hold: a lower bound, for interrupted turns and titles are never recorded."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    messages: int = 0
    tool_uses: int = 0
    by_model: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    complete: bool = True  # whether everything there was could be read

    def add(self, model: str, counts: dict[str, int]) -> None:
        """Count one message of a model."""
        self.messages += 1
        mine = self.by_model.setdefault(model, dict.fromkeys(_TOKENS, 0))
        for name in _TOKENS:
            setattr(self, name, getattr(self, name) + counts[name])
            mine[name] += counts[name]


def transcripts(claude_dir: str, project_dir: str) -> list[str]:
    """The transcripts of a project, those of its subagents too."""
    folder = f"{claude_dir}/projects/{encoded(project_dir)}"
    found: list[str] = []
    if os.path.islink(folder):
        return found
    for path, folders, names in os.walk(folder):
        # SESSION.jsonl, and SESSION/subagents/agent-ID.jsonl: nothing of ours is deeper.
        if path.count("/") - folder.count("/") >= 2:
            folders.clear()
        found += [f"{path}/{name}" for name in names if name.endswith(".jsonl")]
    return sorted(found)


def measure(claude_dir: str, project_dir: str, since: float) -> Usage:
    """What the agent used in a project since a time (seconds since the epoch), each message counted once."""
    usage = Usage()
    messages: dict[str, tuple[str, dict[str, int]]] = {}
    tools: set[str] = set()
    for record in _all_records(transcripts(claude_dir, project_dir), usage):
        if _belongs(record, project_dir, since):
            _note(record["message"], messages, tools)
    for model, counts in messages.values():
        usage.add(model, counts)
    usage.tool_uses = len(tools)
    return usage


def has_conversation(claude_dir: str, project_dir: str) -> bool:
    """Whether a conversation of Claude Code's interface is recorded for a project."""
    ignored = Usage()
    return any(
        isinstance(record, dict)
        and record.get("type") == "user"
        and record.get("cwd") == project_dir
        and not record.get("isSidechain")
        and record.get("entrypoint") != "sdk-cli"
        for record in _all_records(transcripts(claude_dir, project_dir), ignored)
    )


def _belongs(record: Any, project_dir: str, since: float) -> bool:
    if not isinstance(record, dict) or record.get("type") != "assistant" or not isinstance(record.get("message"), dict):
        return False
    cwd = record.get("cwd")
    if not isinstance(cwd, str) or not f"{cwd}/".startswith(f"{project_dir}/"):
        return False
    try:
        when = datetime.datetime.fromisoformat(record["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    return when >= since


def _note(message: dict[str, Any], messages: dict[str, tuple[str, dict[str, int]]], tools: set[str]) -> None:
    """One record stands for each block of a message, and each repeats the message's whole usage."""
    identity, model, counts = message.get("id"), message.get("model"), message.get("usage")
    if not isinstance(identity, str) or not isinstance(counts, dict) or model == "<synthetic>":
        return
    numbers = {name: _count(counts.get(name)) for name in _TOKENS}
    before = messages.get(identity)
    if before is None or sum(numbers.values()) >= sum(before[1].values()):
        messages[identity] = (model if _is_model(model) else "unknown", numbers)
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == "tool_use" and isinstance(block.get("id"), str):
            tools.add(block["id"])


def _is_model(name: Any) -> TypeGuard[str]:
    """Whether this is a name that can be shown: models are called claude-opus-4-8, vendor.model:0 and the like."""
    return isinstance(name, str) and re.fullmatch(r"[\w.:@/\[\]-]{1,100}", name, re.ASCII) is not None


def _count(value: Any) -> int:
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < 1 << 53 else 0


def _all_records(paths: Iterable[str], usage: Usage) -> Iterator[Any]:
    """The records of some transcripts, up to a bound in all."""
    left = _TOTAL_LIMIT
    for path in paths:
        file = files.open_regular(path) if left > 0 else None
        if file is None:
            usage.complete = False
            continue
        with file:
            yield from _records(file, left, usage)
            left -= file.tell()


def _records(file: BinaryIO, limit: int, usage: Usage) -> Iterator[Any]:
    """The records that are finished lines, and short enough to be a message."""
    skips = False
    while line := file.readline(_LINE_LIMIT):
        ends = line.endswith(b"\n")
        if ends and not skips:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                usage.complete = False
        # What is longer than a line can be is passed over to its end; the last line may still be being written.
        skips = not ends
        if file.tell() > limit:
            usage.complete = False
            return


@dataclasses.dataclass(frozen=True)
class Activity:
    """What Claude Code says that it does: idle, busy or waiting, and a mark that changes whenever it says so anew."""

    status: str
    mark: str


def activity(sessions: str, pid: int) -> Activity | None:
    """What the agent with this pid (inside the sandbox) last said; None where it has said nothing.

    sessions: the sandbox's own sessions folder.
    """
    content = files.read_json(f"{sessions}/{pid}.json", _SESSION_LIMIT)
    if not isinstance(content, dict):
        return None
    status = content.get("status")
    if not isinstance(status, str) or not re.fullmatch(r"[a-z_]{1,20}", status):
        return None
    return Activity(status, str(content.get("updatedAt"))[:40])
