"""A HOME in which the real Claude Code comes up without a question, against a test double of the API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DUMMY_KEY = "dummy-key-for-tests-0123456789-abcdefghij"
"""Long enough to be taken for a key, and of no scheme that a secret scanner knows."""

_APPROVED_TAIL = 20


def prepare_home(home: Path, key: str = DUMMY_KEY, trusted: Iterable[Path | str] = ()) -> Path:
    """Seed `home` so that the UI goes straight to its prompt; `trusted` directories cover what is below them."""
    (home / ".claude").mkdir(parents=True, exist_ok=True)
    _write(home / ".claude.json", claude_json(key, trusted))
    _write(home / ".claude" / "settings.json", settings_json())
    return home


def claude_json(key: str = DUMMY_KEY, trusted: Iterable[Path | str] = ()) -> dict[str, Any]:
    # The UI looks a project up by its real path.
    directories = [os.path.realpath(directory) for directory in trusted]
    return {
        "hasCompletedOnboarding": True,
        "customApiKeyResponses": {"approved": [key[-_APPROVED_TAIL:]], "rejected": []},
        "projects": {directory: {"hasTrustDialogAccepted": True} for directory in directories},
    }


def settings_json() -> dict[str, Any]:
    return {
        "skipDangerousModePermissionPrompt": True,
        "permissions": {"defaultMode": "bypassPermissions"},
        # Else the UI puts a desktop file into ~/.local and makes itself the handler of a URL scheme.
        "disableDeepLinkRegistration": "disable",
    }


def claude_env(api_url: str, key: str = DUMMY_KEY) -> dict[str, str]:
    """What to add to the environment; with it Claude Code talks to `api_url` and to nothing else."""
    return {
        "ANTHROPIC_BASE_URL": api_url,
        "ANTHROPIC_API_KEY": key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_INSTALLATION_CHECKS": "1",
        # Else the UI clones a repository of plugins at its start, which no other switch covers.
        "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    # Created with its mode, not changed to it: a key's tail stands in it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
