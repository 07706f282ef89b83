"""Hosts that lack something say what, and which package or setting mends it; nothing is half made on them.

What they lack is taken away in a mount or user namespace of the test's own; the machine itself is not changed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tests.integration import playing
from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Result, Task

# What the shell runs before it becomes ansible-playbook.
_IN_MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-euc")
_IN_USERS = ("unshare", "--user", "--map-root-user", "sh", "-euc")
_THEN = '; exec "$@"'


def _where(program: str) -> list[str]:
    """All files that are found as this program, links followed."""
    folders = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".split(":")
    folders += os.environ.get("PATH", "").split(":")
    found = {shutil.which(program, path=folder) for folder in folders if folder}
    return sorted({os.path.realpath(path) for path in found if path})


def _assert_clear(result: Result, *words: str) -> None:
    assert result.failed
    assert all(word in result.message for word in words), result.message
    assert result.message.count("\n") <= 1
    assert "Traceback" not in str(result)


def _give_back(path: str) -> Task:
    return playing.task("ansible.builtin.command", argv=["umount", path])


def test_missing_programs(arena: Arena, as_root: None) -> None:
    """Each with its package; in check mode, too. They are given back one by one, and then it works."""
    packages = {"bwrap": "bubblewrap", "tmux": "tmux", "Xvfb": "xvfb"}
    # A device is not executed, whoever asks.
    hide = [f"mount --bind /dev/null {path}" for program in packages for path in _where(program)]
    whole: dict[str, Any] = {"grants": {**PLAIN["grants"], "display": True}}
    tasks, expected = [], []
    for program, package in packages.items():
        tasks += [arena.started(check=True, **whole), arena.started(**whole)]
        expected += [(len(tasks) - 2, program, package), (len(tasks) - 1, program, package)]
        tasks += [_give_back(path) for path in _where(program)]
    tasks += [
        arena.started("agentless", agent=["claude"], toolchain="host"),
        arena.started(**whole),
        arena.task(name="box", state="absent"),
        # Not there any more, so there is nothing that bwrap would be needed for.
        arena.task(name="box", state="absent"),
    ]
    hide += [f"mount --bind /dev/null {path}" for path in _where("claude")]
    results = arena.play(*tasks, prefix=(*_IN_MOUNTS, "; ".join(hide) + _THEN, "sh"))
    for number, program, package in expected:
        _assert_clear(results[number], f"{program} is not installed on this host.", f"Install the package {package}")
    _assert_clear(results[-4], "claude is not installed on this host.", "@anthropic-ai/claude-code")
    assert results[-3]["actions"] == ["create", "start"]
    assert results[-2]["actions"] == ["destroy"]
    assert not results[-1].changed
    assert arena.left_behind() == []
    assert arena.engine.registry.names() == []


def test_no_user_namespaces(arena: Arena) -> None:
    """Told by the kernel's own switch, which is off in a user namespace that the test makes."""
    prefix = (*_IN_USERS, "echo 0 >/proc/sys/user/max_user_namespaces" + _THEN, "sh")
    if os.geteuid() == 0:
        # Only root is known in there, so the project is root's.
        os.chown(arena.project, 0, 0)
    check, run = arena.play(arena.started(check=True), arena.started(), prefix=prefix)
    for result in (check, run):
        _assert_clear(result, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=")
    assert [*arena.state_dir.iterdir()] == []


def test_a_registry_that_cannot_be(arena: Arena) -> None:
    """Where it cannot be made or belongs to somebody else, nothing is made."""
    file = arena.project / "file"
    file.touch()
    arena.account.own(file)
    results = arena.play(
        arena.started(),
        *(
            playing.task(
                "claude_sandbox", name="box", project_dir=str(arena.new_project(f"p{number}")), **PLAIN, state_dir=path
            )
            for number, path in enumerate((f"{file}/registry", "/proc/registry", "/sys/registry"))
        ),
        playing.task("claude_sandbox_info", state_dir=f"{file}/registry"),
        playing.task("claude_sandbox_info", state_dir="/no/such/registry"),
    )
    for result in results[1:4]:
        _assert_clear(result, "registry")
    assert results[5]["sandboxes"] == []


def test_a_registry_of_somebody_else(arena: Arena, as_root: None) -> None:
    """Root writes nowhere where another account could lay a link in its way."""
    theirs = arena.new_project("theirs")
    (result,) = arena.play(
        playing.task("claude_sandbox", name="box", project_dir=str(arena.project), **PLAIN, state_dir=str(theirs))
    )
    _assert_clear(result, "belongs to", str(theirs))
    assert [*theirs.iterdir()] == []


def test_a_project_that_is_not_the_accounts(arena: Arena, as_root: None) -> None:
    os.chown(arena.project, 0, 0)
    arena.project.chmod(0o755)
    name = arena.account.name
    check, run = arena.play(arena.started(check=True, user=name), arena.started(user=name))
    for result in (check, run):
        _assert_clear(result, f"{name} cannot read and write project_dir", f"Change its owner to {name}")
    assert [*arena.state_dir.iterdir()] == []


def test_root_as_the_account(arena: Arena, as_root: None) -> None:
    """Possible, warned of, and without what only root may read."""
    os.chown(arena.project, 0, 0)
    secret = Path("/usr/local/share") / f"{arena.account.name}-secret"
    try:
        secret.write_text("for root alone", encoding="utf-8")
        secret.chmod(0o600)
        made, seen, gone = arena.play(
            arena.task(name="box", project_dir=str(arena.project), agent=["shell"]),
            arena.inside("sh", "-c", f"id -u; cat {secret} /etc/shadow; ls -A /root; touch made"),
            arena.task(name="box", state="absent"),
        )
    finally:
        secret.unlink()
    assert any("runs as root" in warning for warning in made["warnings"])
    assert (made.sandbox["user"], made.sandbox["given"]) == ("root", ["display"])
    assert seen["stdout"].split()[0] == "0"
    assert "for root alone" not in str(seen)
    assert (arena.project / "made").stat().st_uid == 0
    assert not gone.failed
    identity = made.sandbox["id"]
    assert not Path("/run/claude-sandbox", identity).exists()


def test_projects_in_odd_places(arena: Arena, as_root: None) -> None:
    """Where a sandbox has a directory of its own of the same name."""
    projects = [Path(where, f"{arena.account.name}-project") for where in ("/tmp", "/mnt", "/var/tmp")]
    for project in projects:
        project.mkdir()
        arena.account.own(project)
    listed = [{"name": f"box{number}", "project_dir": str(path), **PLAIN} for number, path in enumerate(projects)]
    try:
        made, *seen = arena.play(
            arena.task("claude_sandboxes", sandboxes=listed),
            *(arena.inside("sh", "-c", "pwd; touch made", name=f"box{number}") for number in range(len(projects))),
        )
        assert not made.failed, made.message
        for project, result in zip(projects, seen, strict=True):
            assert result["stdout"] == str(project)
            assert [path.name for path in project.iterdir()] == ["made"]
        arena.clear()
    finally:
        for project in projects:
            shutil.rmtree(project)
