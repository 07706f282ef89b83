#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_exec
short_description: Run a command inside a running sandbox
description:
  - Runs a program beside the agent, with its environment and under the same restrictions.
  - No shell is involved, unless O(argv) names one.
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
  argv:
    description: The program and its arguments. The program is looked for inside the sandbox.
    type: list
    elements: str
    required: true
  chdir:
    description: The directory inside in which it runs; the project directory where left out.
    type: path
  env:
    description: Variables for it, beside the agent's.
    type: dict
  stdin:
    description: What it reads.
    type: str
  creates:
    description: A path inside. Where it exists, nothing is run.
    type: str
  removes:
    description: A path inside. Where it does not exist, nothing is run.
    type: str
  timeout:
    description: After how many seconds the program is killed, and the task fails.
    type: float
attributes:
  check_mode:
    support: partial
    details: Nothing is run; O(creates) and O(removes) tell whether it would be.
  diff_mode:
    support: none
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox_attach
"""

EXAMPLES = r"""
- name: Run the project's tests where the agent works
  claude_code.nix_sandbox.claude_sandbox_exec:
    name: webshop
    argv: [make, test]
    timeout: 600

- name: Install what the project needs, once
  claude_code.nix_sandbox.claude_sandbox_exec:
    name: webshop
    argv: [python3, -m, venv, .venv]
    creates: /srv/webshop/.venv
"""

RETURN = r"""
rc:
  description: The exit code; 128 and the signal's number where one ended it, 124 where O(timeout) did.
  returned: when something was run
  type: int
stdout:
  description: What it printed, at most 16 MiB, without the line ends behind it.
  returned: when something was run
  type: str
stderr:
  description: What it printed on its error output, at most 16 MiB.
  returned: when something was run
  type: str
truncated:
  description: Whether it printed more than that.
  returned: when something was run
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_bytes, to_text

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Sandboxes


def _reason_to_skip(engine: Sandboxes, name: str, creates: str | None, removes: str | None) -> str | None:
    if creates and engine.exists(name, creates):
        return f"{creates} exists in the sandbox"
    if removes and not engine.exists(name, removes):
        return f"{removes} does not exist in the sandbox"
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **door.NAME,
            "argv": {"type": "list", "elements": "str", "required": True},
            "chdir": {"type": "path"},
            "env": {"type": "dict"},
            "stdin": {"type": "str"},
            "creates": {"type": "str"},
            "removes": {"type": "str"},
            "timeout": {"type": "float"},
            **door.STATE_DIR,
        },
        supports_check_mode=True,
    )
    params = module.params
    if not params["argv"]:
        module.fail_json(msg="argv is empty: give the program to run.")
    with door.failing(module):
        engine = door.engine(module)
        reason = _reason_to_skip(engine, params["name"], params["creates"], params["removes"])
        if reason or module.check_mode:
            module.exit_json(changed=reason is None, msg=reason or "It would run.", skipped=reason is None)
        done = engine.execute(
            params["name"],
            params["argv"],
            cwd=params["chdir"],
            env=params["env"],
            stdin=to_bytes(params["stdin"] or ""),
            timeout=params["timeout"],
        )
    results = {
        "rc": done.code,
        # Not with surrogates: Ansible refuses a result that has some, and the exit code would be lost with it.
        "stdout": to_text(done.stdout, errors="replace").rstrip("\r\n"),
        "stderr": to_text(done.stderr, errors="replace").rstrip("\r\n"),
        "truncated": done.truncated,
        "changed": True,
    }
    if done.timed_out:
        module.fail_json(msg=f"The command did not end within {params['timeout']} seconds, and was killed.", **results)
    if done.code:
        module.fail_json(msg=f"The command ended with exit code {done.code}.", **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
