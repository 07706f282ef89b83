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
from collections.abc import Iterator
from typing import Any

from . import files
from .claude import encoded

_FILE_LIMIT = 256 << 20  # bytes of a transcript that are read; the rest is left out, and said so
_LINE_LIMIT = 64 << 20
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
    found = []
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
    for path in transcripts(claude_dir, project_dir):
        for record in _records(path, usage):
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
        for path in transcripts(claude_dir, project_dir)
        for record in _records(path, ignored)
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
        messages[identity] = (model if isinstance(model, str) else "unknown", numbers)
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == "tool_use" and isinstance(block.get("id"), str):
            tools.add(block["id"])


def _count(value: Any) -> int:
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < 1 << 53 else 0


def _records(path: str, usage: Usage) -> Iterator[Any]:
    """The records of a transcript that are finished lines; never waits, never follows a link."""
    file = files.open_regular(path)
    if file is None:
        usage.complete = False
        return
    with file:
        left = _FILE_LIMIT
        while left > 0 and (line := file.readline(_LINE_LIMIT)):
            left -= len(line)
            if not line.endswith(b"\n"):
                # The last line is still being written; any other of that length is no record.
                usage.complete = usage.complete and len(line) < _LINE_LIMIT
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                usage.complete = False
        usage.complete = usage.complete and left > 0


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
