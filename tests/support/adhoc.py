"""Modules run as a user runs them: by `ansible localhost -m`, with the clone's own configuration."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[2]
_FAILED = 2  # as `ansible` exits where a host has failed


class ModuleFailedError(AssertionError):
    """A module failed; `result` is what it returned."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result.get("msg", result))
        self.result = result


def run_module(module: str, *flags: str, **params: Any) -> dict[str, Any]:
    """What a module returns. Raises ModuleFailedError with what it returned where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["ansible", "localhost", "-m", module, "-a", json.dumps(params), "-t", folder, *flags]
        done = subprocess.run(argv, cwd=CLONE, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        answer = Path(folder, "localhost")
        if done.returncode not in (0, _FAILED) or not answer.exists():
            raise AssertionError(done.stdout + done.stderr)
        result: dict[str, Any] = json.loads(answer.read_text())
    # What is written for a result does not say whether it is one of a failure.
    if done.returncode == _FAILED:
        raise ModuleFailedError(result)
    return result
