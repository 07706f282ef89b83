# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked for: one declaration per field, validated once, compared as recorded.

Pure: nothing here reads a file or starts a process.
"""

from __future__ import annotations

import dataclasses
import os.path
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import SandboxError, shown

# How a change of a field reaches a sandbox that runs.
NEXT_START = "next_start"  # recorded at once, in force when it starts again
LIVE = "live"  # in force at once, where the sandbox has what it takes
RESTART = "restart"  # only by starting the sandbox again
RECREATE = "recreate"  # only by making another sandbox under the same name

NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
_ENV_RULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_GEOMETRY_RULE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATH_MAX = 4095  # bytes, limits.h, less the final NUL
_COMMAND_MAX = 8192  # bytes; tmux takes 16 KiB in one command, and our own words are in it too
_ARG_MAX = 131071  # bytes, MAX_ARG_STRLEN of execve(2), less the final NUL

GRANT_DEFAULTS: Mapping[str, bool] = {
    "claude": True,
    "git": True,
    "ssh": True,
    "gh": True,
    "display": True,
    "x11": False,
    "wayland": False,
    "audio": False,
    "gpu": False,
    "dbus": False,
    "keyring": False,
    "ssh_agent": False,
    "nix": False,
    "locale": False,
}
# Root's home holds what no one else may read, so its sandboxes get none of it unasked.
ROOT_WITHHELD = ("claude", "git", "ssh", "gh")


@dataclasses.dataclass(frozen=True)
class Mount:
    """A path of the host that the user adds: shown at `target`, read-only unless mode is rw."""

    source: str
    target: str
    mode: str = "ro"


@dataclasses.dataclass(frozen=True)
class Option:
    """One entry of a field that is a mapping with a fixed set of keys. limits: of a number, both included."""

    kind: str
    default: Any
    choices: tuple[str, ...] = ()
    limits: tuple[float, float] = (0, 0)


BACKENDS = ("bubblewrap", "container", "vm")
CONTAINER_OPTIONS: Mapping[str, Option] = {"user_namespace": Option("bool", True)}
VM_OPTIONS: Mapping[str, Option] = {
    "accel": Option("str", "auto", choices=("auto", "kvm", "tcg")),
    "memory": Option("int", 2048, limits=(256, 1 << 20)),  # MiB
    "cpus": Option("int", 2, limits=(1, 255)),
    "guest": Option("path", "/usr/local/lib/claude-sandbox/guest"),
}
# Unlimited where nothing is given.
LIMIT_OPTIONS: Mapping[str, Option] = {
    "memory": Option("int", None, limits=(64, 1 << 24)),  # MiB
    "cpus": Option("float", None, limits=(0.01, 4096)),
    "tasks": Option("int", None, limits=(16, 1 << 22)),
    "io_weight": Option("int", None, limits=(1, 10000)),
}
_VM_OVERHEAD = 256  # MiB that QEMU itself and what is beside it take
ROOTFS = "/usr/local/lib/claude-sandbox/rootfs"


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: option.default for name, option in options.items()}


def _field(kind: str, apply: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    metadata = {"kind": kind, "apply": apply, **more}
    # pylint takes a call of field() outside a class for a mistake; this is the class' own shorthand for it.
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)  # pylint: disable=invalid-field-call
    return dataclasses.field(default=default, metadata=metadata)  # pylint: disable=invalid-field-call


@dataclasses.dataclass(frozen=True)
class Spec:
    """A sandbox as asked for. Each field's metadata says its kind, choices, how a change is applied, and what it is."""

    project_dir: str = _field(
        "path", RECREATE, help="The directory on the host in which the agent works, mounted at the same path."
    )
    backend: str = _field("str", RECREATE, "bubblewrap", choices=BACKENDS, help="What isolates it.")
    user: str | None = _field(
        "str",
        RECREATE,
        None,
        help="The account that it runs as; by default the project's owner where root asks, else the one who asks.",
    )
    network: bool = _field(
        "bool", RESTART, True, help="Whether it has the network: the host's own, or a way out for a virtual machine."
    )
    toolchain: str = _field(
        "str", RESTART, "auto", choices=("auto", "host", "nix", "rootfs"), help="Where the programs inside come from."
    )
    rootfs: str | None = _field("path", RESTART, None, help="The tree of programs for the toolchain rootfs.")
    nix_toolchain: str | None = _field(
        "path", RESTART, None, help="The programs for the toolchain nix, as a flake made them."
    )
    agent: list[str] = _field(
        "list", RESTART, ["claude"], help="The program: claude, shell, or a program with arguments."
    )
    agent_args: list[str] = _field("list", RESTART, [], help="Arguments for the agent.")
    resume: bool = _field(
        "bool", NEXT_START, False, help="Whether the agent goes on with its last conversation when it is started again."
    )
    env: dict[str, str] = _field("dict", RESTART, {}, help="Variables for the agent; no secrets, for they are shown.")
    grants: dict[str, bool] = _field(
        "dict",
        RESTART,
        {},
        options=tuple(GRANT_DEFAULTS),
        help="What of the host it gets, each by name; what is not named is as by default.",
    )
    mounts: list[Mount] = _field(
        "list",
        RESTART,
        [],
        options=("source", "target", "mode"),
        help="Paths of the host that it gets beside the project.",
    )
    geometry: str = _field("str", RESTART, "1920x1080", help="The size of its screen in pixels, WIDTHxHEIGHT.")
    glx: bool = _field("bool", RESTART, False, help="Whether its screen has OpenGL by software.")
    limits: dict[str, Any] = _field(
        "dict",
        LIVE,
        _defaults(LIMIT_OPTIONS),
        options=LIMIT_OPTIONS,
        help="What it may use of the host at most: memory in MiB, cpus, tasks, and its io_weight among others.",
    )
    container: dict[str, Any] = _field(
        "dict",
        RESTART,
        _defaults(CONTAINER_OPTIONS),
        options=CONTAINER_OPTIONS,
        backend="container",
        help="For the backend container.",
    )
    vm: dict[str, Any] = _field(
        "dict",
        RESTART,
        _defaults(VM_OPTIONS),
        options=VM_OPTIONS,
        backend="vm",
        help="For the backend vm; memory in MiB.",
    )

    def granted(self, name: str) -> bool:
        """Whether this grant is given: as asked, else by default."""
        if name in self.grants:
            return self.grants[name]
        if name in ROOT_WITHHELD and self.user == "root":
            return False
        return GRANT_DEFAULTS[name]

    def screen_size(self) -> tuple[int, int]:
        """Width and height of the display, in pixels."""
        width, height = self.geometry.split("x")
        return int(width), int(height)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them, in the order of their declaration."""
        return {
            f.name: [dict(m.__dict__) for m in self.mounts] if f.name == "mounts" else getattr(self, f.name)
            for f in dataclasses.fields(self)
        }


@dataclasses.dataclass(frozen=True)
class Difference:
    """One field that is asked for otherwise than recorded."""

    field: str
    before: Any
    after: Any
    apply: str


def differences(recorded: Spec, desired: Spec) -> list[Difference]:
    """The fields in which the two differ."""
    old, new = recorded.to_dict(), desired.to_dict()
    return [
        Difference(f.name, old[f.name], new[f.name], f.metadata["apply"])
        for f in dataclasses.fields(Spec)
        if old[f.name] != new[f.name]
    ]


def check_name(name: object) -> str:
    """The name, if it is one; a SandboxError that says the rule otherwise."""
    if isinstance(name, str) and NAME_RULE.match(name):
        return name
    raise SandboxError(
        f"{shown(name)} is no name for a sandbox.",
        "Use 1 to 63 letters, digits, _ or -, beginning with a letter or a digit.",
    )


def parse(params: Mapping[str, Any]) -> Spec:
    """A Spec from parameters of any door; None stands for the default.

    Raises SandboxError at the first thing that is not as it should be.
    """
    known = {f.name for f in dataclasses.fields(Spec)}
    unknown = next((key for key in params if key not in known), None)
    if unknown is not None:
        raise SandboxError(f"There is no field {shown(unknown)}.", f"The fields are: {', '.join(sorted(known))}.")
    given = {key: value for key, value in params.items() if value is not None}
    if "project_dir" not in given:
        raise SandboxError("project_dir is missing.", "Give the directory on the host in which the agent works.")
    for field in dataclasses.fields(Spec):
        if field.name in given:
            given[field.name] = _checked(field, given[field.name])
    spec = Spec(**given)
    if spec.grants.get("nix") and not spec.network:
        raise SandboxError(
            "grants.nix cannot be given with network: false, for the Nix daemon fetches for whoever asks.",
            "Take the grant away, or allow the network.",
        )
    if spec.grants.get("x11") and spec.granted("display"):
        raise SandboxError(
            "grants.x11 is your own display, and grants.display the sandbox's: $DISPLAY can be only one of them.",
            "Set grants.display to false.",
        )
    if sum(len(word.encode()) + 1 for word in (*spec.agent, *spec.agent_args)) > _COMMAND_MAX:
        raise SandboxError(
            f"agent and agent_args are together longer than {_COMMAND_MAX} bytes.",
            "Put a long prompt in a file of the project, and have the agent read that.",
        )
    _check_effect(spec)
    _check_targets(spec)
    return spec


def _check_effect(spec: Spec) -> None:
    """What is asked for and would have no effect is an error."""
    for field in dataclasses.fields(Spec):
        only = field.metadata.get("backend")
        if only not in (None, spec.backend) and getattr(spec, field.name) != _defaults(field.metadata["options"]):
            raise SandboxError(
                f"{field.name} is for the backend {only}, and has no effect with {spec.backend}.", "Leave it out."
            )
    memory = spec.limits["memory"]
    if spec.backend == "vm" and memory is not None and memory < spec.vm["memory"] + _VM_OVERHEAD:
        raise SandboxError(
            f"limits.memory is {memory}, and the virtual machine alone has {spec.vm['memory']}.",
            f"Give at least {spec.vm['memory'] + _VM_OVERHEAD}, or less in vm.memory.",
        )
    for name, kind in (("rootfs", "rootfs"), ("nix_toolchain", "nix")):
        if getattr(spec, name) is not None and spec.toolchain not in ("auto", kind):
            raise SandboxError(f"{name} has no effect with toolchain: {spec.toolchain}.", "Leave one of the two out.")
    if spec.rootfs is not None and spec.nix_toolchain is not None:
        raise SandboxError("rootfs and nix_toolchain are both given.", "Leave one of the two out.")


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    kind, name = field.metadata["kind"], field.name
    if kind == "bool":
        if not isinstance(value, bool):
            raise SandboxError(f"{name} must be true or false, not {shown(value)}.")
        return value
    if name == "mounts":
        return [_mount(item) for item in _list(name, value)]
    if name == "grants":
        return _grants(value)
    if name == "env":
        return environment(name, value)
    if isinstance(field.metadata.get("options"), Mapping):
        return _options(name, field.metadata["options"], value)
    if kind == "list":
        return [_text(name, item, _ARG_MAX) for item in _list(name, value)]
    if kind == "path":
        return check_path(name, value)
    text = _text(name, value, _PATH_MAX)
    choices = field.metadata.get("choices")
    if choices and text not in choices:
        raise SandboxError(f"{name} is {shown(text)}, which is none of: {', '.join(choices)}.")
    if name == "geometry":
        _check_geometry(text)
    return text


def _list(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SandboxError(f"{name} must be a list, not {shown(value)}.")
    if name == "agent" and not value:
        raise SandboxError("agent is empty.", "Give claude, shell, or a program and its arguments.")
    return value


def _text(name: str, value: Any, limit: int) -> str:
    if not isinstance(value, str):
        raise SandboxError(f"{name} must be text, not {shown(value)}.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise SandboxError(f"{name} is not valid unicode: {shown(value)}.") from None
    if "\0" in value or size > limit:
        raise SandboxError(f"{name} has a NUL, or is longer than {limit} bytes: {shown(value)}.")
    return value


def check_path(name: str, value: Any) -> str:
    """An absolute path in its normal form, without control characters; `name` is for the message."""
    path = _text(name, value, _PATH_MAX)
    if _CONTROL.search(path):
        raise SandboxError(f"{name} has a control character in it: {shown(path)}.", "Rename the directory.")
    if not path.startswith("/"):
        raise SandboxError(f"{name} must be an absolute path, not {shown(path)}.")
    if ".." in path.split("/"):
        raise SandboxError(f"{name} has .. in it: {shown(path)}.", "Give the path itself.")
    normal = os.path.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def environment(name: str, value: Any, secret: bool = False) -> dict[str, str]:
    """Variables for the sandbox: names as a shell would take them, values of text. No error shows a secret one."""
    if not isinstance(value, Mapping):
        raise SandboxError(f"{name} must be a mapping of variables, not {type(value).__name__}.")
    result = {}
    for key, content in value.items():
        if not isinstance(key, str) or not _ENV_RULE.match(key):
            raise SandboxError(f"{name} has {shown(key)}, which is no name for a variable.")
        plain = isinstance(content, str | float) or (isinstance(content, int) and abs(content) < 1 << 64)
        if isinstance(content, bool) or not plain:
            raise SandboxError(f"{name}: the value of {shown(key)} must be text.", "Put it in quotes.")
        try:
            # The kernel's limit is on NAME=VALUE.
            result[key] = _text(f"{name}: {shown(key)}", str(content), _ARG_MAX - len(key) - 1)
        except SandboxError:
            if not secret:
                raise
            raise SandboxError(f"{name}: the value of {shown(key)} has a NUL in it, or is too long.") from None
    return result


def _grants(value: Any) -> dict[str, bool]:
    if not isinstance(value, Mapping):
        raise SandboxError(f"grants must be a mapping of names to true or false, not {shown(value)}.")
    for key in value:
        if key not in GRANT_DEFAULTS:
            raise SandboxError(f"There is no grant {shown(key)}.", f"The grants are: {', '.join(GRANT_DEFAULTS)}.")
    given = {key: asked for key, asked in value.items() if asked is not None}
    for key, asked in given.items():
        if not isinstance(asked, bool):
            raise SandboxError(f"grants.{key} must be true or false, not {shown(asked)}.")
    return given


def _options(name: str, options: Mapping[str, Option], value: Any) -> dict[str, Any]:
    """A mapping with exactly these keys: the defaults where nothing is given."""
    if not isinstance(value, Mapping):
        raise SandboxError(f"{name} must be a mapping, not {shown(value)}.")
    for key in value:
        if key not in options:
            raise SandboxError(f"{name} has no option {shown(key)}.", f"The options are: {', '.join(options)}.")
    result = _defaults(options)
    for key, given in value.items():
        if given is not None:
            result[key] = _option(f"{name}.{key}", options[key], given)
    return result


def _option(name: str, option: Option, value: Any) -> Any:
    if option.kind == "path":
        return check_path(name, value)
    if option.kind == "bool":
        if not isinstance(value, bool):
            raise SandboxError(f"{name} must be true or false, not {shown(value)}.")
    elif option.kind in ("int", "float"):
        kinds = (int, float) if option.kind == "float" else (int,)
        low, high = option.limits
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise SandboxError(f"{name} is {shown(value)}; it must be a number from {low} to {high}.")
        return float(value) if option.kind == "float" else value
    elif value not in option.choices:
        raise SandboxError(f"{name} is {shown(value)}, which is none of: {', '.join(option.choices)}.")
    return value


def _mount(value: Any) -> Mount:
    if not isinstance(value, Mapping) or not set(value) <= {"source", "target", "mode"} or "source" not in value:
        raise SandboxError(f"A mount has a source, a target and a mode (ro or rw), not {shown(value)}.")
    source = check_path("mounts: source", value["source"])
    target = check_path("mounts: target", value.get("target") or source)
    mode = value.get("mode") or "ro"
    if mode not in ("ro", "rw"):
        raise SandboxError(f"mounts: the mode of {shown(source)} is {shown(mode)}; it must be ro or rw.")
    if target == "/" or target.split("/")[1] in ("proc", "dev", "sys"):
        raise SandboxError(f"mounts: nothing can be mounted on {shown(target)} in a sandbox.", "Choose another target.")
    return Mount(source, target, mode)


def _check_geometry(text: str) -> None:
    match = _GEOMETRY_RULE.match(text)
    # 32767 is what X11's protocol can address; beyond 8K the framebuffer alone passes 128 MiB.
    if not match or int(match[1]) > 7680 or int(match[2]) > 4320:
        raise SandboxError(f"geometry is {shown(text)}.", "Give WIDTHxHEIGHT in pixels, at most 7680x4320.")


def _check_targets(spec: Spec) -> None:
    seen = {spec.project_dir: "the project directory"}
    for mount in spec.mounts:
        if mount.target in seen:
            raise SandboxError(
                f"mounts: {shown(mount.source)} and {seen[mount.target]} would both stand on {shown(mount.target)}.",
                "Give one of them another target.",
            )
        seen[mount.target] = shown(mount.source)
