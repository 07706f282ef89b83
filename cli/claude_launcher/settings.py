# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a sandbox is asked for: the defaults of package and desktop, the user's file, the project's, the command line.

Each but two may change what those before it say. A project's file can only take away, for the agent can write it; and a
package that is made to have no network has none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from claude_sandbox import files
from claude_sandbox.errors import SandboxError, shown
from claude_sandbox.spec import GRANT_DEFAULTS

_PROJECT_FILE = ".claude-sandbox.toml"
_LIMIT = 1 << 16  # bytes
_PROJECT_LIMIT = 1 << 12  # the time that TOML takes grows with the square of it, where somebody means harm
_FIELDS = frozenset(
    (
        "backend",
        "network",
        "toolchain",
        "rootfs",
        "nix_toolchain",
        "agent_args",
        "env",
        "grants",
        "mounts",
        "geometry",
        "glx",
        "container",
        "vm",
    )
)
# The file of a package that brings its own programs, which its wrapper names; what it can say.
_PACKAGE_FILE = "CLAUDE_SANDBOX_DEFAULTS"
_OF_PACKAGE = frozenset(("toolchain", "nix_toolchain", "network"))
# By the session bus programs are started outside, and the keyring has all secrets: these are given by name alone.
_OF_DESKTOP = ("audio", "gpu", "ssh_agent", "nix", "locale")


def defaults(environ: Mapping[str, str], backend: str) -> dict[str, bool]:
    """The grants of a person at this desktop, or at this terminal where there is none."""
    if backend != "bubblewrap":
        return {"locale": True}
    wayland = bool(environ.get("WAYLAND_DISPLAY"))
    # Who has Wayland does without X11's missing walls.
    x11 = bool(environ.get("DISPLAY")) and not wayland
    found = dict.fromkeys(_OF_DESKTOP, True)
    return {**found, "x11": x11, "wayland": wayland, "display": not (x11 or wayland)}


def of_package(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the package that this command is from says. Raises SandboxError where that cannot be read."""
    path = environ.get(_PACKAGE_FILE, "")
    if not path:
        return {}
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LIMIT))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content.keys() <= _OF_PACKAGE:
        raise SandboxError(f"{_PACKAGE_FILE} names {shown(path)}, which has no defaults of a package.", "Unset it.")
    return content


def of_user(environ: Mapping[str, str]) -> dict[str, Any]:
    """The user's own file. Raises SandboxError where it is no good."""
    base = environ.get("XDG_CONFIG_HOME", "")
    base = base if base.startswith("/") else os.path.expanduser("~/.config")
    path = f"{base}/claude-sandbox/config.toml"
    # People have their settings as links to where they keep them.
    content = _read(os.path.realpath(path), path, _LIMIT)
    wrong = next((name for name in content if name not in _FIELDS), None)
    if wrong is not None:
        raise SandboxError(f"{path} has {shown(wrong)} in it.", f"What it can have: {', '.join(sorted(_FIELDS))}.")
    return content


def of_project(project_dir: str) -> dict[str, Any]:
    """The project's file. Raises SandboxError where it is no good, or would give anything."""
    path = f"{project_dir}/{_PROJECT_FILE}"
    content = _read(path, path, _PROJECT_LIMIT)
    grants = content.get("grants", {})
    given = {"network": False} if "network" in content else {}
    taken = {**given, **({"grants": dict.fromkeys(grants, False)} if isinstance(grants, dict) and grants else {})}
    if content != taken:
        raise SandboxError(
            f"{path} can only take away: network = false, and grants.NAME = false.",
            "What gives a sandbox more stands in your own file, or on the command line.",
        )
    return taken


def _read(path: str, told: str, limit: int) -> dict[str, Any]:
    if not os.path.lexists(path):
        return {}
    import tomllib

    file = files.open_regular(path)
    if file is None:
        raise SandboxError(f"{told} is no plain file, or cannot be read.", "Remove it, or make it one.")
    with file:
        content = file.read(limit + 1)
    try:
        if len(content) > limit:
            raise ValueError(f"longer than {limit} bytes")
        return tomllib.loads(content.decode())
    except RecursionError:
        raise SandboxError(f"{told} cannot be read as TOML: it is nested too deeply.", "Mend or remove it.") from None
    except ValueError as error:
        raise SandboxError(f"{told} cannot be read as TOML: {error}.", "Mend or remove it.") from None


def merged(
    environ: Mapping[str, str],
    project_dir: str,
    backend: str | None,
    no_network: bool,
    given: Sequence[str],
    taken: Sequence[str],
    mounts: Sequence[str],
) -> dict[str, Any]:
    """The parameters of the sandbox of a project. Raises SandboxError where something cannot be."""
    for name in (*given, *taken):
        if name not in GRANT_DEFAULTS:
            raise SandboxError(f"There is no grant {shown(name)}.", f"The grants are: {', '.join(GRANT_DEFAULTS)}.")
    package, user, project = of_package(environ), of_user(environ), of_project(project_dir)
    if {"toolchain", "rootfs", "nix_toolchain"} & user.keys():
        # Whoever chooses the programs does without the package's.
        package = {name: value for name, value in package.items() if name == "network"}
    chosen = backend or user.get("backend") or "bubblewrap"
    allowed = user.get("network", True)
    if not isinstance(allowed, bool):
        raise SandboxError(f"network in your config.toml is {shown(allowed)}.", "Write true or false.")
    network = allowed and not no_network and "network" not in project and package.get("network") is not False
    grants = defaults(environ, chosen)
    grants |= _mapping("grants", user) | dict.fromkeys(given, True)
    if not network and "nix" not in given:
        # Its daemon fetches for whoever asks.
        grants.pop("nix", None)
    if "display" in given and "x11" not in given:
        grants["x11"] = False
    elif grants.get("x11") and "display" not in given:
        grants["display"] = False
    grants |= project.get("grants", {}) | dict.fromkeys(taken, False)
    own = user.get("mounts", [])
    if not isinstance(own, list):
        raise SandboxError("mounts in your config.toml is no list.")
    return {
        **package,
        **user,
        "project_dir": project_dir,
        "backend": chosen,
        "network": network,
        "grants": grants,
        "mounts": [*own, *map(_mount, mounts)],
    }


def _mapping(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    found = settings.get(name, {})
    if not isinstance(found, dict):
        raise SandboxError(f"{name} in your config.toml is no table.", f"Write [{name}], and below it name = true.")
    return found


def _mount(text: str) -> dict[str, str]:
    """SRC[:DST][:rw|:ro]; a relative path is one of this directory."""
    words = text.split(":")
    mode = words.pop() if len(words) > 1 and words[-1] in ("ro", "rw") else "ro"
    if len(words) > 2 or not all(words):
        raise SandboxError(
            f"--mount {shown(text)} is not SRC[:DST][:rw].", "A path with a colon goes into config.toml."
        )
    source = os.path.abspath(os.path.expanduser(words[0]))
    if not os.path.lexists(source):
        raise SandboxError(f"--mount: there is no {shown(source)}.", "Create it, or leave the mount out.")
    return {"source": source, "target": words[1] if len(words) > 1 else source, "mode": mode}
