"""What the agent itself is and sees, told by a file: it has no other way to answer."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from .attempt import ATTEMPTS, attempt

_SECONDS = 30  # for each attempt


@attempt
def answer_by_file(path: str, name: str, given: Mapping[str, Any]) -> bool:
    """Make another attempt, and write what it got to a file, which appears whole."""
    # The attempt comes first: it may look at the descriptors that are open.
    text = json.dumps(several([(name, given)]))
    with open(f"{path}.draft", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(f"{path}.draft", path)
    return True


@attempt
def several(attempts: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
    """Several attempts from one process: the answer of each in a list, or how it broke, as text."""
    return [_answer(name, given) for name, given in attempts]


@attempt
def several_of_file(path: str) -> list[Any]:
    """The same with those that stand in a file, which is gone before they are made."""
    with open(path, encoding="utf-8") as file:
        attempts = json.load(file)
    os.unlink(path)
    return [_answer(name, given) for name, given in attempts]


def _answer(name: str, given: Mapping[str, Any]) -> list[Any] | str:
    signal.alarm(_SECONDS)
    try:
        return [ATTEMPTS[name](**given)]
    except Exception:  # noqa: BLE001 - one that breaks must not take the others with it
        return traceback.format_exc()
