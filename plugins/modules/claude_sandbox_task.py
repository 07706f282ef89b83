#!/usr/bin/python
# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claude_sandbox_task
short_description: Have Claude Code carry out a prompt in a sandbox
description:
  - Gives Claude Code a prompt, waits until it is through, and returns what it said and what it changed.
  - It works in a sandbox made for that, which is removed then, or in one that runs (O(name)).
  - What is returned of the agent, its figures included, is its own word. What changed in the project is found out
    from outside.
  - Where this module is killed, or its connection is lost for good, the agent is ended and the sandbox made for it is
    removed by a process that outlives it. Where that is killed, too, the next run on the host removes it.
author:
  - claude_code.nix_sandbox contributors (@claude-code)
version_added: 0.1.0
extends_documentation_fragment:
  - claude_code.nix_sandbox.sandbox.task
  - claude_code.nix_sandbox.sandbox.common
options:
  prompt:
    description:
      - What the agent is to do; at most 16 MiB. A file's content is given by P(ansible.builtin.file#lookup).
      - It is in no list of processes, and in no log of the host.
    type: str
    required: true
  name:
    description:
      - A running sandbox to work in, by its name, its id, or the beginning of its id. It is left as it is.
      - What the agent leaves running there runs on, unless its time was up.
    type: str
  project_dir:
    description:
      - The directory on the host in which the agent works, in a sandbox made for it with the parameters given here.
      - It must be the directory itself and not reached through a symbolic link.
    type: path
  api_key:
    description:
      - The key for Anthropic's API, given to the agent as C(ANTHROPIC_API_KEY), and not recorded, logged or shown.
      - Left out, the account's login is used.
    type: str
  secret_env:
    description: More variables for the agent that are treated as O(api_key) is.
    type: dict
  env:
    description: Variables for the agent. They are recorded and shown; use O(secret_env) for secrets.
    type: dict
  keep:
    description:
      - Whether the sandbox made for this is kept, with a shell in its terminal.
      - RV(sandbox.name) tells its name, by which M(claude_code.nix_sandbox.claude_sandbox) removes it.
    type: bool
    default: false
  model:
    description: The model, by its name or an alias like V(sonnet).
    type: str
  max_turns:
    description: After how many turns the agent is stopped, and the task fails.
    type: int
  max_cost_usd:
    description: After how many US dollars, by Claude Code's own reckoning, the agent is stopped, and the task fails.
    type: float
  timeout:
    description: After how many seconds the agent is killed, and the task fails.
    type: float
    default: 3600
  system_prompt:
    description: Takes the place of Claude Code's own system prompt. It can be seen in the host's list of processes.
    type: str
  append_system_prompt:
    description: Added to the system prompt. It can be seen in the host's list of processes.
    type: str
  permission_mode:
    description:
      - What the agent may do without being asked; V(bypassPermissions) is everything that the sandbox allows.
      - In the other modes, what would be asked is denied, unless O(allowed_tools) allows it.
    type: str
    choices: [acceptEdits, bypassPermissions, default, dontAsk, plan]
    default: bypassPermissions
  allowed_tools:
    description: Tools that are allowed in the other modes, for example V(Bash(git log *)).
    type: list
    elements: str
  disallowed_tools:
    description: Tools that the agent does not get, or may not use in that way.
    type: list
    elements: str
  on_denial:
    description: Whether the task fails when the agent was denied a tool; RV(permission_denials) names them.
    type: str
    choices: [fail, ignore]
    default: fail
  schema:
    description:
      - A JSON schema of an object. The agent has to give one, which is returned as RV(structured).
    type: dict
  session_id:
    description:
      - The RV(session_id) of an earlier task on this project, whose conversation is gone on with.
    type: str
attributes:
  check_mode:
    support: partial
    details: Nothing is run. It looks whether a sandbox could be made, and says that the task would be run.
  diff_mode:
    support: partial
    details: Shows what the agent has changed, after a run; nobody knows it before.
  async:
    description: Can be run by C(async).
    support: full
seealso:
  - module: claude_code.nix_sandbox.claude_sandbox
  - module: claude_code.nix_sandbox.claude_sandbox_exec
"""

EXAMPLES = r"""
- name: Have the tests mended
  claude_code.nix_sandbox.claude_sandbox_task:
    project_dir: /srv/webshop
    prompt: Run `make test` and mend what fails.
    api_key: "{{ anthropic_api_key }}"
    timeout: 1800
    max_cost_usd: 5
  register: mended

- name: What it did
  ansible.builtin.debug:
    msg: "{{ mended.result }} ({{ mended.cost_usd }} US dollars; {{ mended.files.changed | join(', ') }})"

- name: An answer that a play can use
  claude_code.nix_sandbox.claude_sandbox_task:
    project_dir: /srv/webshop
    prompt: Which licenses do the dependencies have, and is one of them not free?
    permission_mode: dontAsk
    allowed_tools: [Read, Grep, Glob]
    on_denial: ignore
    schema:
      type: object
      properties:
        licenses: {type: array, items: {type: string}}
        all_free: {type: boolean}
      required: [licenses, all_free]
  register: licenses
  failed_when: licenses is failed or not licenses.structured.all_free

- name: Go on with that conversation
  claude_code.nix_sandbox.claude_sandbox_task:
    project_dir: /srv/webshop
    prompt: Write that into LICENSES.md.
    session_id: "{{ licenses.session_id }}"

- name: In a sandbox that runs, for an hour at most, without holding the connection
  claude_code.nix_sandbox.claude_sandbox_task:
    name: webshop
    prompt: "{{ lookup('ansible.builtin.file', 'prompts/refactor.md') }}"
    timeout: 3600
  async: 3700
  poll: 30
"""

RETURN = r"""
result:
  description: What the agent said at its end, at most 1 MiB.
  returned: when it said something
  type: str
structured:
  description: The object that O(schema) asks for. Claude Code has compared it with the schema; nobody else has.
  returned: success, when O(schema) is given
  type: dict
session_id:
  description: The conversation, which another task on the project can resume.
  returned: when the agent was run
  type: str
cost_usd:
  description: What it cost in US dollars, by Claude Code's own reckoning.
  returned: when the agent was run
  type: float
num_turns:
  description: How many turns it took.
  returned: when the agent was run
  type: int
duration_s:
  description: How many seconds it ran.
  returned: when the agent was run
  type: float
usage:
  description: Tokens of all models together, and of each one.
  returned: when the agent was run
  type: dict
  contains:
    input_tokens:
      description: Read, not from a cache.
      type: int
    output_tokens:
      description: Written.
      type: int
    cache_creation_input_tokens:
      description: Put into a cache.
      type: int
    cache_read_input_tokens:
      description: Read from a cache.
      type: int
    by_model:
      description: The same of each model by its name, and its RV(ignore:cost_usd).
      type: dict
permission_denials:
  description: The tools that the agent was denied, each with what it wanted, shortened.
  returned: when the agent was run
  type: list
  elements: str
files:
  description:
    - What is another in the project than before, as paths in it; symbolic links count, empty folders do not.
    - Of what is in C(.git), only configuration, hooks and C(info) are looked at.
  returned: when the agent was run
  type: dict
  contains:
    created:
      description: Files that were not there.
      type: list
      elements: str
    changed:
      description: Files with other content or another mode. A file above 64 KiB counts when it was written to.
      type: list
      elements: str
    deleted:
      description: Files that are gone.
      type: list
      elements: str
    truncated:
      description:
        - Whether something is missing, here or in RV(patch). At most 100,000 files in 64 levels of folders are looked
          at, 5,000 are named, and RV(patch) has at most 1 MiB. What cannot be read is missing, too.
      type: bool
patch:
  description:
    - The difference of the texts, in the unified format. Text is what is UTF-8, has no NUL and at most 64 KiB; of the
      project as it was before, at most 64 MiB, nearest to the top, can be compared.
  returned: when the agent was run
  type: str
sandbox:
  description: Where the agent worked.
  returned: when the agent was run
  type: dict
  contains:
    name:
      description: The sandbox's name.
      type: str
    kept:
      description: Whether it is still there.
      type: bool
"""

import dataclasses
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import prompt, task, untrusted
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.prompt import Report, Task
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes

# What the task itself chooses.
_CHOSEN = ("name", "state", "agent", "agent_args", "resume")


def _options() -> dict[str, Any]:
    of_sandbox = {name: option for name, option in door.sandbox_options().items() if name not in _CHOSEN}
    return {
        **of_sandbox,
        **door.STATE_DIR,
        # In no log; where the agent's words repeat it, they are shown all the same (see main).
        "prompt": {"type": "str", "required": True, "no_log": True},
        "name": {"type": "str"},
        "keep": {"type": "bool", "default": False},
        "model": {"type": "str"},
        "max_turns": {"type": "int"},
        "max_cost_usd": {"type": "float"},
        "timeout": {"type": "float", "default": 3600},
        "system_prompt": {"type": "str"},
        "append_system_prompt": {"type": "str"},
        "permission_mode": {
            "type": "str",
            "choices": list(prompt.PERMISSION_MODES),
            "default": "bypassPermissions",
        },
        "allowed_tools": {"type": "list", "elements": "str"},
        "disallowed_tools": {"type": "list", "elements": "str"},
        "on_denial": {"type": "str", "choices": list(prompt.ON_DENIAL), "default": "fail"},
        "schema": {"type": "dict"},
        "session_id": {"type": "str"},
    }


def _task(params: dict[str, Any]) -> Task:
    names = {field.name for field in dataclasses.fields(Task)}
    # What is not given is as the engine has it.
    return Task(**{name: value for name, value in params.items() if name in names and value is not None})


def _request(params: dict[str, Any]) -> Request:
    """The sandbox that is asked for."""
    chosen = {"name": "task", "state": "started", "agent": None, "agent_args": None, "resume": None}
    return door.request({**params, **chosen}, "fail")


def _check_existing(params: dict[str, Any]) -> None:
    """An existing sandbox is taken as it is: what is asked of it otherwise would have no effect."""
    # The request tells which; variables go to the command.
    _request({**params, "env": None})
    for name in ("keep", "api_key", "secret_env"):
        if params[name]:
            raise SandboxError(f"{name} has no effect on an existing sandbox.", "Leave it out, or give project_dir.")


def _run(engine: Sandboxes, params: dict[str, Any]) -> Report:
    if params["name"]:
        return task.in_existing(engine, params["name"], _task(params), params["env"] or {})
    return task.in_new(engine, _request(params), _task(params), params["keep"])


def _results(report: Report, made: bool) -> dict[str, Any]:
    files = report.files or {"created": [], "changed": [], "deleted": [], "truncated": True}
    found = {
        "result": report.result,
        "structured": report.structured,
        "session_id": report.session_id,
        "cost_usd": report.cost_usd,
        "num_turns": report.num_turns,
        "duration_s": report.duration_s,
        "usage": report.usage,
    }
    return {
        **{name: value for name, value in found.items() if value is not None},
        "permission_denials": report.denials,
        "files": files,
        "patch": report.patch,
        # Not as texts before and after: Ansible would compare the agent's files once more, without a bound.
        "diff": {"prepared": untrusted.visible(report.patch)},
        "sandbox": {"name": report.sandbox, "kept": report.kept},
        "changed": bool(files["created"] or files["changed"] or files["deleted"] or (made and report.kept)),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=_options(),
        mutually_exclusive=[("name", "project_dir")],
        required_one_of=[("name", "project_dir")],
        supports_check_mode=True,
    )
    params = dict(module.params)
    # It is no secret that must be hidden wherever it appears: "ok" would be. It is merely not for logs.
    module.no_log_values.discard(params["prompt"])
    module.params["prompt"] = f"{len(params['prompt'])} characters"
    with door.failing(module):
        engine = door.engine(module)
        asked = _task(params)
        asked.check()
        if params["name"]:
            _check_existing(params)
        elif module.check_mode:
            task.preview(engine, _request(params), asked, params["keep"])
        if module.check_mode:
            module.exit_json(changed=True, skipped=True, msg="It would be run.")
        report = _run(engine, params)
    for warning in report.warnings:
        module.warn(warning)
    results = _results(report, made=not params["name"])
    if report.failure:
        module.fail_json(msg=report.failure, **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
