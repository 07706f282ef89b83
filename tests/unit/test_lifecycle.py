"""What is looked at before a sandbox is started, and how its folders are kept from doing harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import host, lifecycle, spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

ME = host.account(os.geteuid())


@pytest.fixture
def equipped(tmp_path: Path) -> host.Host:
    """A host on which every program is there."""
    for name in ("bwrap", "tmux", "Xvfb"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return host.Host({"PATH": str(tmp_path / "bin")}, os.geteuid())


@pytest.mark.parametrize("target", [ME.home, os.path.dirname(ME.home) or ME.home, "/etc", "/etc/passwd"])
def test_a_mount_over_what_every_sandbox_has_is_refused(equipped: host.Host, tmp_path: Path, target: str) -> None:
    """~/.claude.json and /etc/passwd are copies: written through a mount they would replace the real ones."""
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir()
    # A mount on / itself is refused by the spec.
    target = target if target != "/" else ME.home
    mounts = [{"source": str(data), "target": target, "mode": "rw"}]
    wanted = spec.parse({"project_dir": str(project), "agent": ["shell"], "mounts": mounts})
    with pytest.raises(SandboxError, match="which every sandbox has of its own") as caught:
        lifecycle.preflight(equipped, wanted, ME, str(tmp_path / "state"))
    assert "another target" in caught.value.hint
    assert list(data.iterdir()) == []


def test_a_mount_beside_them_is_not(equipped: host.Host, tmp_path: Path) -> None:
    project, data = tmp_path / "project", tmp_path / "data"
    project.mkdir()
    data.mkdir()
    mounts = [{"source": str(data), "target": f"{ME.home}/data"}, {"source": str(data), "target": "/etc/app"}]
    wanted = spec.parse({"project_dir": str(project), "agent": ["shell"], "mounts": mounts})
    lifecycle.preflight(equipped, wanted, ME, str(tmp_path / "state"))
