# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A sandbox's secrets: kept in one file of its account's, given to the agent as variables, shown nowhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from . import files
from .registry import Record
from .spec import environment

API_KEY = "ANTHROPIC_API_KEY"
_LIMIT = 4 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Keys:
    """Secrets that are asked for: None leaves what is stored, an empty one takes it away."""

    api_key: str | None
    secret_env: Mapping[str, str] | None

    def over(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What will be stored. Raises SandboxError where one cannot be a variable."""
        given: dict[str, Any] = {}
        if self.api_key is not None:
            given["api_key"] = environment("api_key", {API_KEY: self.api_key}, secret=True)[API_KEY]
        if self.secret_env is not None:
            given["secret_env"] = environment("secret_env", self.secret_env, secret=True)
        return {key: value for key, value in {**stored, **given}.items() if value}


def stored(record: Record) -> dict[str, Any]:
    """What is stored for a sandbox."""
    content = files.read_json(_file(record), _LIMIT)
    return content if isinstance(content, dict) else {}


def store(record: Record, content: Mapping[str, Any], lasting: bool = True) -> None:
    """Replace what is stored, to be called under the sandbox's account. Raises OSError.

    lasting: as for files.replace.
    """
    files.replace(_file(record), json.dumps(content).encode(), lasting=lasting)


def variables(record: Record) -> dict[str, str]:
    """The variables that the agent gets of what is stored."""
    content = stored(record)
    key = {API_KEY: content["api_key"]} if "api_key" in content else {}
    return {**key, **content.get("secret_env", {})}


def _file(record: Record) -> str:
    return f"{record.data}/secrets.json"
