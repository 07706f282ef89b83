"""The playbooks, from bare hosts of each release on, and what the page about fleets shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.fleets import STATE_DIR, USER, ansible, plain, run, statuses, there
from tests.hosts import Fleet, fleet
from tests.integration import playing

HOSTS = ["host1", "host2"]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """What all runs have in common. One wheel for all: the clone may be worked on meanwhile."""
    argv = [sys.executable, str(playing.CLONE / "roles/manager/files/release.py")]
    made = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    wheel = json.loads(made.stdout)["wheel"]
    return {
        "claude_sandbox_browser_packages": [],
        "claude_sandbox_manager_wheel": wheel,
        "claude_sandboxes": [plain("web"), plain("api")],
    }


@pytest.fixture(scope="module")
def hosts(settings: dict[str, Any]) -> Iterator[Fleet]:
    """Two hosts, brought from nothing to a manager and two sandboxes each by one command."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot hosts")
    with fleet(count=2) as made:
        run(made, "site", **settings).went_well()
        yield made


def test_site(hosts: Fleet, settings: dict[str, Any]) -> None:
    for host in HOSTS:
        assert statuses(hosts, host) == {"web": "running", "api": "running"}
    again = run(hosts, "site", **settings).went_well()
    assert again.changes() == {"host1": 0, "host2": 0}, again.output


def test_create_and_destroy(hosts: Fleet) -> None:
    named: dict[str, Any] = {"claude_sandbox_name": "one", "claude_sandbox_project_dir": "/srv/one"}
    shell = {key: value for key, value in plain("one").items() if key not in ("name", "project_dir")}
    named["claude_sandbox_settings"] = shell
    made = run(hosts, "create", "-l", "host1", **named).went_well()
    line = next(line for line in made.output.splitlines() if "Attach there:" in line)
    attach = line.partition("Attach there:")[2].split()
    assert attach[:3] == ["sudo", "-u", USER]
    # The same session, asked for its name.
    socket = attach[attach.index("-S") + 1]
    listed = hosts.ssh("host1", "sudo", "-u", USER, "tmux", "-S", socket, "list-sessions")
    assert listed.stdout.startswith("main:"), listed.stderr
    assert run(hosts, "create", "-l", "host1", **named).went_well().count("host1", "changed") == 0
    assert run(hosts, "create", claude_sandbox_name="one").code != 0
    assert "Give either" in run(hosts, "destroy").output
    assert "Give either" in run(hosts, "destroy", claude_sandbox_name="one", claude_sandbox_destroy_all=True).output
    check = run(hosts, "destroy", "--check", "-l", "host1", claude_sandbox_name="one").went_well()
    assert "Would be removed: one" in check.output
    assert statuses(hosts, "host1")["one"] == "running"
    gone = run(hosts, "destroy", claude_sandbox_name="one").went_well()
    assert gone.changes() == {"host1": 1, "host2": 0}
    assert statuses(hosts, "host1") == {"web": "running", "api": "running"}
    assert hosts.ssh("host1", "ls", "-d", "/srv/one").returncode == 0


def test_status(hosts: Fleet, tmp_path: Path) -> None:
    away = tmp_path / "hosts.yml"
    inventory = json.loads(hosts.inventory.read_text(encoding="utf-8"))
    inventory["sandbox_hosts"]["hosts"] = {"away": {"ansible_host": "10.77.0.199"}} | inventory["sandbox_hosts"][
        "hosts"
    ]
    away.write_text(json.dumps(inventory), encoding="utf-8")
    written = tmp_path / "status.json"
    env = {"ANSIBLE_TIMEOUT": "2"}
    done = run(hosts, "status", inventory=away, env=env, claude_sandbox_status_json=str(written)).went_well()
    assert set(done.changes().values()) == {0}
    lines = [line.strip() for line in done.output.splitlines()]
    assert any(line.startswith("HOST ") and "SANDBOX" in line for line in lines)
    assert any(line.split()[:2] == ["host2", "web"] and "running" in line for line in lines)
    assert any(line.split()[:1] == ["away"] and "does not answer" in line for line in lines)
    rows = json.loads(written.read_text(encoding="utf-8"))
    found = {(row["host"], row["sandbox"], row["status"]) for row in rows}
    running = {(host, name, "running") for host in HOSTS for name in ("web", "api")}
    assert found == running | {("away", None, "unknown")}
    assert {row["project"] for row in rows if row["host"] == "host1"} == {"/srv/projects/web", "/srv/projects/api"}


def test_upgrade(hosts: Fleet, settings: dict[str, Any]) -> None:
    """Sandboxes go on as they were; the play stops at the first host where something is wrong."""
    before = {host: there(hosts, host)["web"]["pid"] for host in HOSTS}
    another = {**settings, "claude_sandbox_manager_environment": {"UPGRADED": "yes"}}
    done = run(hosts, "upgrade", **another).went_well()
    assert done.count("host1", "changed") > 0
    assert done.output.index("host1") < done.output.index("host2")
    assert {host: there(hosts, host)["web"]["pid"] for host in HOSTS} == before
    for host in HOSTS:
        shown = hosts.ssh(host, "systemctl", "show", "claude-sandbox-manager", "-P", "Environment").stdout
        assert "UPGRADED=yes" in shown
    broken = {**settings, "claude_sandbox_manager_environment": {"MANAGER_LISTEN": "nowhere"}}
    failed = run(hosts, "upgrade", **broken)
    assert failed.code != 0
    # The second was never touched.
    shown = hosts.ssh("host2", "systemctl", "show", "claude-sandbox-manager", "-P", "Environment").stdout
    assert "UPGRADED=yes" in shown
    assert {host: there(hosts, host)["web"]["pid"] for host in HOSTS} == before


def test_reboot(hosts: Fleet, settings: dict[str, Any]) -> None:
    """What ran runs again, what was stopped stays stopped, and the variables find nothing to change."""
    asked = {**settings, "claude_sandboxes": [plain("web"), {"name": "api", "state": "stopped"}]}
    play = [{"hosts": "sandbox_hosts", "gather_facts": False, "roles": ["claude_code.nix_sandbox.fleet"]}]
    run(hosts, play, "-l", "host1", **asked).went_well()
    before = there(hosts, "host1")["web"]
    hosts.reboot("host1")
    said = hosts.ssh("host1", "journalctl", "--boot", "-u", "claude-sandbox-resume", "-o", "cat").stdout
    assert "web: started" in said
    after = there(hosts, "host1")
    assert {name: view["status"] for name, view in after.items()} == {"web": "running", "api": "stopped"}
    assert after["web"]["started_at"] > before["started_at"]
    assert run(hosts, play, "-l", "host1", **asked).went_well().count("host1", "changed") == 0


def test_ad_hoc(hosts: Fleet, tmp_path: Path) -> None:
    """The commands of docs/fleet.md."""
    common = ["-i", str(hosts.inventory), "-b", "--become-user", USER]
    for module, words in (
        ("claude_sandbox_info", f"state_dir={STATE_DIR}"),
        ("claude_sandbox_exec", f"name=web state_dir={STATE_DIR} argv=uptime"),
        ("claude_sandbox", f"name=web state_dir={STATE_DIR} state=restarted"),
    ):
        done = ansible(
            "ansible",
            "sandbox_hosts",
            *common,
            "-m",
            f"claude_code.nix_sandbox.{module}",
            "-a",
            words,
            home=str(tmp_path),
        )
        assert done.returncode == 0, done.stdout + done.stderr
