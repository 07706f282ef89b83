# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The agent: its command line, its environment, and what it is told about the sandbox it is in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import files
from .grants import Granted, Owner
from .host import Account
from .spec import Spec
from .toolchain import Toolchain

_IDENTITY = ("/etc/passwd", "/etc/group")
_CLAUDE_JSON = ".claude.json"
_CLAUDE_JSON_LIMIT = 32 << 20  # bytes
# Its program and its plugins are read-only inside, so it need not try to renew or to mend them.
CLAUDE_ENV = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_INSTALLATION_CHECKS": "1",
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
}
_TELLING = (["--version"], ["-v"], ["--help"], ["-h"])
_APPROVED_TAIL = 20  # characters of an API key by which Claude Code remembers that it was approved


def is_claude(spec: Spec) -> bool:
    """Whether the agent is Claude Code, which gets a notice and a prepared login."""
    return spec.agent == ["claude"]


def arguments(spec: Spec, resumes: bool) -> list[str]:
    """What follows the agent's program."""
    # What only tells of itself begins no conversation, and is quick where it is asked for nothing else.
    if not is_claude(spec) or spec.agent_args in _TELLING:
        return spec.agent_args
    words = ["--append-system-prompt", notice(spec)]
    if resumes:
        words.append("--continue")
    return [*words, *spec.agent_args]


def notice(spec: Spec) -> str:
    """What the agent is told about where it is."""
    in_guest = spec.backend == "vm"
    network = "You have the host's network." if spec.network else "There is no network here; only loopback exists."
    if in_guest and spec.network:
        network = "You reach the network through the host, which is 10.0.2.2 here."
    kept = "~/.local and ~/.cache" if in_guest else "~/.local, ~/.cache and /tmp"
    lines = [
        "You are working inside a sandbox made for this project; you are not on the user's own machine.",
        f"The project, {spec.project_dir}, is the user's real directory: what you write there stays.",
        f"Of the rest, only {kept} are kept from one start to the next; the system is read-only.",
        network,
    ]
    if spec.granted("display"):
        lines.append(
            f"A screen of your own ({spec.geometry}) is at $DISPLAY: run `chromium` there to look at pages; "
            "the user may be watching it."
        )
    lines.append("Refused access is the sandbox's rule, not a fault to work around: ask the user when you need more.")
    return "\n".join(lines)


def environment(
    spec: Spec, name: str, owner: Account, place: Owner, toolchain: Toolchain, granted: Granted
) -> dict[str, str]:
    """The variables inside, without the secret ones: nothing of the host's but what a grant names."""
    env = {
        **toolchain.env,
        "HOME": owner.home,
        "USER": owner.name,
        "LOGNAME": owner.name,
        "SHELL": toolchain.shell,
        "PATH": f"{owner.home}/.local/bin:{toolchain.path}",
        "LANG": "C.UTF-8",
        "TERM": "tmux-256color",
        "COLORTERM": "truecolor",
        "XDG_RUNTIME_DIR": place.inside_runtime,
        "CLAUDE_SANDBOX": name,
        "IS_SANDBOX": "1",
    }
    if is_claude(spec):
        env |= CLAUDE_ENV
    return env | dict(granted.env) | spec.env


def places_of_files(owner: Account) -> tuple[str, ...]:
    """Where files_inside puts files."""
    return (*_IDENTITY, f"{owner.home}/{_CLAUDE_JSON}")


def files_inside(spec: Spec, owner: Account, group: str, shared: bool, secrets: Mapping[str, str]) -> dict[str, bytes]:
    """The small files that a sandbox gets as copies: who it is, and Claude Code's own state.

    shared: whether the sandbox shares the account's ~/.claude.
    """
    passwd, groups = _IDENTITY
    found = {
        passwd: f"{owner.name}:x:{owner.uid}:{owner.gid}::{owner.home}:/bin/sh\n".encode(),
        groups: f"{group}:x:{owner.gid}:\n".encode(),
    }
    if is_claude(spec):
        found[f"{owner.home}/{_CLAUDE_JSON}"] = json.dumps(_claude_state(spec, owner, shared, secrets)).encode()
    return found


def _claude_state(spec: Spec, owner: Account, shared: bool, secrets: Mapping[str, str]) -> dict[str, Any]:
    """The account's ~/.claude.json, with the questions answered that making a sandbox has answered.

    Claude Code replaces that file as it goes: the sandbox has a copy, and the account's is not touched.
    """
    content = files.read_json(f"{owner.home}/{_CLAUDE_JSON}", _CLAUDE_JSON_LIMIT) if shared else None
    state: dict[str, Any] = content if isinstance(content, dict) else {}
    projects = state.get("projects")
    state["projects"] = projects if isinstance(projects, dict) else {}
    project = state["projects"].get(spec.project_dir)
    state["projects"][spec.project_dir] = {
        **(project if isinstance(project, dict) else {}),
        "hasTrustDialogAccepted": True,
    }
    # Without this it asks for a theme, and ends where it cannot reach its servers; with it, /login is there.
    state["hasCompletedOnboarding"] = True
    key = secrets.get("ANTHROPIC_API_KEY")
    if key:
        state["customApiKeyResponses"] = {"approved": [key[-_APPROVED_TAIL:]], "rejected": []}
    return state


def settings(content: bytes | None) -> bytes:
    """Claude Code's settings with one question answered: whoever starts it without permissions, here, means it.

    Settings that are not JSON stay as they are, for Claude Code to say so.
    """
    try:
        found = json.loads(content) if content is not None else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return content or b"{}"
    return json.dumps({**found, "skipDangerousModePermissionPrompt": True}, indent=1).encode()


def can_resume(spec: Spec, claude_dir: str) -> bool:
    """Whether there is a conversation to go on with.

    The interface ends with an error where there is none, and one held with --print does not count for it
    (measured with 2.1.197); --print itself begins a new one.
    """
    if not is_claude(spec):
        return False
    if not {"-p", "--print"}.isdisjoint(spec.agent_args):
        return True
    from . import usage

    return usage.has_conversation(claude_dir, spec.project_dir)
