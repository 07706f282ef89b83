"""The role sandbox on real hosts: programs of the distribution, what accounts need, a tree of programs.

A test is a story of one host. Claude Code is left to the scenario `sandbox` of Molecule, for it takes a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import Fleet, fleet
from tests.nix.applying import Applied, applied, apply, said

pytestmark = pytest.mark.usefixtures("as_root")

HOST = "host1"
ROOTFS = "/usr/local/lib/claude-sandbox/rootfs"
DROP_IN = "/etc/systemd/system/user@.service.d/claude-sandbox.conf"
SETTINGS: dict[str, Any] = {
    "claude_sandbox_user": "ops",
    "claude_sandbox_packages": ["bubblewrap"],
    "claude_sandbox_browser_packages": [],
    "claude_sandbox_install_claude_code": False,
}


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """One host, of the release that the test names."""
    with fleet(count=1, releases=(request.param,)) as made:
        yield made


def _role(hosts: Fleet, *flags: str, **more: Any) -> Applied:
    return applied(hosts, "sandbox", *flags, host=HOST, user="ops", **{**SETTINGS, **more})


@pytest.mark.parametrize("hosts", ["trixie"], indirect=True)
def test_what_accounts_need(hosts: Fleet) -> None:
    said(hosts, HOST, "useradd", "--create-home", "second")
    _what_is_missing_is_foretold_and_done_once(hosts)
    _user_managers_run_without_a_login(hosts)
    _controllers_are_given_where_cgroup_v2_is_alone(hosts)
    _an_account_that_is_not_there_is_named(hosts)


def _what_is_missing_is_foretold_and_done_once(hosts: Fleet) -> None:
    more = {"claude_sandbox_linger_users": ["second"]}
    foretold, done, again, still = (_role(hosts, *flags, **more) for flags in (["--check"], [], [], ["--check"]))

    # Packages and lingering.
    assert (foretold.changed, done.changed, again.changed, still.changed) == (2, 2, 0, 0), done.output


def _user_managers_run_without_a_login(hosts: Fleet) -> None:
    for name in ("ops", "second"):
        uid = said(hosts, HOST, "id", "--user", name)
        hosts.ssh(HOST, "systemctl", "start", f"user@{uid}.service")
        scope = ("systemd-run", "--user", "--scope", "--quiet", "true")
        said(hosts, HOST, "runuser", "--user", name, "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *scope)


def _controllers_are_given_where_cgroup_v2_is_alone(hosts: Fleet) -> None:
    assert hosts.ssh(HOST, "test", "-e", DROP_IN).returncode == 1, "this host has cgroup v1"
    # What tells hosts with cgroup v2 alone: the rest of the role does not depend on it.
    said(hosts, HOST, "sh", "-c", "mount -o remount,rw /sys/fs/cgroup && touch /sys/fs/cgroup/cgroup.controllers")
    foretold, done, again = _role(hosts, "--check"), _role(hosts), _role(hosts)

    assert (foretold.changed, again.changed) == (done.changed, 0), done.output
    given = said(hosts, HOST, "systemctl", "show", "--property=DelegateControllers", "user@4242.service")
    assert set(given.partition("=")[2].split()) == {"cpu", "cpuset", "io", "memory", "pids"}


def _an_account_that_is_not_there_is_named(hosts: Fleet) -> None:
    settings = {**SETTINGS, "claude_sandbox_linger_users": ["nobody-here"]}
    done = apply(hosts, "sandbox", host=HOST, **settings)

    assert (done.failed, done.changed) == (True, 0)
    assert "There is no account nobody-here on this host." in done.error


@pytest.mark.parametrize("hosts", ["bookworm"], indirect=True)
def test_the_tree_of_programs_is_made_again_when_it_is_to_be_another(hosts: Fleet) -> None:
    settings = {"claude_sandbox_rootfs": True, "claude_sandbox_linger": False}
    small = {**settings, "claude_sandbox_rootfs_packages": ["bash", "coreutils"]}
    larger = {**settings, "claude_sandbox_rootfs_packages": ["bash", "coreutils", "jq"]}

    assert _role(hosts, **small).changed > 0
    made = said(hosts, HOST, "stat", "--format=%i", ROOTFS)
    again, still = _role(hosts, **small), _role(hosts, "--check", **small)
    assert (again.changed, still.changed) == (0, 0), again.output
    assert said(hosts, HOST, "stat", "--format=%i", ROOTFS) == made
    assert said(hosts, HOST, "chroot", ROOTFS, "/usr/bin/bash", "-c", "echo inside") == "inside"
    assert hosts.ssh(HOST, "test", "-e", f"{ROOTFS}/usr/bin/jq").returncode == 1

    foretold, done = _role(hosts, "--check", **larger), _role(hosts, **larger)
    assert (foretold.changed, done.changed) == (1, 1), done.output
    assert said(hosts, HOST, "chroot", ROOTFS, "/usr/bin/jq", "--version").startswith("jq-")
    assert _role(hosts, **larger).changed == 0
