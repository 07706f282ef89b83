"""What the agent is told, given and started with."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    agent,
    claude,
    grants,
    host,
    spec,
    toolchain,
)

PROJECT = "/srv/demo"
KEY = "sk-made-up-" + "0123456789" * 3
TOOLS = toolchain.Toolchain("host", (), (), "/opt/bin:/usr/bin", "/usr/bin/bash")
PLACE = grants.Owner("/home/ann", 1000, "/run/user/1000", {"SECRET": "of the host"}, "/data", "/store")
OUTSIDE = grants.Granted((), {"DISPLAY": ":7", "LANG": "de_DE.UTF-8"}, ("display",), {})


def asked(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": PROJECT, **params})


def account(home: object) -> host.Account:
    return host.Account("ann", 1000, 100, str(home), "/bin/zsh", (100,))


# What it is told.


@pytest.mark.parametrize(
    "params, said, unsaid",
    [
        pytest.param({}, "You have the host's network.", "There is no network", id="network"),
        pytest.param({"network": False}, "There is no network here", "host's network", id="no-network"),
        pytest.param({"geometry": "800x600"}, "(800x600) is at $DISPLAY", "1920", id="display"),
        pytest.param({"grants": {"display": False}}, "sandbox", "DISPLAY", id="no-display"),
        pytest.param({}, f"The project, {PROJECT}, is", "{", id="project"),
    ],
)
def test_notice(params: dict[str, Any], said: str, unsaid: str) -> None:
    text = agent.notice(asked(**params))
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(
    "params, resumes, words",
    [
        pytest.param({}, False, ["--append-system-prompt", "NOTICE"], id="claude"),
        pytest.param({}, True, ["--append-system-prompt", "NOTICE", "--continue"], id="goes-on"),
        pytest.param(
            {"agent_args": ["-p", "do it"]},
            True,
            ["--append-system-prompt", "NOTICE", "--continue", "-p", "do it"],
            id="own-arguments-last",
        ),
        pytest.param({"agent": ["shell"]}, True, [], id="shell"),
        pytest.param({"agent": ["claude", "x"], "agent_args": ["y"]}, True, ["y"], id="a-program-of-that-name"),
    ],
)
def test_arguments(params: dict[str, Any], resumes: bool, words: list[str]) -> None:
    expected = [agent.notice(asked(**params)) if word == "NOTICE" else word for word in words]
    assert agent.arguments(asked(**params), resumes) == expected


# What is in its environment.

ALWAYS = {
    "HOME": "/home/ann",
    "USER": "ann",
    "LOGNAME": "ann",
    "SHELL": "/usr/bin/bash",
    "PATH": "/home/ann/.local/bin:/opt/bin:/usr/bin",
    "LANG": "C.UTF-8",
    "TERM": "tmux-256color",
    "COLORTERM": "truecolor",
    "XDG_RUNTIME_DIR": "/run/user/1000",
    "CLAUDE_SANDBOX": "demo",
    "IS_SANDBOX": "1",
}
CLAUDE = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_INSTALLATION_CHECKS": "1",
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
}
NOTHING = grants.Granted((), {}, (), {})


@pytest.mark.parametrize(
    "params, granted, env",
    [
        pytest.param({"agent": ["shell"]}, NOTHING, ALWAYS, id="nothing-of-the-host"),
        pytest.param({}, NOTHING, ALWAYS | CLAUDE, id="claude"),
        pytest.param({"agent": ["shell"]}, OUTSIDE, ALWAYS | dict(OUTSIDE.env), id="grants-over-ours"),
        pytest.param(
            {"agent": ["shell"], "env": {"LANG": "C", "TERM": "dumb", "A": "1"}},
            OUTSIDE,
            ALWAYS | {"DISPLAY": ":7", "LANG": "C", "TERM": "dumb", "A": "1"},
            id="the-users-over-all",
        ),
    ],
)
def test_environment(params: dict[str, Any], granted: grants.Granted, env: dict[str, str]) -> None:
    assert agent.environment(asked(**params), "demo", account("/home/ann"), PLACE, TOOLS, granted) == env


def test_what_programs_need_goes_behind_all_else() -> None:
    """A toolchain from elsewhere does not decide who somebody is, nor where programs are looked for."""
    tools = dataclasses.replace(TOOLS, env={"NIX_LD": "/ld", "HOME": "/x", "PATH": "/x", "A": "x"})
    plain, env = (
        agent.environment(asked(env={"A": "1"}), "demo", account("/home/ann"), PLACE, each, OUTSIDE)
        for each in (TOOLS, tools)
    )
    assert env == plain | {"NIX_LD": "/ld"}


# Its files.


def state(home: Path, shared: bool = True, secrets: dict[str, str] | None = None, **params: Any) -> dict[str, Any]:
    """The ~/.claude.json that a sandbox gets."""
    found = agent.files_inside(asked(**params), account(home), "users", shared, secrets or {})
    content: dict[str, Any] = json.loads(found[f"{home}/.claude.json"])
    return content


TRUSTED = {"hasTrustDialogAccepted": True}
FRESH = {"projects": {PROJECT: TRUSTED}, "hasCompletedOnboarding": True}


def test_who_it_is() -> None:
    assert agent.files_inside(asked(agent=["shell"]), account("/home/ann"), "users", True, {}) == {
        "/etc/passwd": b"ann:x:1000:100::/home/ann:/bin/sh\n",
        "/etc/group": b"users:x:100:\n",
    }


@pytest.mark.parametrize(
    "content, expected",
    [
        pytest.param({}, FRESH, id="empty"),
        pytest.param({"theme": "dark", "userID": "u"}, {**FRESH, "theme": "dark", "userID": "u"}, id="settings-kept"),
        pytest.param(
            {"projects": {"/srv/other": {"a": 1}, PROJECT: {"history": [1], "hasTrustDialogAccepted": False}}},
            {**FRESH, "projects": {"/srv/other": {"a": 1}, PROJECT: {"history": [1], **TRUSTED}}},
            id="projects-kept",
        ),
        pytest.param({"projects": [1]}, FRESH, id="projects-are-no-mapping"),
        pytest.param({"projects": {PROJECT: "text"}}, FRESH, id="project-is-no-mapping"),
        pytest.param([1], FRESH, id="no-mapping"),
        pytest.param("{", FRESH, id="text"),
    ],
)
def test_the_accounts_state_is_copied_and_not_touched(
    tmp_path: Path, content: object, expected: dict[str, Any]
) -> None:
    path = tmp_path / ".claude.json"
    path.write_text(json.dumps(content))
    before = (path.read_bytes(), path.stat())
    assert state(tmp_path) == expected
    assert (path.read_bytes(), path.stat()) == before
    assert os.listdir(tmp_path) == [".claude.json"]


GARBAGE: dict[str, Callable[[Path], object]] = {
    "no-file": lambda path: None,
    "no-json": lambda path: path.write_bytes(b"\xff{"),
    "too-deep": lambda path: path.write_text("[" * 100_000),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize("how", GARBAGE)
def test_a_state_that_cannot_be_read_is_begun_anew(tmp_path: Path, how: str) -> None:
    GARBAGE[how](tmp_path / ".claude.json")
    assert state(tmp_path) == FRESH


def test_nothing_of_the_accounts_state_goes_in_where_claude_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / ".claude.json").write_text('{"oauthAccount": "private"}')
    assert state(tmp_path, shared=False) == FRESH


@pytest.mark.parametrize(
    "secrets, approved",
    [
        pytest.param({"ANTHROPIC_API_KEY": KEY}, [KEY[-20:]], id="key"),
        pytest.param({"ANTHROPIC_API_KEY": ""}, None, id="empty"),
        pytest.param({"OTHER": KEY}, None, id="other"),
    ],
)
def test_a_key_is_approved_by_its_end(tmp_path: Path, secrets: dict[str, str], approved: list[str] | None) -> None:
    found = state(tmp_path, secrets=secrets)
    expected = {"approved": approved, "rejected": []} if approved else None
    assert found.get("customApiKeyResponses") == expected
    assert KEY not in json.dumps(found)


# Whether it goes on.


@pytest.mark.parametrize(
    "params, recorded, goes_on",
    [
        pytest.param({}, "cli", True, id="a-conversation-of-the-interface"),
        pytest.param({}, "sdk-cli", False, id="of-print-mode"),
        pytest.param({}, None, False, id="none"),
        pytest.param({"agent_args": ["-p", "x"]}, None, True, id="print-mode-begins-one"),
        pytest.param({"agent_args": ["--print"]}, "sdk-cli", True, id="print-mode"),
        pytest.param({"agent_args": ["--permission-mode", "plan"]}, None, False, id="arguments-that-look-like-it"),
        pytest.param({"agent": ["shell"]}, "cli", False, id="another-agent"),
        pytest.param({"agent": ["shell"], "agent_args": ["-p"]}, "cli", False, id="another-agent-with-an-argument"),
    ],
)
def test_can_resume(tmp_path: Path, params: dict[str, Any], recorded: str | None, goes_on: bool) -> None:
    folder = tmp_path / "projects" / claude.encoded(PROJECT)
    folder.mkdir(parents=True)
    if recorded:
        record = {"type": "user", "cwd": PROJECT, "isSidechain": False, "entrypoint": recorded}
        (folder / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert agent.can_resume(asked(**params), str(tmp_path)) is goes_on
