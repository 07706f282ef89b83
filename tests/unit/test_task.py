"""A prompt as a task: the process that cleans up after one that was killed."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import task


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_lifeline(tmp_path: Path, number: int) -> None:
    """What is to be cleaned up is, when the process dies, and only then."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            with task.lifeline((tmp_path / "cleaned").touch):
                os.write(writable, b"+")
                signal.pause() if number else None
        finally:
            os._exit(0)
    os.read(readable, 1)
    if number:
        os.kill(child, number)
    os.waitpid(child, 0)
    end = time.monotonic() + 10
    while number and not (tmp_path / "cleaned").exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.01)
    assert (tmp_path / "cleaned").exists() == bool(number)
    os.close(readable)
    os.close(writable)
