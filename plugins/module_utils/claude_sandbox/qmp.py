# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""QMP, the protocol by which QEMU itself is told what to do."""

from __future__ import annotations

import json
from typing import Any

from .channel import Channel, connected, reason
from .errors import SandboxError

_LINE_LIMIT = 1 << 20  # bytes
_MOST_EVENTS = 1000  # between a command and its answer


def command(folder: str, name: str, arguments: dict[str, Any] | None = None, seconds: float = 10.0) -> Any:
    """What QEMU, whose socket `qmp` is in the folder, returns for a command.

    Raises SandboxError where it refuses, or does not answer within `seconds`.
    """
    with connected(folder, "qmp", seconds, _LINE_LIMIT) as channel:
        if "QMP" not in channel.json():
            raise SandboxError("What listens in QEMU's place is not QEMU.")
        _ask(channel, "qmp_capabilities", None)
        return _ask(channel, name, arguments)


def _ask(channel: Channel, name: str, arguments: dict[str, Any] | None) -> Any:
    request: dict[str, Any] = {"execute": name}
    if arguments is not None:
        request["arguments"] = arguments
    channel.send(json.dumps(request).encode() + b"\n")
    for _number in range(_MOST_EVENTS):
        answer = channel.json()
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise SandboxError(f"QEMU refuses {name}: {reason(answer)}.")
    raise SandboxError(f"QEMU does not answer {name}.")
