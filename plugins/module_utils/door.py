# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: parameters made from the engine's declarations, and results as Ansible knows them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import plan
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import (
    Outcome,
    Request,
    Sandboxes,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.spec import Option, Spec

STATE_DIR: dict[str, Any] = {"state_dir": {"type": "path"}}
ON_CHANGE: dict[str, Any] = {"on_change": {"type": "str", "choices": list(plan.ON_CHANGE), "default": "fail"}}
NAME: dict[str, Any] = {"name": {"type": "str", "required": True}}


def sandbox_options() -> dict[str, Any]:
    """The parameters of one sandbox: its state, its secrets and all fields of the engine's spec."""
    options: dict[str, Any] = {
        **NAME,
        "state": {"type": "str", "choices": list(plan.STATES), "default": "started"},
        "api_key": {"type": "str", "no_log": True},
        "secret_env": {"type": "dict", "no_log": True},
    }
    for field in dataclasses.fields(Spec):
        options[field.name] = _option(field)
    return options


def _option(field: dataclasses.Field[Any]) -> dict[str, Any]:
    option: dict[str, Any] = {"type": field.metadata["kind"]}
    if "choices" in field.metadata:
        option["choices"] = list(field.metadata["choices"])
    default = field.default_factory() if callable(field.default_factory) else field.default
    if default not in (None, dataclasses.MISSING, {}, []):
        option["default"] = default
    if isinstance(field.metadata.get("options"), Mapping):
        option["options"] = {name: _suboption(each) for name, each in field.metadata["options"].items()}
        del option["default"]
    elif field.name == "grants":
        option["options"] = {name: {"type": "bool"} for name in field.metadata["options"]}
    elif field.name == "mounts":
        option["elements"] = "dict"
        option["options"] = {
            "source": {"type": "path", "required": True},
            "target": {"type": "path"},
            "mode": {"type": "str", "choices": ["ro", "rw"], "default": "ro"},
        }
    elif option["type"] == "list":
        option["elements"] = "str"
    return option


def _suboption(option: Option) -> dict[str, Any]:
    found: dict[str, Any] = {"type": option.kind}
    if option.default is not None:
        found["default"] = option.default
    if option.choices:
        found["choices"] = list(option.choices)
    return found


def request(params: Mapping[str, Any], on_change: str, purge: bool = False) -> Request:
    """What these parameters ask of the engine. Raises SandboxError where some would have no effect."""
    fields = {field.name: params[field.name] for field in dataclasses.fields(Spec)}
    if params["project_dir"] is None:
        _check_nothing_lost(fields)
    return Request(
        name=params["name"],
        state=params["state"],
        params=None if params["project_dir"] is None else fields,
        on_change=on_change,
        api_key=params["api_key"],
        secret_env=params["secret_env"],
        purge=purge,
    )


def _check_nothing_lost(fields: Mapping[str, Any]) -> None:
    """Without a project directory the sandbox is taken as recorded, so nothing else may be asked of it."""
    for field in dataclasses.fields(Spec):
        if fields[field.name] not in (None, _option(field).get("default")):
            raise SandboxError(
                f"{field.name} is given without project_dir.",
                "Give project_dir too, or leave both out to take the sandbox as it is recorded.",
            )


@contextlib.contextmanager
def failing(module: AnsibleModule, **more: Any) -> Iterator[None]:
    """Turn the engine's errors into the module's failure."""
    try:
        yield
    except SandboxError as error:
        module.fail_json(msg=" ".join(part for part in (error.what, error.hint) if part), **more)


def engine(module: AnsibleModule) -> Sandboxes:
    """The sandboxes of this host, in the registry that the parameters name."""
    return Sandboxes(state_dir=module.params["state_dir"])


def result(outcome: Outcome) -> dict[str, Any]:
    """What a module returns of an outcome."""
    return {
        "changed": outcome.changed,
        "actions": list(outcome.actions),
        "sandbox": outcome.sandbox,
        "diff": {"before": outcome.before, "after": outcome.after},
    }
