# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A callback plugin that writes how long each task took, on all hosts together, to a file of JSON lines."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: spans
type: notification
short_description: Write the time of each task to the file that CLAUDE_SANDBOX_BENCH_SPANS names
description: One JSON object a line, in the order of the tasks.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible's base class has no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "spans"
    CALLBACK_NEEDS_ENABLED = True

    _task = ""
    _since = 0.0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._end()
        self._task, self._since = task.get_name(), time.monotonic()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._task:
            with open(os.environ["CLAUDE_SANDBOX_BENCH_SPANS"], "a", encoding="utf-8") as file:
                file.write(json.dumps({"task": self._task, "seconds": time.monotonic() - self._since}) + "\n")
