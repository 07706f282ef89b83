"""What is asked for: every rule of its fields, and what is said to whoever breaks one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError, shown

MESSAGE_LIMIT = 500  # characters that still fit on a screen
PROJECT = "/srv/demo"

# One of each field that a container has, none of them its default; the options of another backend have no effect there.
EVERYTHING: dict[str, Any] = {
    "project_dir": "/srv/ünï 'demo'",
    "backend": "container",
    "user": "someone",
    "network": False,
    "toolchain": "rootfs",
    "rootfs": "/srv/tree",
    "nix_toolchain": None,
    "agent": ["python3", "-q"],
    "agent_args": ["", ";", "--flag=ü"],
    "resume": True,
    "env": {"A": "1", "_b2": "two\nlines"},
    "grants": {"ssh": False, "gpu": True},
    "mounts": [{"source": "/data", "target": "/mnt/data", "mode": "rw"}],
    "geometry": "800x600",
    "glx": True,
    "limits": {"memory": 4096, "cpus": 1.5, "tasks": 500, "io_weight": 50},
    "container": {"user_namespace": False},
}
VM = {"accel": "tcg", "memory": 512, "cpus": 1, "guest": "/srv/guest"}
NO_LIMITS = {"memory": None, "cpus": None, "tasks": None, "io_weight": None}
NO_OPTIONS: dict[str, Any] = {
    "container": {"user_namespace": True},
    "vm": {"accel": "auto", "memory": 2048, "cpus": 2, "guest": "/usr/local/lib/claude-sandbox/guest"},
}
# What is recorded: every field.
RECORDED = {
    "container": {**NO_OPTIONS, **EVERYTHING},
    "vm": {**EVERYTHING, **NO_OPTIONS, "backend": "vm", "vm": VM},
}


def parsed(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": PROJECT, **params})


def refusal(params: Mapping[str, Any]) -> SandboxError:
    with pytest.raises(SandboxError) as caught:
        spec.parse(params)
    return caught.value


def assert_readable(error: SandboxError) -> None:
    """A message is short, and each of its two parts is whole sentences on one line that any terminal can show."""
    assert len(str(error)) <= MESSAGE_LIMIT
    for part in (error.what, error.hint):
        assert part.isprintable()
        assert not part or part.endswith(".")


def test_defaults() -> None:
    assert parsed().to_dict() == {
        "project_dir": PROJECT,
        "backend": "bubblewrap",
        "user": None,
        "network": True,
        "toolchain": "auto",
        "rootfs": None,
        "nix_toolchain": None,
        "agent": ["claude"],
        "agent_args": [],
        "resume": False,
        "env": {},
        "grants": {},
        "mounts": [],
        "geometry": "1920x1080",
        "glx": False,
        "limits": NO_LIMITS,
        **NO_OPTIONS,
    }


def test_none_stands_for_the_default() -> None:
    nothing = dict.fromkeys(RECORDED["vm"])
    assert spec.parse({**nothing, "project_dir": PROJECT}) == parsed()


def test_defaults_are_not_shared() -> None:
    parsed().agent.append("changed")
    parsed().env["CHANGED"] = "1"
    parsed().vm["cpus"] = 255
    parsed(backend="vm", vm={}).vm["cpus"] = 255
    assert parsed().agent == ["claude"]
    assert parsed().env == {}
    assert parsed().vm == parsed(backend="vm", vm={}).vm == NO_OPTIONS["vm"]


@pytest.mark.parametrize("backend", RECORDED)
def test_everything_survives_the_round_trip(backend: str) -> None:
    """What is recorded as JSON is read as the same spec."""
    first = spec.parse(RECORDED[backend])
    assert first.to_dict() == RECORDED[backend]
    assert spec.parse(json.loads(json.dumps(first.to_dict()))) == first


def test_what_was_recorded_before_a_field_was_there_is_read_with_its_default() -> None:
    later = ("rootfs", "nix_toolchain", "limits", "container", "vm")
    earlier = {key: value for key, value in parsed(env={"A": "1"}).to_dict().items() if key not in later}
    assert spec.parse(json.loads(json.dumps(earlier))) == parsed(env={"A": "1"})
    assert spec.parse({**earlier, "backend": "vm", "vm": {"cpus": 3}}).vm == {**NO_OPTIONS["vm"], "cpus": 3}


@pytest.mark.parametrize(
    "params, field, value",
    [
        pytest.param({"backend": "container", "container": {}}, "container", {"user_namespace": True}, id="container"),
        pytest.param({"backend": "vm", "vm": {}}, "vm", NO_OPTIONS["vm"], id="vm"),
        pytest.param({"backend": "vm", "vm": dict.fromkeys(VM)}, "vm", NO_OPTIONS["vm"], id="none"),
        pytest.param({"backend": "vm", "vm": {"cpus": 4}}, "vm", {**NO_OPTIONS["vm"], "cpus": 4}, id="one"),
        pytest.param(
            {"backend": "vm", "vm": {**VM, "guest": "//a/./b/"}}, "vm", {**VM, "guest": "/a/b"}, id="normal-form"
        ),
        pytest.param({"vm": NO_OPTIONS["vm"]}, "vm", NO_OPTIONS["vm"], id="defaults-for-another-backend"),
        pytest.param({"container": {}}, "container", {"user_namespace": True}, id="nothing-for-another-backend"),
        *(
            pytest.param(
                {"backend": "vm", "vm": {key: value}}, "vm", {**NO_OPTIONS["vm"], key: value}, id=f"{key}-{of}"
            )
            for key, limits in {"memory": (256, 1048576), "cpus": (1, 255)}.items()
            for of, value in zip(("least", "most"), limits, strict=True)
        ),
        pytest.param({"rootfs": "/a//b"}, "rootfs", "/a/b", id="rootfs-with-any-toolchain"),
        pytest.param({"rootfs": "/a", "toolchain": "rootfs"}, "rootfs", "/a", id="rootfs"),
        pytest.param({"toolchain": "rootfs"}, "rootfs", None, id="rootfs-of-the-host"),
        pytest.param({"nix_toolchain": "/a//b"}, "nix_toolchain", "/a/b", id="nix-with-any-toolchain"),
        pytest.param({"nix_toolchain": "/a", "toolchain": "nix"}, "nix_toolchain", "/a", id="nix"),
    ],
)
def test_options_are_filled_with_their_defaults(params: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parsed(**params), field) == value


@pytest.mark.parametrize(
    "params, field, value",
    [
        pytest.param({"project_dir": "/a//b/./c/"}, "project_dir", "/a/b/c", id="path-normal-form"),
        pytest.param({"project_dir": "//a/b"}, "project_dir", "/a/b", id="path-two-slashes"),
        pytest.param({"project_dir": "/"}, "project_dir", "/", id="path-root"),
        pytest.param({"project_dir": "/a..b/..c"}, "project_dir", "/a..b/..c", id="path-dots-in-names"),
        pytest.param({"project_dir": "/" + "x" * 4094}, "project_dir", "/" + "x" * 4094, id="path-longest"),
        pytest.param({"env": {"A": 1, "B": 1.5}}, "env", {"A": "1", "B": "1.5"}, id="env-numbers"),
        pytest.param({"env": {"A": ""}}, "env", {"A": ""}, id="env-empty-value"),
        pytest.param({"grants": {"ssh": None, "gpu": True}}, "grants", {"gpu": True}, id="grants-none-is-not-given"),
        pytest.param({"mounts": [{"source": "/d"}]}, "mounts", [spec.Mount("/d", "/d", "ro")], id="mount-defaults"),
        pytest.param(
            {"mounts": [{"source": "/d/", "target": None, "mode": None}]},
            "mounts",
            [spec.Mount("/d", "/d", "ro")],
            id="mount-none",
        ),
        pytest.param(
            {"mounts": [{"source": "/d", "target": "//t/./u"}]},
            "mounts",
            [spec.Mount("/d", "/t/u", "ro")],
            id="mount-normal-form",
        ),
        pytest.param(
            {"mounts": [{"source": "/proc", "target": "/process"}]},
            "mounts",
            [spec.Mount("/proc", "/process", "ro")],
            id="mount-target-merely-begins-like-proc",
        ),
        pytest.param({"agent_args": ("a", "b")}, "agent_args", ["a", "b"], id="list-from-tuple"),
        pytest.param({"geometry": "7680x4320"}, "geometry", "7680x4320", id="geometry-largest"),
        pytest.param({"geometry": "10x10"}, "geometry", "10x10", id="geometry-smallest"),
        pytest.param({"agent_args": ["x" * 8180]}, "agent_args", ["x" * 8180], id="arguments-longest"),
        pytest.param({"env": {"AB": "x" * 131068}}, "env", {"AB": "x" * 131068}, id="env-longest"),
    ],
)
def test_accepted(params: dict[str, Any], field: str, value: object) -> None:
    assert getattr(spec.parse({"project_dir": PROJECT, **params}), field) == value


@pytest.mark.parametrize(
    "params, what, remedy",
    [
        pytest.param({}, "project_dir is missing", "Give the directory", id="no-project"),
        pytest.param({"project_dir": None}, "project_dir is missing", "Give the directory", id="project-none"),
        pytest.param({"colour": 1}, "no field 'colour'", "agent, agent_args, backend", id="unknown-field"),
        pytest.param({"project_dir": ""}, "project_dir", "must be an absolute path", id="path-empty"),
        pytest.param({"project_dir": "a/b"}, "project_dir", "must be an absolute path", id="path-relative"),
        pytest.param({"project_dir": "~/a"}, "project_dir", "must be an absolute path", id="path-tilde"),
        pytest.param({"project_dir": "/a/../b"}, "project_dir has ..", "Give the path itself", id="path-dots"),
        pytest.param({"project_dir": "/a/.."}, "project_dir has ..", "Give the path itself", id="path-dots-last"),
        pytest.param({"project_dir": "/a\nb"}, "control character", "Rename the directory", id="path-newline"),
        pytest.param({"project_dir": "/a\x1b[2J"}, "control character", "Rename the directory", id="path-escape"),
        pytest.param({"project_dir": "/a\x7f"}, "control character", "Rename the directory", id="path-delete"),
        pytest.param({"project_dir": "/a\0"}, "project_dir has a NUL", "4095 bytes", id="path-nul"),
        pytest.param({"project_dir": "/" + "x" * 4095}, "project_dir", "longer than 4095 bytes", id="path-too-long"),
        pytest.param({"project_dir": "/" + "ü" * 2048}, "project_dir", "longer than 4095 bytes", id="path-bytes-count"),
        pytest.param({"project_dir": "/\ud800"}, "project_dir", "not valid unicode", id="path-surrogate"),
        pytest.param({"project_dir": ["/a"]}, "project_dir", "must be text", id="path-list"),
        pytest.param({"backend": "docker"}, "backend is 'docker'", "none of: bubblewrap, container, vm", id="backend"),
        pytest.param({"toolchain": "NIX"}, "toolchain is 'NIX'", "none of: auto, host, nix, rootfs", id="toolchain"),
        pytest.param({"toolchain": ""}, "toolchain is ''", "none of: auto, host, nix, rootfs", id="toolchain-empty"),
        pytest.param({"user": 1000}, "user", "must be text", id="user-number"),
        pytest.param({"network": "yes"}, "network", "must be true or false", id="network-text"),
        pytest.param({"network": 1}, "network", "must be true or false", id="network-number"),
        pytest.param({"resume": "false"}, "resume", "must be true or false", id="resume-text"),
        pytest.param({"glx": 0}, "glx", "must be true or false", id="glx-number"),
        pytest.param({"agent": []}, "agent is empty", "Give claude, shell", id="agent-empty"),
        pytest.param({"agent": "claude"}, "agent", "must be a list", id="agent-text"),
        pytest.param({"agent": [1]}, "agent", "must be text", id="agent-number"),
        pytest.param({"agent_args": {"a": "b"}}, "agent_args", "must be a list", id="args-mapping"),
        pytest.param({"agent_args": ["a\0b"]}, "agent_args has a NUL", "131071 bytes", id="args-nul"),
        pytest.param({"agent_args": ["x" * 131072]}, "agent_args", "longer than 131071 bytes", id="args-too-long"),
        pytest.param({"agent_args": ["x" * 4000] * 2 + ["ü" * 200]}, "together longer", "a file", id="args-together"),
        pytest.param({"agent": ["x" * 8192]}, "together longer than 8192 bytes", "a file", id="agent-too-long"),
        pytest.param({"agent_args": ["\udcff"]}, "agent_args", "not valid unicode", id="args-surrogate"),
        pytest.param({"env": ["A=1"]}, "env", "must be a mapping", id="env-list"),
        pytest.param({"env": {"A-B": "1"}}, "env has 'A-B'", "no name for a variable", id="env-dash"),
        pytest.param({"env": {"1A": "1"}}, "env has '1A'", "no name for a variable", id="env-digit"),
        pytest.param({"env": {"": "1"}}, "env has ''", "no name for a variable", id="env-no-name"),
        pytest.param({"env": {"A\n": "1"}}, "env has 'A\\n'", "no name for a variable", id="env-newline"),
        pytest.param({"env": {"A=B": "1"}}, "env has 'A=B'", "no name for a variable", id="env-equals"),
        pytest.param({"env": {1: "1"}}, "env has 1", "no name for a variable", id="env-number-name"),
        pytest.param({"env": {"A": True}}, "env: the value of 'A'", "Put it in quotes", id="env-bool"),
        pytest.param({"env": {"A": None}}, "env: the value of 'A'", "Put it in quotes", id="env-none"),
        pytest.param({"env": {"A": ["x"]}}, "env: the value of 'A'", "Put it in quotes", id="env-list-value"),
        pytest.param({"env": {"A": "a\0b"}}, "env: 'A' has a NUL", "bytes", id="env-nul"),
        pytest.param({"env": {"A": "x" * 131072}}, "env: 'A'", "longer than 131069 bytes", id="env-too-long"),
        pytest.param(
            {"env": {"A": "x" * 131070}},
            "env: 'A'",
            "longer than 131069 bytes",
            id="env-too-long-with-its-name",
        ),
        pytest.param({"grants": ["ssh"]}, "grants", "must be a mapping", id="grants-list"),
        pytest.param({"grants": {"docker": True}}, "no grant 'docker'", "The grants are: claude, git", id="grant-name"),
        pytest.param({"grants": {"ssh": "yes"}}, "grants.ssh", "must be true or false", id="grant-text"),
        pytest.param(
            {"grants": {"nix": True}, "network": False}, "grants.nix", "Take the grant away", id="nix-without-network"
        ),
        pytest.param({"mounts": "/data"}, "mounts", "must be a list", id="mounts-text"),
        pytest.param({"mounts": ["/data"]}, "A mount has", "a source, a target and a mode", id="mount-text"),
        pytest.param({"mounts": [{"target": "/a"}]}, "A mount has", "a source, a target", id="mount-no-source"),
        pytest.param({"mounts": [{"source": "/a", "opts": 1}]}, "A mount has", "a source, a target", id="mount-more"),
        pytest.param({"mounts": [{"source": None}]}, "mounts: source", "must be text", id="mount-source-none"),
        pytest.param({"mounts": [{"source": "a"}]}, "mounts: source", "must be an absolute path", id="mount-relative"),
        pytest.param({"mounts": [{"source": "/a", "target": "/b/../c"}]}, "mounts: target has ..", "", id="mount-dots"),
        pytest.param({"mounts": [{"source": "/a", "mode": "rx"}]}, "the mode of '/a'", "must be ro or rw", id="mode"),
        *(
            pytest.param(
                {"mounts": [{"source": "/a", "target": target}]},
                f"on '{target.rstrip('/') or '/'}'",
                "Choose another target",
                id=f"mount-on-{target}",
            )
            for target in ("/", "/proc", "/proc/self", "/dev", "/dev/shm", "/sys", "/sys/fs/")
        ),
        pytest.param(
            {"mounts": [{"source": "/a", "target": PROJECT}]},
            "the project directory",
            "another target",
            id="on-project",
        ),
        pytest.param(
            {"mounts": [{"source": "/a", "target": "/t"}, {"source": "/b", "target": "/t/"}]},
            "'/b' and '/a' would both stand on '/t'",
            "another target",
            id="two-mounts-on-one-target",
        ),
        pytest.param({"rootfs": "tree"}, "rootfs", "must be an absolute path", id="rootfs-relative"),
        pytest.param({"rootfs": "/a/../b"}, "rootfs has ..", "Give the path itself", id="rootfs-dots"),
        *(
            pytest.param(
                {name: "/srv/tree", "toolchain": kind},
                f"{name} has no effect with toolchain: {kind}",
                "one of the two",
                id=f"{name}-with-{kind}",
            )
            for name, kind in (
                *(("rootfs", kind) for kind in ("host", "nix")),
                *(("nix_toolchain", kind) for kind in ("host", "rootfs")),
            )
        ),
        pytest.param(
            {"rootfs": "/srv/tree", "nix_toolchain": "/nix/store/a"},
            "rootfs and nix_toolchain are both given",
            "one of the two",
            id="two-trees",
        ),
        *(
            pytest.param(
                {"backend": backend, only: options},
                f"{only} is for the backend {only}, and has no effect with {backend}",
                "Leave it out",
                id=f"{only}-with-{backend}",
            )
            for only, options in {"container": {"user_namespace": False}, "vm": {"cpus": 3}}.items()
            for backend in ("bubblewrap", "container", "vm")
            if backend != only
        ),
        *(
            pytest.param({"backend": "vm", "vm": options}, what, remedy, id=f"vm-{name}")
            for name, options, what, remedy in (
                ("list", ["cpus"], "vm must be a mapping", ""),
                ("text", "kvm", "vm must be a mapping", ""),
                ("option", {"disk": 1}, "vm has no option 'disk'", "are: accel, memory, cpus, guest"),
                ("option-number", {1: 1}, "vm has no option 1", "are: accel, memory, cpus, guest"),
                ("accel", {"accel": "xen"}, "vm.accel is 'xen'", "none of: auto, kvm, tcg"),
                ("accel-list", {"accel": ["kvm"]}, "vm.accel is ['kvm']", "none of: auto, kvm, tcg"),
                ("memory-little", {"memory": 255}, "vm.memory is 255", "from 256 to 1048576"),
                ("memory-much", {"memory": 1048577}, "vm.memory is 1048577", "from 256 to 1048576"),
                ("memory-text", {"memory": "2048"}, "vm.memory is '2048'", "must be a number"),
                ("memory-float", {"memory": 2048.0}, "vm.memory is 2048.0", "must be a number"),
                ("cpus-none", {"cpus": 0}, "vm.cpus is 0", "from 1 to 255"),
                ("cpus-many", {"cpus": 256}, "vm.cpus is 256", "from 1 to 255"),
                ("cpus-bool", {"cpus": True}, "vm.cpus is True", "must be a number"),
                ("guest-relative", {"guest": "guest"}, "vm.guest", "must be an absolute path"),
                ("guest-dots", {"guest": "/a/../b"}, "vm.guest has ..", "Give the path itself"),
                ("guest-number", {"guest": 1}, "vm.guest", "must be text"),
            )
        ),
        *(
            pytest.param({"backend": "container", "container": options}, what, remedy, id=f"container-{name}")
            for name, options, what, remedy in (
                ("list", [], "container must be a mapping", ""),
                ("option", {"cpus": 1}, "container has no option 'cpus'", "are: user_namespace"),
                ("text", {"user_namespace": "no"}, "container.user_namespace", "must be true or false"),
                ("number", {"user_namespace": 0}, "container.user_namespace", "must be true or false"),
            )
        ),
        *(
            pytest.param({"geometry": text}, "geometry is", "at most 7680x4320", id=f"geometry-{name}")
            for name, text in {
                "empty": "",
                "words": "large",
                "one-number": "1920",
                "zero": "0x0",
                "too-small": "9x100",
                "leading-zero": "01920x1080",
                "too-wide": "7681x4320",
                "too-high": "7680x4321",
                "depth": "1920x1080x24",
                "newline": "1920x1080\n",
                "sign": "-1920x1080",
                "other-digits": "١٩٢٠x١٠٨٠",
            }.items()
        ),
    ],
)
def test_refused(params: dict[str, Any], what: str, remedy: str) -> None:
    error = refusal({"project_dir": PROJECT, **params} if params else {})
    assert what in error.what
    assert remedy in str(error)
    assert_readable(error)


HOSTILE: tuple[Any, ...] = (
    True,
    0,
    -1,
    2**70,
    1.5,
    float("nan"),
    "",
    " ",
    "\0",
    "\n",
    "/\x1b]0;title\x07",
    "\ud800",
    "..",
    "/" * 5000,
    "x" * 200_000,
    "ü" * 200_000,
    "-" * 64,
    "$(reboot)",
    b"bytes",
    [],
    [None],
    [[]],
    ["x"] * 10_000,
    [{}],
    {},
    {"": ""},
    {1: 2},
    {"source": "/a"},
    {"A": {"B": 1}},
    {"x" * 200_000: True},
    object(),
    Ellipsis,
)


@pytest.mark.parametrize("field", dataclasses.fields(spec.Spec), ids=lambda field: field.name)
def test_hostile_values_are_taken_whole_or_refused_in_words(field: dataclasses.Field[Any]) -> None:
    """No value makes anything but a spec that can be recorded and read again, or an error that can be read."""
    nested = [*HOSTILE, *([value] for value in HOSTILE), *({"A": value} for value in HOSTILE)]
    nested += [{key: value} for key, value in itertools.product(("ssh", "source", "user_namespace", *VM), HOSTILE)]
    # Elsewhere it would be refused for having no effect.
    backend = field.metadata.get("backend", "bubblewrap")
    for value in nested:
        try:
            found = spec.parse({"project_dir": PROJECT, "backend": backend, field.name: value})
        except SandboxError as error:
            assert_readable(error)
        else:
            assert spec.parse(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "name, good",
    [
        pytest.param("a", True, id="one-letter"),
        pytest.param("A-b_9", True, id="all-kinds"),
        pytest.param("9", True, id="digit"),
        pytest.param("x" * 63, True, id="longest"),
        pytest.param("x" * 64, False, id="too-long"),
        pytest.param("", False, id="empty"),
        pytest.param("-a", False, id="like-an-option"),
        pytest.param("_a", False, id="underscore-first"),
        pytest.param(".a", False, id="hidden"),
        pytest.param("..", False, id="parent"),
        pytest.param("a.b", False, id="dot"),
        pytest.param("a/b", False, id="slash"),
        pytest.param("a b", False, id="space"),
        pytest.param("a\n", False, id="newline"),
        pytest.param("ä", False, id="umlaut"),
        pytest.param("a\0", False, id="nul"),
        pytest.param(None, False, id="none"),
        pytest.param(5, False, id="number"),
    ],
)
def test_name(name: object, good: bool) -> None:
    if good:
        assert spec.check_name(name) == name
        return
    with pytest.raises(SandboxError) as caught:
        spec.check_name(name)
    assert shown(name) in caught.value.what
    assert "Use 1 to 63" in caught.value.hint
    assert_readable(caught.value)


# How each field's change reaches a sandbox that runs. A new field has to be added here on purpose: whoever gets this
# wrong restarts working agents, or lets them run on with what was taken away.
APPLIED = {
    "project_dir": spec.RECREATE,
    "backend": spec.RECREATE,
    "user": spec.RECREATE,
    "network": spec.RESTART,
    "toolchain": spec.RESTART,
    "rootfs": spec.RESTART,
    "nix_toolchain": spec.RESTART,
    "agent": spec.RESTART,
    "agent_args": spec.RESTART,
    "resume": spec.NEXT_START,
    "env": spec.RESTART,
    "grants": spec.RESTART,
    "mounts": spec.RESTART,
    "geometry": spec.RESTART,
    "glx": spec.RESTART,
    "limits": spec.LIVE,
    "container": spec.RESTART,
    "vm": spec.RESTART,
}


def test_every_field_says_how_its_change_is_applied() -> None:
    assert {field.name: field.metadata["apply"] for field in dataclasses.fields(spec.Spec)} == APPLIED


@pytest.mark.parametrize("field", APPLIED)
def test_a_change_of_one_field_is_one_difference(field: str) -> None:
    # Each alone goes with the defaults of the others, but for what it has no effect without.
    backend = "vm" if field == "vm" else "container"
    value = {"backend": "bubblewrap", "nix_toolchain": "/nix/store/a"}.get(field, RECORDED[backend][field])
    before = parsed(backend=backend)
    after = spec.parse({"project_dir": PROJECT, "backend": backend, field: value})
    expected = spec.Difference(field, before.to_dict()[field], value, APPLIED[field])
    assert spec.differences(before, after) == [expected]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"project_dir": f"{PROJECT}/"}, id="path-spelled-otherwise"),
        pytest.param({"project_dir": PROJECT, "agent": ("claude",)}, id="tuple"),
        pytest.param({"project_dir": PROJECT, "network": None, "grants": {"ssh": None}}, id="none"),
        pytest.param({"project_dir": PROJECT, "vm": {}, "container": {"user_namespace": None}}, id="no-options"),
    ],
)
def test_another_spelling_is_no_difference(other: dict[str, Any]) -> None:
    assert spec.differences(parsed(), spec.parse(other)) == []


def test_the_order_of_variables_is_no_difference_and_that_of_arguments_is() -> None:
    assert spec.differences(parsed(env={"A": "1", "B": "2"}), parsed(env={"B": "2", "A": "1"})) == []
    assert len(spec.differences(parsed(agent_args=["a", "b"]), parsed(agent_args=["b", "a"]))) == 1


@pytest.mark.parametrize("user", [None, "someone", "root"])
@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("grant", list(spec.GRANT_DEFAULTS))
def test_granted(grant: str, asked: bool | None, user: str | None) -> None:
    # The two displays exclude each other.
    besides = {"display": False} if grant == "x11" else {}
    given = parsed(user=user, grants=besides if asked is None else {**besides, grant: asked}).granted(grant)
    withheld = user == "root" and grant in {"claude", "git", "ssh", "gh"}
    by_default = grant in {"claude", "git", "ssh", "gh", "display"} and not withheld
    assert given is (by_default if asked is None else asked)


def test_screen_size() -> None:
    assert parsed(geometry="800x600").screen_size() == (800, 600)


@pytest.mark.parametrize(
    "value, text",
    [
        pytest.param("a\nb", "'a\\nb'", id="one-line"),
        pytest.param("ü\x1b", "'\\xfc\\x1b'", id="no-terminal-codes"),
        pytest.param("x" * 118, f"'{'x' * 118}'", id="as-long-as-it-may-be"),
        pytest.param("x" * 119, f"'{'x' * 99}…(121 characters)", id="cut"),
        pytest.param(None, "None", id="none"),
    ],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_error_reads_as_its_two_lines() -> None:
    assert str(SandboxError("What.", "Do.")) == "What.\nDo."
    assert str(SandboxError("What.")) == "What."


def test_two_x_displays_are_one_too_many() -> None:
    with pytest.raises(SandboxError, match=r"\$DISPLAY can be only one of them"):
        parsed(grants={"x11": True})
    assert parsed(grants={"x11": True, "display": False}).granted("x11")
    assert parsed(grants={"wayland": True}).granted("display")


@pytest.mark.parametrize(
    "given, limits",
    [
        ({}, NO_LIMITS),
        ({"memory": None}, NO_LIMITS),
        ({"cpus": 2}, {**NO_LIMITS, "cpus": 2.0}),
        ({"memory": 64, "tasks": 16}, {**NO_LIMITS, "memory": 64, "tasks": 16}),
    ],
)
def test_limits_are_none_but_those_that_are_given(given: dict[str, Any], limits: dict[str, Any]) -> None:
    assert parsed(limits=given).limits == limits


@pytest.mark.parametrize(
    "limits, what",
    [
        ({"memory": 63}, "limits.memory is 63; it must be a number from 64 to"),
        ({"memory": 100.5}, "limits.memory is 100.5; it must be a number"),
        ({"memory": "1G"}, "limits.memory is '1G'; it must be a number"),
        ({"cpus": 0}, "limits.cpus is 0; it must be a number from 0.01 to"),
        ({"cpus": True}, "limits.cpus is True; it must be a number"),
        ({"cpus": float("nan")}, "limits.cpus is nan; it must be a number"),
        ({"cpus": float("inf")}, "limits.cpus is inf; it must be a number"),
        ({"tasks": 15}, "limits.tasks is 15; it must be a number from 16 to"),
        ({"io_weight": 10001}, "limits.io_weight is 10001; it must be a number from 1 to 10000"),
        ({"disk": 1}, "limits has no option 'disk'"),
        ([], "limits must be a mapping"),
    ],
)
def test_limits_that_cannot_be(limits: Any, what: str) -> None:
    with pytest.raises(SandboxError, match=re.escape(what)):
        parsed(limits=limits)


def test_a_machine_has_to_fit_into_its_limit() -> None:
    machine = {"backend": "vm", "vm": {"memory": 1024}}
    assert parsed(**machine, limits={"memory": 1280}).limits["memory"] == 1280
    with pytest.raises(SandboxError, match=r"limits\.memory is 1279, and the virtual machine alone has 1024"):
        parsed(**machine, limits={"memory": 1279})
