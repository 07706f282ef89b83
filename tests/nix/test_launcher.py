"""The launcher that Nix has built, on a machine that has /nix/store, a /bin/sh, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from tests.nix.flake import Flake

_PERSON = 1000
_SECONDS = 60
_ACCOUNTS = "root:x:0:0::/root:/bin/sh\nperson:x:1000:1000::/home/person:/bin/sh\n"


@dataclasses.dataclass(frozen=True)
class Bare:
    """A machine without a userland, on which somebody has a home with a project."""

    store: Path
    home: Path

    @property
    def project(self) -> Path:
        """Where it is on this machine; on that one it is /home/person/project."""
        return self.home / "person/project"

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program there, with nothing in PATH."""
        enter = ["setpriv", "--reuid", str(_PERSON), "--regid", str(_PERSON), "--clear-groups", "bwrap"]
        enter += ["--die-with-parent", "--unshare-pid", "--tmpfs", "/", "--dev", "/dev", "--proc", "/proc"]
        enter += ["--tmpfs", "/tmp", "--ro-bind", str(self.store), "/nix", "--bind", str(self.home), "/home"]
        shell = next(self.store.glob("store/*-userland-1")).name
        enter += ["--symlink", f"/nix/store/{shell}/bin/sh", "/bin/sh"]
        enter += ["--ro-bind", str(self.home.parent / "etc"), "/etc", "--clearenv", "--setenv", "HOME", "/home/person"]
        enter += ["--setenv", "XDG_STATE_HOME", "/home/person/.local/state", "--setenv", "PATH", "/none", "--"]
        return subprocess.run(
            [*enter, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def shell(self, launcher: Path, script: str) -> str:
        """What a script prints inside a sandbox, where it has to succeed."""
        argv = (launcher / "bin/claude-sandbox", "--no-grant", "display", "--shell", "/home/person/project")
        done = self.run(*argv, "--", "-c", script)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout.strip()


@pytest.fixture
def bare(flake: Flake, tmp_path: Path) -> Bare:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    made = Bare(flake.nix.root, tmp_path / "home")
    made.project.mkdir(parents=True)
    (made.home / "other").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(_ACCOUNTS)
    (tmp_path / "etc/group").write_text("root:x:0:\nperson:x:1000:\n")
    for path in (made.home, made.home / "person", made.project):
        os.chown(path, _PERSON, _PERSON)
    return made


def test_version(bare: Bare, launcher: Path) -> None:
    done = bare.run(launcher / "bin/claude-sandbox", "--version")
    assert (done.stdout, done.stderr) == ("claude-sandbox 0.1.0\n", "")


def test_claude_code_of_the_flake(bare: Bare, launcher: Path) -> None:
    argv = (launcher / "bin/claude-sandbox", "--no-grant", "display", "/home/person/project", "--", "-p", "hello")
    done = bare.run(*argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("claude 1 "), done.stdout
    assert done.stdout.endswith("-p hello\n"), done.stdout


def test_inside(bare: Bare, launcher: Path) -> None:
    assert bare.shell(launcher, "echo $PATH; pwd; id -u").splitlines()[1:] == [
        "/home/person/project",
        str(_PERSON),
    ]
    path = bare.shell(launcher, "echo $PATH").split(":")
    assert [entry for entry in path if entry.startswith("/nix/store/")], path
    assert not {"/usr/bin", "/bin"} & set(path)
    programs = bare.shell(launcher, "command -v claude git rg 2>&1; command -v bash env")
    assert all(line.startswith("/nix/store/") for line in programs.splitlines()), programs

    bare.shell(launcher, "echo made >made")
    assert (bare.project / "made").read_text() == "made\n"
    refused = bare.shell(launcher, "touch /nix/store/made 2>&1 || echo refused")
    assert "Read-only file system" in refused
    assert refused.endswith("refused")
    assert bare.shell(launcher, "ls /home; ls -A /home/person | grep -v '^[.]'").split() == ["person", "project"]


def test_places_that_programs_know(bare: Bare, launcher: Path) -> None:
    (bare.project / "script").write_text("#!/bin/sh\necho shell\n")
    (bare.project / "other").write_text("#!/usr/bin/env bash\necho env\n")
    for name in ("script", "other"):
        (bare.project / name).chmod(0o755)
    assert bare.shell(launcher, "./script; ./other").split() == ["shell", "env"]
    found = bare.shell(launcher, "ls /etc/ssl/certs /etc/chromium/policies/managed; ls -d /etc/fonts /etc/passwd")
    for name in ("ca-certificates.crt", "claude-sandbox.json", "/etc/fonts", "/etc/passwd"):
        assert name in found.split()
    assert bare.shell(launcher, "echo $SSL_CERT_FILE") == "/etc/ssl/certs/ca-bundle.crt"


def test_network(flake: Flake, bare: Bare, launcher: Path) -> None:
    look = "ls /proc/self/ns/net >/dev/null; readlink /proc/self/ns/net"
    ours = os.readlink("/proc/self/ns/net")
    assert bare.shell(launcher, look) == ours

    without = flake.build("no-network")
    assert bare.shell(without, look) != ours
    # The user's own settings do not give it back.
    (bare.home / "person/.config/claude-sandbox").mkdir(parents=True)
    (bare.home / "person/.config/claude-sandbox/config.toml").write_text("network = true\n")
    assert bare.shell(without, look) != ours
