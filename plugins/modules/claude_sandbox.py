#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox
short_description: Make, change and remove a sandbox in which Claude Code works
description:
  - Makes sure that a sandbox exists on the host and is in the state asked for.
  - An agent (Claude Code unless told otherwise) runs in it on one project directory, in a terminal that outlives the
    play, with a screen of its own on which it can run Chromium.
  - What the sandbox may reach of the host is decided by O(grants), O(mounts) and O(network); all else is not there.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox
  - claude_code.nix_sandbox.sandbox.common
  - claude_code.nix_sandbox.sandbox.change
options:
  purge:
    description:
      - With O(state=absent), also delete what the project keeps from one sandbox to the next (C(~/.local), C(~/.cache),
        the browser's profile, C(/tmp)).
      - The project directory itself is never touched.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details: The same plan is shown that a run would carry out.
  diff_mode:
    support: full
seealso:
  - module: claude_code.nix_sandbox.claude_sandboxes
  - module: claude_code.nix_sandbox.claude_sandbox_info
"""

EXAMPLES = r"""
- name: A sandbox in which Claude Code works on a project
  claude_code.nix_sandbox.claude_sandbox:
    name: webshop
    project_dir: /srv/webshop
    api_key: "{{ lookup('ansible.builtin.env', 'ANTHROPIC_API_KEY') }}"
  register: webshop

- name: How to see it
  ansible.builtin.debug:
    var: webshop.sandbox.attach_command

- name: One without a network, and without your keys
  claude_code.nix_sandbox.claude_sandbox:
    name: careful
    project_dir: /srv/webshop
    network: false
    grants:
      ssh: false
      gh: false

- name: An agent that asks nothing, with a dataset it may read
  claude_code.nix_sandbox.claude_sandbox:
    name: autonomous
    project_dir: /srv/analysis
    agent_args:
      - --dangerously-skip-permissions
    mounts:
      - source: /srv/datasets/2026
        target: /data

- name: Allow a change that ends what the agent is doing
  claude_code.nix_sandbox.claude_sandbox:
    name: webshop
    project_dir: /srv/webshop
    geometry: 1280x800
    on_change: restart

- name: Remove it
  claude_code.nix_sandbox.claude_sandbox:
    name: webshop
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: str
  sample: [create, start]
sandbox:
  description: The sandbox as it is now; V(null) where there is none.
  returned: success
  type: dict
  contains:
    id:
      description: Its identifier, of which a unique beginning is enough to name it.
      type: str
      sample: 9f86d081884c
    name:
      description: Its name.
      type: str
    status:
      description:
        - V(running); V(stopped) when it was asked to stop; V(dead) when its agent ended by itself, with its last screen
          kept; V(unreadable) when its record is damaged.
      type: str
    exit_code:
      description: What the agent ended with, where it ended by itself; 128 and the signal's number where one ended it.
      type: int
    attach_command:
      description: What a person types on the host to see and use the agent's terminal.
      type: str
    tmux_socket:
      description: The socket of the sandbox's own tmux server.
      type: str
    tmux_session:
      description: The session in it.
      type: str
    display_num:
      description: The number of its X display, V(3) for C(:3).
      type: int
    pid:
      description: The pid on the host of the sandbox's first process.
      type: int
    pid_xvfb:
      description: The pid of its X server.
      type: int
    qemu_qmp_socket:
      description: The monitor's socket, for a virtual machine.
      type: str
    created_at:
      description: When it was made, in ISO 8601 and UTC.
      type: str
    started_at:
      description: When it was last started.
      type: str
    stopped_at:
      description: When it was stopped, where it is.
      type: str
    log:
      description: The file on the host with what its terminal showed.
      type: str
    given:
      description: The grants it has.
      type: list
      elements: str
    skipped:
      description: The grants and mounts that it was to have and has not, each with the reason.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **door.sandbox_options(),
            **door.ON_CHANGE,
            **door.STATE_DIR,
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with door.failing(module):
        asked = door.request(module.params, module.params["on_change"], module.params["purge"])
        outcome = door.engine(module).ensure(asked, check=module.check_mode)
        for warning in outcome.warnings:
            module.warn(warning)
        module.exit_json(**door.result(outcome))


if __name__ == "__main__":
    main()
