# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts say of their sandboxes, as rows of one table."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_rows
short_description: The sandboxes of many hosts as rows of one table
version_added: 0.1.0
author:
  - claude_code.nix_sandbox contributors (@claude-code)
description:
  - Makes one row of each sandbox of each host, and one of each host that has none or did not tell.
  - Nothing of what a host says is taken for granted; what is of another kind is left out.
options:
  _input:
    description: For each host by its name, what M(claude_code.nix_sandbox.claude_sandbox_info) returned.
    type: dict
    required: true
  whole:
    description: Whether each row has all that is known of the sandbox, too, as C(detail).
    type: bool
    default: false
seealso:
  - plugin: claude_code.nix_sandbox.table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: What runs where
  ansible.builtin.debug:
    msg: "{{ rows | claude_code.nix_sandbox.table(['host', 'sandbox', 'status']) }}"
  vars:
    rows: "{{ {'web1': found} | claude_code.nix_sandbox.fleet_rows }}"
"""

RETURN = r"""
_value:
  description: >-
    The rows, with C(host), C(sandbox), C(backend), C(status), C(activity), C(tokens), C(usd), C(project) and C(note).
  type: list
  elements: dict
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def fleet_rows(hosts: Mapping[str, Any], whole: bool = False) -> list[dict[str, Any]]:
    """The rows, in the order of the hosts. Raises AnsibleFilterError where it is given something else."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError("fleet_rows wants a mapping from hosts to results.")
    return [row for host, result in hosts.items() for row in _rows(str(host), _mapping(result), whole)]


def _rows(host: str, result: Mapping[str, Any], whole: bool) -> Iterator[dict[str, Any]]:
    sandboxes = result.get("sandboxes")
    if not isinstance(sandboxes, list):
        message = result.get("msg") if not result.get("skipped") else None
        yield _row(host, status="unknown", note=str(message or "does not answer"))
        return
    if not sandboxes:
        yield _row(host, note="no sandboxes")
    for view in map(_mapping, sandboxes):
        yield {**_of_sandbox(host, view), **({"detail": dict(view)} if whole else {})}


def _of_sandbox(host: str, view: Mapping[str, Any]) -> dict[str, Any]:
    usage = _mapping(view.get("usage"))
    session = _mapping(usage.get("session"))
    cost = _number(_mapping(session.get("cost")).get("usd"))
    return _row(
        host,
        sandbox=view.get("name"),
        backend=view.get("backend"),
        status=view.get("status"),
        activity=usage.get("activity") if view.get("status") == "running" else None,
        tokens=sum(int(_number(session.get(kind)) or 0) for kind in _TOKENS) or None,
        usd=None if not cost else round(cost, 2),
        project=view.get("project_dir"),
        note=view.get("problem") or view.get("reason"),
    )


def _row(host: str, **known: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("sandbox", "backend", "status", "activity", "tokens", "usd", "project", "note"))
    return {"host": host, **empty, **known}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and math.isfinite(value) else None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Each by its name."""
        return {"fleet_rows": fleet_rows}
