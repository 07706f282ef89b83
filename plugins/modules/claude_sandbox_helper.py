#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_helper
short_description: Install the helper that makes containers for accounts other than root
description:
  - Puts C(/usr/local/libexec/claude-sandbox/container-helper) on a host, and the engine that it runs, owned by root.
  - An account that may run it by sudo can have sandboxes with
    O(claude_code.nix_sandbox.claude_sandbox#module:backend=container), and gets no more of the host by it than it
    could itself read or write.
  - The rule for sudo is not written by this module; the role P(claude_code.nix_sandbox.sandbox#role) writes it.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.common
options:
  state:
    description: Whether it is there.
    type: str
    choices: [present, absent]
    default: present
  state_dir:
    description: It has no meaning here; it is taken so that it can be set for all modules at once.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: It says which files it writes or removes.
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox
"""

EXAMPLES = r"""
- name: The helper, and who may run it
  become: true
  block:
    - name: Install it
      claude_code.nix_sandbox.claude_sandbox_helper:

    - name: Let the account claude run it
      ansible.builtin.copy:
        dest: /etc/sudoers.d/claude-sandbox
        content: "claude ALL=(root) NOPASSWD: /usr/local/libexec/claude-sandbox/container-helper\n"
        mode: "0440"
        validate: visudo -cf %s
"""

RETURN = r"""
files:
  description: What was, or in check mode would be, written or removed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import installation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **door.STATE_DIR,
        },
        supports_check_mode=True,
    )
    with door.failing(module):
        wanted = installation.files() if module.params["state"] == "present" else {}
        changed = installation.differing(wanted)
        if not module.check_mode:
            installation.apply(wanted)
        module.exit_json(changed=bool(changed), files=changed)


if __name__ == "__main__":
    main()
