# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading what one message adds to a long transcript, against reading all of it."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import claude, usage

from . import place
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIMIT = 1 / 500
_BYTES = 100_000_000
_ROUNDS = 5
_PROJECT = "/srv/project"
_SECONDS = 20  # from one message to the next: the history is a week long then
_OUTPUT = "what a tool printed, and the agent read\n" * 100  # measured: 3.7 KB a message, most of it other records


def measure(where: place.Place) -> Figure:
    """The figure; its transcript is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=where.folder) as folder:
        path = f"{folder}/projects/{claude.encoded(_PROJECT)}/session.jsonl"
        os.makedirs(os.path.dirname(path))
        number = _write(path)
        kept = _meter(folder)
        kept.refresh()

        def one_more() -> float:
            nonlocal number
            number += 1
            with open(path, "ab") as file:
                file.write(_line(_answer(number)))
            return milliseconds(kept.refresh)

        samples = in_turns(_ROUNDS, {"whole": lambda: milliseconds(_meter(folder).refresh), "one line more": one_more})
        found = kept.refresh()
        if found != _meter(folder).refresh() or found.messages != number:
            raise RuntimeError("what was added up is not what is there")
    note = f"{found.messages} messages, {len(found.history)} spans of time"
    return Figure("usage-refresh", ratio(samples["one line more"], samples["whole"]), LIMIT, (shown(samples), note))


def _meter(folder: str) -> usage.Meter:
    return usage.Meter(folder, _PROJECT, 0)


def _write(path: str) -> int:
    """A transcript of _BYTES; how many messages are in it."""
    number = 0
    with open(path, "wb") as file:
        while file.tell() < _BYTES:
            number += 1
            file.write(_line({"type": "user", "cwd": _PROJECT, "message": {"role": "user", "content": _OUTPUT}}))
            file.write(_line(_answer(number)))
    return number


def _answer(number: int) -> dict[str, Any]:
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=_SECONDS * number)
    tokens = {"input_tokens": 3, "output_tokens": 200, "cache_read_input_tokens": 50_000}
    content = [{"type": "tool_use", "id": f"tool_{number}", "name": "Bash", "input": {"command": "ls"}}]
    message = {"id": f"msg_{number}", "model": "claude-opus-4-8", "usage": tokens, "content": content}
    return {"type": "assistant", "cwd": _PROJECT, "timestamp": when.isoformat(), "message": message}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
