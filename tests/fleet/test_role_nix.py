"""The role nix on real hosts, and the role sandbox with packages from a flake there. No cache of Nix is in reach.

A test is a story of one host: hosts take seconds to make, and Nix to install.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Fleet, fleet
from tests.nix import stubs
from tests.nix.applying import Applied, applied, apply, said

pytestmark = pytest.mark.usefixtures("as_root")

HOST = "host1"
OFFLINE = ["--option", "substituters", ""]
PING = ("nix", "--extra-experimental-features", "nix-command", "store", "ping", "--store", "daemon", *OFFLINE)
PROFILES = "/nix/var/nix/profiles"
FLAKES = "/srv/flakes"
PROJECT = "/home/ops/project"


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """One host, of the release that the test names."""
    with fleet(count=1, releases=(request.param,)) as made:
        yield made


NIX: dict[str, Any] = {"claude_sandbox_nix_users": ["ops"], "claude_sandbox_nix_extra_arguments": OFFLINE}
FROM_FLAKE: dict[str, Any] = {
    "claude_sandbox_user": "ops",
    "claude_sandbox_source": "nix",
    "claude_sandbox_flake": f"path:{FLAKES}/project",
    "claude_sandbox_flake_packages": ["default", "cli"],
    "claude_sandbox_flake_toolchain": "toolchain",
    "claude_sandbox_nix_extra_arguments": [
        *OFFLINE,
        *stubs.inputs(f"path:{FLAKES}/nixpkgs", f"path:{FLAKES}/claude-code"),
    ],
    "claude_sandbox_linger": False,
}


# --- Debian 13: the distribution's Nix, and packages of a flake -------------------------------------------------------


@pytest.mark.parametrize("hosts", ["trixie"], indirect=True)
def test_debian_13(hosts: Fleet, tmp_path: Path) -> None:
    _nix_is_foretold_and_installed_once(hosts)
    _accounts_reach_the_daemon_and_others_do_not(hosts)
    _the_daemon_answers_after_the_next_start(hosts)
    _what_cannot_work_is_said(hosts)
    _bring_flakes(hosts, tmp_path)
    _packages_are_foretold_and_built_once(hosts)
    _a_sandbox_starts_from_the_store_alone(hosts)
    _a_changed_input_changes_what_depends_on_it(hosts)
    _going_back_is_done_once(hosts)
    _what_others_have_put_there_is_not_replaced(hosts)


def _nix(hosts: Fleet, *flags: str) -> Applied:
    # As an account that has to use sudo, which is what most people's hosts are like.
    return applied(hosts, "nix", *flags, host=HOST, user="ops", **NIX)


def _nix_is_foretold_and_installed_once(hosts: Fleet) -> None:
    foretold = _nix(hosts, "--check")
    assert foretold.changed == 2
    assert "nix-bin nix-setup-systemd" in foretold.output
    assert hosts.ssh(HOST, "test", "-e", "/nix").returncode == 1

    assert _nix(hosts).changed >= 2
    again, still = _nix(hosts), _nix(hosts, "--check")
    assert (again.changed, still.changed) == (0, 0), again.output
    assert said(hosts, HOST, "dpkg", "--verify", "nix-setup-systemd", "nix-bin") == "", "a package's file was changed"


def _accounts_reach_the_daemon_and_others_do_not(hosts: Fleet) -> None:
    said(hosts, HOST, "useradd", "--create-home", "other")

    assert hosts.ssh(HOST, "runuser", "--user", "ops", "--", *PING).returncode == 0
    assert hosts.ssh(HOST, "runuser", "--user", "other", "--", *PING).returncode != 0


def _the_daemon_answers_after_the_next_start(hosts: Fleet) -> None:
    hosts.reboot(HOST)

    assert hosts.ssh(HOST, "runuser", "--user", "ops", "--", *PING).returncode == 0


def _what_cannot_work_is_said(hosts: Fleet) -> None:
    done = apply(hosts, "nix", host=HOST, claude_sandbox_nix_users=["ops", "nobody-here"])
    assert (done.failed, done.changed) == (True, 0)
    assert "There is no account nobody-here on this host." in done.error

    odd: dict[str, Any] = {"claude_sandbox_flake": "relative/path", "claude_sandbox_flake_packages": ["--impure"]}
    done = apply(hosts, "sandbox", host=HOST, **{**FROM_FLAKE, **odd})
    assert (done.failed, done.changed) == (True, 0)
    assert "name it in claude_sandbox_flake" in done.error
    assert "These are no names of packages: --impure" in done.error


def _bring_flakes(hosts: Fleet, folder: Path) -> None:
    stubs.make(folder)
    packed = subprocess.run(["tar", "-C", folder, "-c", "."], check=True, capture_output=True).stdout
    said(hosts, HOST, "mkdir", "-p", FLAKES)
    unpack = ["tar", "-C", FLAKES, "--no-same-owner", "-x"]
    subprocess.run([*hosts.ssh_argv(HOST), *unpack], input=packed, check=True, timeout=60)


def _sandbox(hosts: Fleet, *flags: str, **more: Any) -> Applied:
    return applied(hosts, "sandbox", *flags, host=HOST, user="ops", **{**FROM_FLAKE, **more})


def _claude(hosts: Fleet) -> str:
    """What Claude Code says from inside, as `ops`."""
    launch = ("/usr/local/bin/claude-sandbox", "--no-grant", "display", PROJECT, "--", "hello")
    return said(hosts, HOST, *launch, user="ops").split()[1]


def _packages_are_foretold_and_built_once(hosts: Fleet) -> None:
    foretold = _sandbox(hosts, "--check")
    assert foretold.changed == 1
    assert "-claude-sandbox-0.1.0" in foretold.output
    assert hosts.ssh(HOST, "ls", f"{PROFILES}/claude-sandbox-default").returncode != 0

    # Built, put in their profiles, linked.
    assert _sandbox(hosts).changed == 3
    again, still = _sandbox(hosts), _sandbox(hosts, "--check")
    assert (again.changed, still.changed) == (0, 0), again.output
    assert said(hosts, HOST, "/usr/local/bin/claude-sandbox", "--version") == "claude-sandbox 0.1.0"
    assert said(hosts, HOST, "/usr/local/bin/claude-remote", "--help").startswith("usage: claude-remote")
    assert said(hosts, HOST, f"{PROFILES}/claude-sandbox/bin/env", "true") == ""
    assert "bash" not in said(hosts, HOST, "ls", "/usr/local/bin"), "the toolchain is for inside"


def _a_sandbox_starts_from_the_store_alone(hosts: Fleet) -> None:
    assert hosts.ssh(HOST, "test", "-e", "/usr/bin/bwrap").returncode == 1
    said(hosts, HOST, "mkdir", PROJECT, user="ops")
    assert _claude(hosts) == "1"

    script = "command -v bash claude; touch /nix/store/made 2>&1; echo made >made"
    argv = ("/usr/local/bin/claude-sandbox", "--no-grant", "display", "--shell", PROJECT, "--", "-c", script)
    bash, claude, refused = said(hosts, HOST, *argv, user="ops").splitlines()
    assert bash.startswith("/nix/store/")
    assert claude.startswith("/nix/store/")
    assert refused.endswith("Read-only file system")
    assert said(hosts, HOST, "cat", f"{PROJECT}/made") == "made"


def _a_changed_input_changes_what_depends_on_it(hosts: Fleet) -> None:
    before = said(hosts, HOST, "readlink", "-f", f"{PROFILES}/claude-sandbox-cli")
    said(hosts, HOST, "sh", "-c", f"printf 2 >{FLAKES}/claude-code/version")
    foretold, done, again = _sandbox(hosts, "--check"), _sandbox(hosts), _sandbox(hosts)

    # The launcher and the toolchain are built, and put in their profiles; links stay.
    assert (foretold.changed, done.changed, again.changed) == (1, 2, 0), done.output
    assert _claude(hosts) == "2"
    assert said(hosts, HOST, "readlink", "-f", f"{PROFILES}/claude-sandbox-cli") == before


def _going_back_is_done_once(hosts: Fleet) -> None:
    back: dict[str, Any] = {"claude_sandbox_nix_rollback": True, "claude_sandbox_flake_toolchain": ""}
    refused = apply(hosts, "sandbox", host=HOST, **{**FROM_FLAKE, **back})
    assert refused.failed
    assert f"There is no earlier generation of {PROFILES}/claude-sandbox-cli." in refused.error
    assert _claude(hosts) == "2"

    back["claude_sandbox_flake_packages"] = ["default"]
    foretold, done, again = (_sandbox(hosts, *flags, **back) for flags in (["--check"], [], []))
    # The second change: the link of the package that is not named this time.
    assert (foretold.changed, done.changed, again.changed) == (2, 2, 0), done.output
    assert _claude(hosts) == "1"


def _what_others_have_put_there_is_not_replaced(hosts: Fleet) -> None:
    said(hosts, HOST, "sh", "-c", "echo mine >/usr/local/bin/claude-remote")
    done = apply(hosts, "sandbox", host=HOST, **FROM_FLAKE)

    assert done.failed
    assert "has programs that this role has not put there: claude-remote." in done.error
    assert said(hosts, HOST, "cat", "/usr/local/bin/claude-remote") == "mine"


# --- Debian 12: the official installer, with an archive of our own in its place ---------------------------------------

# What the official archive has, as far as the role knows: `install`, and after it a Nix where that one puts it.
_INSTALL = """\
#!/bin/sh
set -eu
echo "$@" >/srv/installed
bin=/nix/var/nix/profiles/default/bin
mkdir -p "$bin"
printf '#!/bin/sh\\necho "nix (Nix) 9.9.9"\\n' >"$bin/nix"
chmod 755 "$bin/nix"
cat >/etc/systemd/system/nix-daemon.socket <<UNIT
[Socket]
ListenStream=/run/nix-daemon
[Install]
WantedBy=sockets.target
UNIT
cat >/etc/systemd/system/nix-daemon.service <<UNIT
[Service]
ExecStart=/bin/true
UNIT
systemctl daemon-reload
"""


def _archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo(f"{name}/install")
        member.size, member.mode = len(_INSTALL), 0o755
        archive.addfile(member, io.BytesIO(_INSTALL.encode()))
    return packed.getvalue()


@pytest.mark.parametrize("hosts", ["bookworm"], indirect=True)
def test_debian_12(hosts: Fleet) -> None:
    _the_installer_is_not_run_unless_allowed(hosts)
    settings = _offer_archive(hosts)
    _another_archive_than_the_one_meant_is_not_run(hosts, settings)
    _the_installer_is_run_once(hosts, settings)
    _a_nix_that_is_too_old_is_left_and_named(hosts, settings)


def _the_installer_is_not_run_unless_allowed(hosts: Fleet) -> None:
    done = apply(hosts, "nix", host=HOST)
    assert (done.failed, done.changed) == (True, 0)
    assert "claude_sandbox_nix_installer=true lets the official installer bring Nix" in done.error

    done = apply(hosts, "sandbox", host=HOST, **FROM_FLAKE)
    assert (done.failed, done.changed) == (True, 0)
    assert "The role claude_code.nix_sandbox.nix brings it." in done.error

    foretold = applied(hosts, "nix", "--check", host=HOST, claude_sandbox_nix_installer=True)
    assert foretold.changed == 1
    assert "by the official installer" in foretold.output


def _offer_archive(hosts: Fleet) -> dict[str, Any]:
    """What makes the role take the archive."""
    machine = said(hosts, HOST, "uname", "-m")
    content = _archive(f"nix-9.9.9-{machine}-linux")
    said(hosts, HOST, "mkdir", "/srv/nix-9.9.9")
    write = ["dd", "status=none", f"of=/srv/nix-9.9.9/nix-9.9.9-{machine}-linux.tar.xz"]
    subprocess.run([*hosts.ssh_argv(HOST), *write], input=content, check=True, timeout=60)
    return {
        "claude_sandbox_nix_installer": True,
        "claude_sandbox_nix_version": "9.9.9",
        "claude_sandbox_nix_url": "file:///srv",
        "claude_sandbox_nix_checksums": {machine: f"sha256:{hashlib.sha256(content).hexdigest()}"},
    }


def _another_archive_than_the_one_meant_is_not_run(hosts: Fleet, settings: dict[str, Any]) -> None:
    checksums = dict.fromkeys(settings["claude_sandbox_nix_checksums"], f"sha256:{'0' * 64}")
    done = apply(hosts, "nix", host=HOST, **{**settings, "claude_sandbox_nix_checksums": checksums})

    assert done.failed
    assert "did not match" in done.error
    for path in ("/nix", "/srv/installed", "/var/tmp/claude-sandbox-nix"):
        assert hosts.ssh(HOST, "test", "-e", path).returncode == 1, path


def _the_installer_is_run_once(hosts: Fleet, settings: dict[str, Any]) -> None:
    assert applied(hosts, "nix", host=HOST, **settings).changed > 0
    assert applied(hosts, "nix", host=HOST, **settings).changed == 0
    assert said(hosts, HOST, "cat", "/srv/installed") == "--daemon --yes --no-channel-add"
    assert hosts.ssh(HOST, "test", "-e", "/var/tmp/claude-sandbox-nix").returncode == 1


def _a_nix_that_is_too_old_is_left_and_named(hosts: Fleet, settings: dict[str, Any]) -> None:
    program = "/nix/var/nix/profiles/default/bin/nix"
    said(hosts, HOST, "sed", "-i", "s/9.9.9/2.8.0/", program)
    done = apply(hosts, "nix", host=HOST, **settings)

    assert (done.failed, done.changed) == (True, 0)
    assert "This host has Nix 2.8.0, and 2.18 or newer is needed." in done.error
