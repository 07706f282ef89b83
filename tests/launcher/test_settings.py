"""What the launcher asks for: defaults, the user's file, the project's file, the command line."""

# Where the plugins are checked, the engine has another name, and this one is not known.
# mypy: disable-error-code="import-not-found,no-any-return,no-untyped-call"

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from claude_launcher import arguments, settings
from claude_sandbox import spec
from claude_sandbox.errors import SandboxError

MORE_THAN_FITS = "#" * 70000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The user's file, which is not there yet."""
    path = tmp_path / "config/claude-sandbox/config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    return path


def asked(config: Path, project: Path, *words: str, **environ: str) -> dict[str, Any]:
    """What is asked for by these words of the command line."""
    given = arguments.launching().parse_args(words)
    return settings.merged(
        {"XDG_CONFIG_HOME": str(config.parent.parent), **environ},
        str(project),
        given.backend,
        given.no_network,
        given.grant,
        given.no_grant,
        given.mount,
    )


def granted(params: dict[str, Any]) -> set[str]:
    found = spec.parse(params)
    return {name for name in spec.GRANT_DEFAULTS if found.granted(name)}


ACCOUNTS = {"claude", "git", "ssh", "gh"}
DESKTOP = {"audio", "gpu", "ssh_agent", "nix", "locale"}


@pytest.mark.parametrize(
    "environ, screens",
    [
        ({}, {"display"}),
        ({"DISPLAY": ":0"}, {"x11"}),
        ({"WAYLAND_DISPLAY": "wayland-0"}, {"wayland"}),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, {"wayland"}),
    ],
)
def test_by_default_it_is_for_this_desktop(
    config: Path, project: Path, environ: dict[str, str], screens: set[str]
) -> None:
    """By the session bus programs are started outside, and the keyring has all secrets: never unasked."""
    assert granted(asked(config, project, **environ)) == ACCOUNTS | DESKTOP | screens


@pytest.mark.parametrize("backend", ["container", "vm"])
def test_what_only_bubblewrap_takes_is_not_asked_of_others(config: Path, project: Path, backend: str) -> None:
    params = asked(config, project, "--backend", backend, DISPLAY=":0")
    assert granted(params) == ACCOUNTS | {"display", "locale"}


@pytest.mark.parametrize(
    "words, more, fewer",
    [
        (("--grant", "dbus", "--grant", "keyring"), {"dbus", "keyring"}, set()),
        (("--no-grant", "ssh", "--no-grant", "gpu"), set(), {"ssh", "gpu"}),
        (("--grant", "display"), {"display"}, {"x11"}),
        (("--no-network",), set(), {"nix"}),
    ],
)
def test_the_command_line(config: Path, project: Path, words: tuple[str, ...], more: set[str], fewer: set[str]) -> None:
    assert granted(asked(config, project, *words, DISPLAY=":0")) == (ACCOUNTS | DESKTOP | {"x11"} | more) - fewer


def test_the_later_one_counts(config: Path, project: Path) -> None:
    config.write_text('network = false\nbackend = "vm"\n[grants]\nssh = false\ngh = false\n')
    params = asked(config, project, "--grant", "ssh")
    assert (params["network"], params["backend"]) == (False, "vm")
    assert params["grants"]["ssh"] is True
    assert params["grants"]["gh"] is False
    assert asked(config, project, "--backend", "bubblewrap")["backend"] == "bubblewrap"


def test_mounts_of_the_file_and_of_the_command_line(config: Path, project: Path, tmp_path: Path) -> None:
    config.write_text('[[mounts]]\nsource = "/usr/share"\ntarget = "/own"\n')
    (tmp_path / "data").mkdir()
    params = asked(config, project, "--mount", f"{tmp_path}/data:/d:rw", "--mount", f"{tmp_path}/data")
    assert params["mounts"] == [
        {"source": "/usr/share", "target": "/own"},
        {"source": f"{tmp_path}/data", "target": "/d", "mode": "rw"},
        {"source": f"{tmp_path}/data", "target": f"{tmp_path}/data", "mode": "ro"},
    ]


@pytest.mark.parametrize("text", ["/usr:", ":/usr", "/usr:/a:/b", "/usr:/a:rw:ro", "", "/usr:/a:x", "rw:"])
def test_no_mount(config: Path, project: Path, text: str) -> None:
    with pytest.raises(SandboxError, match=r"is not SRC\[:DST\]\[:rw\]"):
        asked(config, project, "--mount", text)


# The file of a package that brings its programs.


def package(tmp_path: Path, **content: Any) -> dict[str, str]:
    """The variable that a package's wrapper sets."""
    path = tmp_path / "defaults.json"
    path.write_text(json.dumps(content))
    return {"CLAUDE_SANDBOX_DEFAULTS": str(path)}


def test_a_package_brings_its_programs(config: Path, project: Path, tmp_path: Path) -> None:
    environ = package(tmp_path, toolchain="nix", nix_toolchain="/nix/store/a-tools")
    params = asked(config, project, **environ)
    assert (params["toolchain"], params["nix_toolchain"], params["network"]) == ("nix", "/nix/store/a-tools", True)


@pytest.mark.parametrize("text", ['toolchain = "host"', 'rootfs = "/srv/tree"', 'nix_toolchain = "/nix/store/b"'])
def test_whoever_chooses_programs_does_without_the_packages(
    config: Path, project: Path, tmp_path: Path, text: str
) -> None:
    config.write_text(f"{text}\n")
    environ = package(tmp_path, toolchain="nix", nix_toolchain="/nix/store/a-tools", network=False)
    params = asked(config, project, **environ)
    assert "/nix/store/a-tools" not in params.values()
    assert params["network"] is False
    spec.parse(params)


def test_a_package_without_network_gets_none(config: Path, project: Path, tmp_path: Path) -> None:
    config.write_text("network = true\n")
    params = asked(config, project, **package(tmp_path, network=False))
    assert params["network"] is False
    assert "nix" not in granted(params)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"mounts": []}', b"{" * 99_999])
def test_a_package_that_says_something_else(config: Path, project: Path, tmp_path: Path, content: bytes | None) -> None:
    environ = package(tmp_path)
    if content is not None:
        (tmp_path / "defaults.json").write_bytes(content)
    else:
        (tmp_path / "defaults.json").unlink()
    with pytest.raises(SandboxError, match="CLAUDE_SANDBOX_DEFAULTS names"):
        asked(config, project, **environ)


# The project's file, which the agent can write.


def test_a_project_takes_away(config: Path, project: Path) -> None:
    (project / ".claude-sandbox.toml").write_text("network = false\n[grants]\nssh = false\nclaude = false\n")
    params = asked(config, project)
    assert params["network"] is False
    assert granted(params) == (ACCOUNTS | DESKTOP | {"display"}) - {"ssh", "claude", "nix"}


def test_what_a_project_takes_away_nobody_gives(config: Path, project: Path) -> None:
    """Its file says what it can do without: the command line does not say otherwise unnoticed."""
    config.write_text("network = true\n[grants]\nssh = true\n")
    (project / ".claude-sandbox.toml").write_text("network = false\ngrants.ssh = false\n")
    params = asked(config, project, "--grant", "ssh")
    assert (params["network"], params["grants"]["ssh"]) == (False, False)


GIVING = [
    "network = true",
    "grants.ssh = true",
    "grants.dbus = true\ngrants.ssh = false",
    "grants.ssh = 1",
    "grants = true",
    'grants = ["ssh"]',
    '[[mounts]]\nsource = "/"',
    'backend = "bubblewrap"',
    "agent_args = ['--dangerously-skip-permissions']",
    'env.LD_PRELOAD = "/x"',
    'rootfs = "/srv/evil"',
    'toolchain = "nix"',
    'project_dir = "/home"',
    'user = "root"',
    "anything = 1",
    'grants.ssh = "false"',
    "network = 'no'",
    "grants.ssh.x = false",
]


@pytest.mark.parametrize("text", GIVING)
def test_a_project_gives_nothing(config: Path, project: Path, text: str) -> None:
    (project / ".claude-sandbox.toml").write_text(text)
    with pytest.raises(SandboxError, match="can only take away"):
        asked(config, project)


def test_a_grant_that_is_none(config: Path, project: Path) -> None:
    (project / ".claude-sandbox.toml").write_text("grants.everything = false")
    with pytest.raises(SandboxError, match="There is no grant 'everything'"):
        granted(asked(config, project))


HOSTILE = {
    "no-toml": b"[[[",
    "no-text": b"\xff\xfe\0",
    "nul": b"network = false\0",
    "huge": MORE_THAN_FITS.encode(),
    "deep": b"network = " + b"[" * 60000,
    "deep-tables": b"network = " + b"{a=" * 20000,
    "deep-keys": b".".join([b"a"] * 30000) + b" = 1",
    "long-number": b"network = " + b"9" * 60000,
    "twice": b"network = false\nnetwork = false",
    "escape": b'"\\u001b[2J\\n" = 1',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file(config: Path, project: Path, content: bytes) -> None:
    """Each is one clear error, without what a terminal would obey."""
    (project / ".claude-sandbox.toml").write_bytes(content)
    with pytest.raises(SandboxError) as caught:
        asked(config, project)
    assert str(caught.value).isprintable() or str(caught.value).count("\n") == 1
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    assert len(str(caught.value)) < 500


def test_what_is_no_plain_file(config: Path, project: Path, tmp_path: Path) -> None:
    """None makes us wait, and no link leads to what the account may read, and the agent may not."""
    path, elsewhere = project / ".claude-sandbox.toml", tmp_path / "elsewhere"
    elsewhere.write_text("network = false")
    makers = (
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to(elsewhere),
        lambda: path.symlink_to("/nowhere"),
        lambda: path.symlink_to("/dev/zero"),
    )
    for make in makers:
        make()
        with pytest.raises(SandboxError, match="is no plain file"):
            asked(config, project)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert asked(config, project)["network"] is True


# The user's own file.


def test_the_users_file_may_be_a_link(config: Path, project: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").write_text("network = false")
    config.symlink_to(tmp_path / "dotfiles")
    assert asked(config, project)["network"] is False


@pytest.mark.parametrize(
    "text, said",
    [
        ("netwrok = false", "has 'netwrok' in it"),
        ("grants = 1", "grants in your config.toml is no table"),
        ("mounts = 1", "mounts in your config.toml is no list"),
        ('network = "no"', "network"),
        ("network = ", "cannot be read as TOML"),
        ("agent_args = [1]", "agent_args"),
        ("backend = 3", "backend"),
        ("env = 3", "env"),
        ("[grants]\nssh = 3", "grants.ssh must be true or false"),
        ("project_dir = '/x'", "has 'project_dir' in it"),
    ],
)
def test_a_mistake_in_the_users_file(config: Path, project: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(SandboxError) as caught:
        spec.parse(asked(config, project))
    assert said in str(caught.value)


def test_a_config_home_that_is_no_path_is_none(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/claude-sandbox").mkdir(parents=True)
    (tmp_path / ".config/claude-sandbox/config.toml").write_text("network = false")
    assert settings.of_user({"XDG_CONFIG_HOME": "relative"}) == {"network": False}
    assert settings.of_user({}) == {"network": False}


@pytest.mark.parametrize(
    "words, ours, theirs",
    [
        ([], [], []),
        (["a", "--", "b", "--", "c"], ["a"], ["b", "--", "c"]),
        (["--"], [], []),
        (["--", "--shell"], [], ["--shell"]),
    ],
)
def test_what_is_for_us_and_what_for_the_agent(words: list[str], ours: list[str], theirs: list[str]) -> None:
    assert arguments.parted(words) == (ours, theirs)
