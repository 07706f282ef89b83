#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_info
short_description: Show the sandboxes of a host, and what they use
description:
  - Shows all sandboxes of a registry, or those named.
  - It changes nothing, and starts no process on the host but its own.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.common
options:
  name:
    description: The sandboxes to show, each by its name, its id, or the beginning of its id; all where left out.
    type: list
    elements: str
  usage:
    description: Whether to add what each uses. Reading the tokens takes longer the longer the transcripts are.
    type: bool
    default: false
  doctor:
    description: Whether to look, for each backend, what on this host keeps it from working.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: It changes nothing.
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox
"""

EXAMPLES = r"""
- name: All sandboxes of this host
  claude_code.nix_sandbox.claude_sandbox_info:
  register: found

- name: What is missing on this host, and the command that mends it
  claude_code.nix_sandbox.claude_sandbox_info:
    doctor: true
  register: found

- name: What one of them uses
  claude_code.nix_sandbox.claude_sandbox_info:
    name: webshop
    usage: true
"""

RETURN = r"""
backends:
  description: Each backend by its name.
  returned: when O(doctor) is true
  type: dict
  contains:
    works:
      description: Whether nothing is known that keeps it from working.
      type: bool
    problems:
      description: What does, each as RV(ignore:what) and RV(ignore:hint), the way to mend it.
      type: list
      elements: dict
sandboxes:
  description:
    - The sandboxes in the order of their names, each as M(claude_code.nix_sandbox.claude_sandbox) returns it.
    - One whose record is damaged has only RV(ignore:name), RV(ignore:status) V(unreadable), RV(ignore:problem) and
      RV(ignore:folder).
  returned: success
  type: list
  elements: dict
  contains:
    usage:
      description: What it uses.
      returned: when O(usage) is true
      type: dict
      contains:
        process:
          description:
            - Of its processes now, RV(ignore:cpu_seconds) (seconds so far), RV(ignore:memory_bytes) (resident bytes,
              shared pages counted for each process) and RV(ignore:processes).
          type: dict
        session:
          description:
            - Of the project's Claude Code sessions since the sandbox was made, from their transcripts,
              RV(ignore:messages), RV(ignore:tool_uses) and tokens (RV(ignore:input_tokens), RV(ignore:output_tokens),
              RV(ignore:cache_creation_input_tokens), RV(ignore:cache_read_input_tokens)).
            - It is a lower bound, for interrupted turns are not in the transcripts.
          type: dict
          contains:
            by_model:
              description: Tokens and RV(ignore:messages) of each model by its name.
              type: dict
            history:
              description:
                - Tokens and RV(ignore:messages) by time. RV(ignore:at) is when ten minutes begin, in seconds since the
                  epoch; those without a message are left out.
                - Of many, the latest 1008, which are a week without a pause.
              type: list
              elements: dict
            cost:
              description:
                - An estimate, and a lower bound, of what the tokens cost by Anthropic's list prices of a certain day.
                  Where a model has several prices, the lowest counts. A subscription or a discount is not known here.
                - The file C(prices.json) in O(state_dir) sets other prices.
              type: dict
              contains:
                usd:
                  description: US dollars.
                  type: float
                as_of:
                  description: The day of the prices.
                  type: str
                unpriced:
                  description: Models that have no price, and that count nothing.
                  type: list
                  elements: str
            complete:
              description: Whether nothing of the transcripts had to be left out.
              type: bool
            pending:
              description: Bytes of the transcripts that are yet to be read. Here always V(0).
              type: int
        activity:
          description: What Claude Code says that it does, V(idle), V(busy) or V(waiting) for the user.
          type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.registry import Record
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Sandboxes


def _shown(engine: Sandboxes, record: Record, usage: bool) -> dict[str, Any]:
    view = engine.view(record)
    return {**view, "usage": engine.usage(record)} if usage and not record.problem else view


def _backends(engine: Sandboxes) -> dict[str, Any]:
    found = {name: [dict(each.__dict__) for each in problems] for name, problems in engine.problems().items()}
    return {name: {"works": not problems, "problems": problems} for name, problems in found.items()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str"},
            "usage": {"type": "bool", "default": False},
            "doctor": {"type": "bool", "default": False},
            **door.STATE_DIR,
        },
        supports_check_mode=True,
    )
    with door.failing(module):
        engine = door.engine(module)
        names = module.params["name"]
        records = engine.registry.records() if names is None else [engine.registry.resolve(name) for name in names]
        shown = [_shown(engine, record, module.params["usage"]) for record in records]
        for record in records:
            if record.problem:
                module.warn(f"The record of sandbox {record.name!r} cannot be read: {record.problem}.")
        more = {"backends": _backends(engine)} if module.params["doctor"] else {}
        module.exit_json(sandboxes=shown, **more)


if __name__ == "__main__":
    main()
