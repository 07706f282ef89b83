"""A callback plugin that writes each task's result, as Ansible hands it to callbacks, to a file of JSON lines."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: notification
short_description: Write results to the file that CLAUDE_SANDBOX_TEST_RESULTS names
description: One JSON object a line, in the order of the tasks, each with how long it took.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible's base class has no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "results"
    CALLBACK_NEEDS_ENABLED = True

    _began = 0.0

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result.result)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._began = time.monotonic()

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write({**result.result, "failed": True})

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write({**result.result, "failed": True})

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write(result.result)

    def _write(self, content: dict[str, Any]) -> None:
        with open(os.environ["CLAUDE_SANDBOX_TEST_RESULTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps({**content, "seconds": time.monotonic() - self._began}) + "\n")
