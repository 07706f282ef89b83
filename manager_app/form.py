# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The form for a new sandbox, made from the engine's declarations: what it shows, and what is asked for by it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import MultiDict

from claude_sandbox import spec
from claude_sandbox.errors import SandboxError
from claude_sandbox.sandboxes import Request


@dataclasses.dataclass(frozen=True)
class Input:
    """One field of the form. name: as the form sends it. options: what a fixed set of keys has, for a mapping."""

    name: str
    kind: str
    value: Any
    label: str = ""
    hint: str = ""
    choices: tuple[str, ...] = ()
    limits: tuple[float, float] = (0, 0)
    backend: str = ""


# What people ask for mostly, in that order; all other fields are under "More".
FIRST = ("project_dir", "backend", "user", "agent_args", "network")
_WORDS: Mapping[str, tuple[str, str]] = {
    "project_dir": ("Project directory", "The directory of this host that it may change, as /srv/webshop."),
    "backend": ("Backend", "What keeps it in: namespaces, a container, or a machine of its own."),
    "user": ("Account", "Whose sandbox it is. Empty: the account that owns the project."),
    "agent_args": ("Arguments for the agent", "One a line, as --model, or a first prompt."),
    "network": ("Network", "Off, it has only a loopback of its own."),
    "toolchain": ("Programs", "Where its programs come from."),
    "rootfs": ("Tree of programs", "For programs from a tree made for sandboxes."),
    "nix_toolchain": ("Toolchain of Nix", "For programs from Nix: a path in its store, or a profile."),
    "agent": ("Agent", "claude, shell, or a program and its arguments; one word a line."),
    "resume": ("Resume", "Goes on with the project's last conversation at each start."),
    "env": ("Variables", "NAME=VALUE, one a line. They are no place for secrets."),
    "geometry": ("Screen", "WIDTHxHEIGHT in pixels."),
    "glx": ("OpenGL", "Drawn by the processor."),
    "limits.memory": ("Memory at most, MiB", "Of the host. Needs systemd."),
    "limits.cpus": ("Processors at most", "0.5 is half of one."),
    "limits.tasks": ("Processes at most", ""),
    "limits.io_weight": ("Weight of its disk use", "1 to 10000, among other sandboxes."),
    "container.user_namespace": ("Ids of its own", "Its root is nobody on this host."),
    "vm.accel": ("Acceleration", "auto uses KVM where it is there."),
    "vm.memory": ("Memory, MiB", ""),
    "vm.cpus": ("Processors", ""),
    "vm.guest": ("Kernel and initial file system", "The folder that `make guest` filled."),
}
SPECIAL = ("grants", "mounts")  # have parts of the form of their own


def inputs(typed: Mapping[str, str]) -> list[Input]:
    """The form's fields, those first that are asked for mostly."""
    found = []
    for field in dataclasses.fields(spec.Spec):
        kind, options = field.metadata["kind"], field.metadata.get("options")
        if field.name in SPECIAL:
            continue
        if isinstance(options, Mapping):
            found += [_option(f"{field.name}.{name}", option, typed) for name, option in options.items()]
        else:
            value = _value(field.name, kind, _default(field), typed)
            words = _WORDS.get(field.name, (field.name, ""))
            found.append(Input(field.name, kind, value, *words, field.metadata.get("choices", ())))
    return sorted(found, key=lambda each: FIRST.index(each.name) if each.name in FIRST else len(FIRST))


def _option(name: str, option: spec.Option, typed: Mapping[str, str]) -> Input:
    value = _value(name, option.kind, option.default, typed)
    words = _WORDS.get(name, (name, ""))
    owner = name.partition(".")[0]
    return Input(
        name, option.kind, value, *words, option.choices, option.limits, owner if owner in spec.BACKENDS else ""
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default if field.default is not dataclasses.MISSING else ""


def _value(name: str, kind: str, default: Any, typed: Mapping[str, str]) -> Any:
    """What the form shows in a field: what was typed, else the default."""
    if kind == "bool":
        return name in typed if typed else default
    if name in typed:
        return typed[name]
    if kind == "list":
        return "\n".join(default)
    return default or ""


def is_on(typed: Mapping[str, str], grant: str) -> bool:
    """Whether the form shows a grant as given."""
    return f"grants.{grant}" in typed if typed else spec.GRANT_DEFAULTS[grant]


def field_of(what: str, names: tuple[str, ...]) -> str:
    """The field that an error of the engine is about: it begins with its name, or it is not about one."""
    if "is no name for a sandbox" in what:
        return "name"
    word = re.match(r"[a-z_.]+", what)
    found = word[0].rstrip(".") if word else ""
    return found if found in names else found.partition(".")[0] if found.partition(".")[0] in names else ""


def asked(form: MultiDict[str, str]) -> Request:
    """What the form asks for. Raises SandboxError where it cannot be."""
    params: dict[str, Any] = {}
    for field in dataclasses.fields(spec.Spec):
        options = field.metadata.get("options")
        if field.name in SPECIAL:
            continue
        if isinstance(options, Mapping):
            # What is for another backend is not shown, and not meant.
            if field.metadata.get("backend") in (None, form.get("backend")):
                params[field.name] = {
                    name: _parsed(f"{field.name}.{name}", option.kind, form) for name, option in options.items()
                }
        else:
            params[field.name] = _parsed(field.name, field.metadata["kind"], form)
    # As by default is as if it were not said: the defaults of root's sandboxes are others.
    params["grants"] = {
        name: f"grants.{name}" in form
        for name, default in spec.GRANT_DEFAULTS.items()
        if (f"grants.{name}" in form) != default
    }
    params["mounts"] = [
        {"source": source, "target": target or None, "mode": mode} for source, target, mode in mounts(form)
    ]
    spec.parse(params)
    return Request(spec.check_name(form.get("name", "").strip()), params=params, api_key=form.get("api_key") or None)


def _parsed(name: str, kind: str, form: Mapping[str, str]) -> Any:
    """A field as the engine takes it; None where nothing was typed."""
    if kind == "bool":
        return name in form
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if not text:
        return None
    if kind == "list":
        return [line for line in text.split("\n") if line]
    if kind == "dict":
        return dict(_variable(line) for line in text.split("\n") if line.strip())
    if kind == "int":
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
    if kind == "float":
        return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else text
    return text


def _variable(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        raise SandboxError("env has a line without =.", "Give NAME=VALUE, one a line.")
    return name.strip(), value


def mounts(form: MultiDict[str, str]) -> list[tuple[str, str, str]]:
    """The mounts in it, each as source, target and mode."""
    rows = zip(form.getlist("mount_source"), form.getlist("mount_target"), form.getlist("mount_mode"), strict=False)
    return [(source.strip(), target.strip(), mode) for source, target, mode in rows if source.strip() or target.strip()]
