#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandboxes
short_description: Make, change and remove many sandboxes of a host in one call
description:
  - Brings each sandbox of a list to its state, several at a time.
  - One call for fifty sandboxes costs one call; fifty calls cost fifty.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.list
  - claude_code.nix_sandbox.sandbox.common
  - claude_code.nix_sandbox.sandbox.change
options:
  prune:
    description: Whether to remove the sandboxes of this registry that the list does not name.
    type: bool
    default: false
  parallel:
    description: How many sandboxes are worked on at a time; as many as the host has processors, unless given.
    type: int
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox
"""

EXAMPLES = r"""
- name: The sandboxes of this host, and no others
  claude_code.nix_sandbox.claude_sandboxes:
    prune: true
    sandboxes:
      - name: webshop
        project_dir: /srv/webshop
      - name: careful
        project_dir: /srv/analysis
        network: false

- name: From the variables of hosts and groups
  claude_code.nix_sandbox.claude_sandboxes:
    sandboxes: "{{ claude_sandboxes }}"
"""

RETURN = r"""
sandboxes:
  description:
    - One result for each sandbox of the list, then one for each that was removed by O(prune).
    - Each has RV(ignore:name), RV(ignore:changed), RV(ignore:actions) and RV(ignore:sandbox) as
      M(claude_code.nix_sandbox.claude_sandbox) returns them, or RV(ignore:error).
  returned: always
  type: list
  elements: dict
  sample:
    - name: webshop
      changed: true
      actions: [create, start]
      sandbox: {name: webshop, status: running}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Outcome


def _shown(name: str, result: Outcome | SandboxError) -> dict[str, Any]:
    if isinstance(result, SandboxError):
        return {"name": name, "changed": False, "actions": [], "error": str(result)}
    return {"name": name, "changed": result.changed, "actions": list(result.actions), "sandbox": result.sandbox}


def _diff(results: dict[str, Outcome | SandboxError]) -> dict[str, Any]:
    changed = {name: result for name, result in results.items() if isinstance(result, Outcome) and result.changed}
    return {
        "before": {name: outcome.before for name, outcome in changed.items()},
        "after": {name: outcome.after for name, outcome in changed.items()},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sandboxes": {"type": "list", "elements": "dict", "required": True, "options": door.sandbox_options()},
            "prune": {"type": "bool", "default": False},
            "parallel": {"type": "int"},
            **door.ON_CHANGE,
            **door.STATE_DIR,
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["parallel"] is not None and not 1 <= params["parallel"] <= 64:
        module.fail_json(msg="parallel must be from 1 to 64.", sandboxes=[])
    with door.failing(module, sandboxes=[]):
        requests = [door.request(item, params["on_change"]) for item in params["sandboxes"]]
        results = door.engine(module).ensure_all(requests, params["prune"], module.check_mode, params["parallel"])
    shown = [_shown(name, result) for name, result in results.items()]
    for result in results.values():
        for warning in result.warnings if isinstance(result, Outcome) else ():
            module.warn(warning)
    changed = any(item["changed"] for item in shown)
    failed = [item for item in shown if "error" in item]
    if failed:
        what = "; ".join(f"{item['name']}: {item['error']}" for item in failed[:5])
        module.fail_json(
            msg=f"{len(failed)} of {len(shown)} sandboxes failed: {what}",
            sandboxes=shown,
            changed=changed,
            diff=_diff(results),
        )
    module.exit_json(changed=changed, sandboxes=shown, diff=_diff(results))


if __name__ == "__main__":
    main()
