#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_attach
short_description: Make sure that a sandbox runs, talk to its agent, and say how a person attaches
description:
  - Starts the sandbox, as it is recorded, where it does not run.
  - Types text and presses keys in the agent's terminal, waits for an answer, and returns the screen.
  - A task has no terminal, so it cannot hand one over; RV(attach_command) is what a person types to have it.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.common
options:
  name:
    description: The sandbox, by its name, its id, or the beginning of its id.
    type: str
    required: true
  text:
    description: What to type, as it is. It is sent before O(keys).
    type: str
  keys:
    description: Keys to press, as tmux names them, for example V(Enter), V(Escape) or V(C-c).
    type: list
    elements: str
  wait_for:
    description: A regular expression of Python's to wait for on the screen. C(^) and C($) are the ends of a line.
    type: str
  wait_idle:
    description: Whether to wait until Claude Code is idle, and has been busy since, where something was typed.
    type: bool
    default: false
  timeout:
    description: How long to wait, in seconds. The task fails when what it waits for has not come by then.
    type: float
    default: 60
attributes:
  check_mode:
    support: full
    details: Nothing is typed, and the screen is read only where the sandbox runs.
  diff_mode:
    support: none
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox_exec
"""

EXAMPLES = r"""
- name: Ask the agent, and wait for its answer
  claude_code.nix_sandbox.claude_sandbox_attach:
    name: webshop
    text: Run the tests and tell me which of them fail.
    keys: [Enter]
    wait_idle: true
    timeout: 600
  register: answer

- name: What it shows
  ansible.builtin.debug:
    var: answer.screen
"""

RETURN = r"""
screen:
  description: The text on the agent's screen.
  returned: when the sandbox runs
  type: str
activity:
  description: What Claude Code says that it does, V(idle), V(busy) or V(waiting) for the user.
  returned: when the sandbox runs
  type: str
attach_command:
  description: What a person types on the host to see and use the terminal; C(C-b d) leaves it.
  returned: when the sandbox runs
  type: str
  sample: env -u TMUX /usr/bin/tmux -S /run/claude-sandbox/9f86d081884c/tmux attach -t main
actions:
  description: What was done to have it run.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.inside import Wait
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **door.NAME,
            "text": {"type": "str"},
            "keys": {"type": "list", "elements": "str", "no_log": False},
            "wait_for": {"type": "str"},
            "wait_idle": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 60.0},
            **door.STATE_DIR,
        },
        supports_check_mode=True,
    )
    params = module.params
    with door.failing(module):
        engine = door.engine(module)
        record = engine.registry.resolve(params["name"])
        outcome = engine.ensure(Request(record.name), check=module.check_mode)
        talks = bool(params["text"] or params["keys"])
        results = {"changed": outcome.changed or talks, "actions": list(outcome.actions)}
        if module.check_mode and outcome.changed:
            module.exit_json(**results)
        if module.check_mode:
            found = engine.converse(record.name, None, [], Wait())
        else:
            wait = Wait(params["wait_for"], params["wait_idle"], params["timeout"])
            found = engine.converse(record.name, params["text"], params["keys"] or [], wait)
        results |= {"screen": found["screen"], "activity": found["activity"]}
        results["attach_command"] = (outcome.sandbox or {}).get("attach_command")
    if not found["found"]:
        why = "it did not come in time" if found["alive"] else "the agent ended before it came"
        module.fail_json(msg=f"Waited for the agent of sandbox {record.name!r}, but {why}.", **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
