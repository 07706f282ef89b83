"""The modules' parameters are what the documentation says and what the engine takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from ansible_collections.claude_code.nix_sandbox.plugins.doc_fragments.sandbox import ModuleDocFragment
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import plan, spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

Options = dict[str, Any]
DOCUMENTED = ("type", "choices", "default", "elements", "required")


def documented(text: str) -> Options:
    options: Options = yaml.safe_load(text)["options"]
    return {name: plain(option, "suboptions") for name, option in options.items()}


def plain(option: Options, below: str) -> Options:
    """What both the documentation and the code say of an option."""
    # YAML has no other way to write these: a default that is left out is none.
    found = {key: option[key] for key in DOCUMENTED if key in option}
    if below in option:
        found["options"] = {name: plain(each, below) for name, each in option[below].items()}
    return found


def declared(options: Options) -> Options:
    return {name: plain(option, "options") for name, option in options.items()}


def test_the_parameters_of_a_sandbox_are_as_documented() -> None:
    assert declared(door.sandbox_options()) == documented(ModuleDocFragment.DOCUMENTATION)


def test_on_change_is_as_documented() -> None:
    assert declared(door.ON_CHANGE) == documented(ModuleDocFragment.CHANGE)


def test_the_state_directory_is_as_documented() -> None:
    assert declared(door.STATE_DIR) == documented(ModuleDocFragment.COMMON)


def test_the_sandboxes_of_a_list_have_the_same_parameters() -> None:
    listed = documented(ModuleDocFragment.LIST)["sandboxes"]
    assert listed["options"] == documented(ModuleDocFragment.DOCUMENTATION)
    assert (listed["type"], listed["elements"], listed["required"]) == ("list", "dict", True)


@pytest.mark.parametrize("name", ["api_key", "secret_env"])
def test_secrets_are_not_logged(name: str) -> None:
    assert door.sandbox_options()[name]["no_log"] is True


def test_everything_is_explained() -> None:
    def explained(options: Options) -> bool:
        return all(o["description"] and explained(o.get("suboptions", {})) for o in options.values())

    for text in (ModuleDocFragment.DOCUMENTATION, ModuleDocFragment.CHANGE, ModuleDocFragment.COMMON):
        assert explained(yaml.safe_load(text)["options"])


@pytest.mark.parametrize("name", ["container", "vm"])
def test_the_options_of_a_backend_are_those_of_the_spec(name: str) -> None:
    """A default for each of them, and none for the whole: what nobody gave is not given to another backend."""
    declaration = door.sandbox_options()[name]
    field = next(field for field in dataclasses.fields(spec.Spec) if field.name == name)
    assert declaration["type"] == "dict"
    assert "default" not in declaration
    found = {key: (each["type"], each["default"], each.get("choices")) for key, each in declaration["options"].items()}
    assert found == {
        key: (option.kind, option.default, list(option.choices) or None)
        for key, option in field.metadata["options"].items()
    }


def test_what_is_given_of_the_options_is_checked_by_the_engine() -> None:
    """Ansible knows no limits of a number."""
    asked = door.request(given(project_dir="/srv/demo", backend="vm", vm={"cpus": 256}), "fail")
    assert asked.params is not None
    with pytest.raises(SandboxError, match=r"vm\.cpus is 256"):
        spec.parse(asked.params)


def test_states_are_those_of_the_plan() -> None:
    options = door.sandbox_options()
    assert options["state"]["choices"] == list(plan.STATES)
    assert door.ON_CHANGE["on_change"]["choices"] == list(plan.ON_CHANGE)


def given(**params: Any) -> Options:
    """Parameters as Ansible hands them over: all of them, with their defaults."""
    return {name: option.get("default") for name, option in door.sandbox_options().items()} | {"name": "demo"} | params


def test_the_defaults_of_the_parameters_are_those_of_the_spec() -> None:
    asked = door.request(given(project_dir="/srv/demo"), "fail")
    assert asked.params is not None
    assert spec.parse(asked.params) == spec.parse({"project_dir": "/srv/demo"})


@pytest.mark.parametrize(
    "backend, more",
    [
        pytest.param("bubblewrap", {"toolchain": "nix", "nix_toolchain": "/nix/store/a-tools"}, id="bubblewrap"),
        pytest.param("container", {"toolchain": "rootfs", "rootfs": "/srv/tree"}, id="container"),
        pytest.param("vm", {"toolchain": "auto", "rootfs": "/srv/tree"}, id="vm"),
    ],
)
def test_every_field_reaches_the_engine(backend: str, more: Options) -> None:
    options = {
        "container": {"user_namespace": False},
        "vm": {"accel": "tcg", "memory": 512, "cpus": 1, "guest": "/srv/guest"},
    }
    values = {
        "project_dir": "/srv/demo",
        "backend": backend,
        "user": "ann",
        "network": False,
        "agent": ["shell"],
        "agent_args": ["-x"],
        "resume": True,
        "env": {"A": "1"},
        "grants": {"ssh": False},
        "mounts": [{"source": "/a", "target": "/b", "mode": "rw"}],
        "geometry": "800x600",
        "glx": True,
        **{name: value for name, value in options.items() if name == backend},
        **more,
    }
    asked = door.request(given(**values, state="restarted", api_key="k", secret_env={"S": "1"}), "ignore", purge=True)
    assert asked.params is not None
    assert spec.parse(asked.params).to_dict() == spec.parse({"project_dir": "/srv/demo"}).to_dict() | values
    assert (asked.name, asked.state, asked.on_change, asked.purge) == ("demo", "restarted", "ignore", True)
    assert (asked.api_key, asked.secret_env) == ("k", {"S": "1"})


def test_without_a_project_the_sandbox_is_taken_as_recorded() -> None:
    asked = door.request(given(state="restarted", api_key="k"), "fail")
    assert asked.params is None
    assert asked.api_key == "k"


OTHERWISE: Options = {
    "user": "ann",
    "network": False,
    "toolchain": "nix",
    "rootfs": "/srv/tree",
    "nix_toolchain": "/nix/store/a-tools",
    "agent": ["shell"],
    "agent_args": ["-x"],
    "resume": True,
    "env": {"A": "1"},
    "grants": {"ssh": False},
    "mounts": [{"source": "/a"}],
    "geometry": "800x600",
    "glx": True,
    "limits": {"tasks": 100},
    "container": {"user_namespace": False},
    "vm": {"accel": "tcg", "memory": 2048, "cpus": 2, "guest": "/usr/local/lib/claude-sandbox/guest"},
    "backend": "vm",
}


def test_every_field_that_can_be_lost_is_tried() -> None:
    fields = {field.name for field in dataclasses.fields(spec.Spec)}
    assert set(OTHERWISE) == fields - {"project_dir"}


@pytest.mark.parametrize("field", OTHERWISE)
def test_what_would_have_no_effect_is_refused(field: str) -> None:
    with pytest.raises(SandboxError, match=f"{field} is given without project_dir"):
        door.request(given(**{field: OTHERWISE[field]}), "fail")
