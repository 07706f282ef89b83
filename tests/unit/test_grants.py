"""What gets in: each grant as data, for one sandbox of one account."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import grants, spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.grants import Bind

HOME = "/home/ann"
RUNTIME = "/run/user/1000"
DATA = "/state/sandboxes/demo/data"
STORE = "/state/projects/key"
PROJECT = "/srv/demo"
OWNER = grants.Owner(
    home=HOME,
    uid=1000,
    # On the host it may be anywhere; inside it is where programs expect it.
    runtime="/run/elsewhere",
    environ={
        "SSH_AUTH_SOCK": "/tmp/agent.1",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "UTC",
        "LCX": "no",
        "LANGUAGES": "no",
        "ANTHROPIC_API_KEY": "secret",
        "PATH": "/evil",
        "DISPLAY": ":3.1",
        "WAYLAND_DISPLAY": "wayland-5",
    },
    data=DATA,
    store=STORE,
    display=7,
    x_cookie="/run/x/xauth",
    host_cookie="/run/x/xauth-host",
)
NONE = dict.fromkeys(spec.GRANT_DEFAULTS, False)


def asked(*names: str, **more: Any) -> spec.Spec:
    """A spec with these grants and no other."""
    return spec.parse({"project_dir": PROJECT, "grants": {**NONE, **dict.fromkeys(names, True)}, **more})


def everything(_: str) -> bool:
    return True


def nothing(_: str) -> bool:
    return False


# What every sandbox has, whatever it is granted.
OWN = (
    Bind(PROJECT, PROJECT, "rw", checked=True),
    Bind(f"{STORE}/local", f"{HOME}/.local", "rw"),
    Bind(f"{STORE}/cache", f"{HOME}/.cache", "rw"),
    Bind(f"{STORE}/chromium", f"{HOME}/.config/chromium", "rw"),
    Bind(f"{STORE}/tmp", "/tmp", "rw"),
    Bind(f"{STORE}/tmp", "/var/tmp", "rw"),
    Bind(f"{STORE}/claude", f"{HOME}/.claude", "rw"),
    Bind(f"{DATA}/sessions", f"{HOME}/.claude/sessions", "rw"),
)
OBEYED = "agents commands hooks output-styles plugins rules skills".split()
CREDENTIALS = f"{HOME}/.claude/.credentials.json"
TRANSCRIPTS = f"{HOME}/.claude/projects/-srv-demo"


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a grant adds."""

    binds: tuple[Bind, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)


GRANTED = {
    "claude": Expected(
        (
            Bind(CREDENTIALS, CREDENTIALS, "rw"),
            *(Bind(f"{HOME}/.claude/{name}", f"{HOME}/.claude/{name}", "ro") for name in OBEYED),
            Bind(TRANSCRIPTS, TRANSCRIPTS, "rw"),
        ),
    ),
    "git": Expected(
        (Bind(f"{HOME}/.gitconfig", f"{HOME}/.gitconfig"), Bind(f"{HOME}/.config/git", f"{HOME}/.config/git"))
    ),
    "ssh": Expected((Bind(f"{HOME}/.ssh", f"{HOME}/.ssh"),)),
    "gh": Expected((Bind(f"{HOME}/.config/gh", f"{HOME}/.config/gh"),)),
    "display": Expected(
        (Bind("/tmp/.X11-unix/X7", "/tmp/.X11-unix/X7"), Bind("/run/x/xauth", f"{RUNTIME}/xauth")),
        {"DISPLAY": ":7", "XAUTHORITY": f"{RUNTIME}/xauth"},
    ),
    "x11": Expected(
        (Bind("/tmp/.X11-unix/X3", "/tmp/.X11-unix/X3"), Bind("/run/x/xauth-host", f"{RUNTIME}/xauth")),
        {"DISPLAY": ":3", "XAUTHORITY": f"{RUNTIME}/xauth"},
    ),
    "wayland": Expected((Bind("/run/elsewhere/wayland-5", f"{RUNTIME}/wayland-0"),), {"WAYLAND_DISPLAY": "wayland-0"}),
    "audio": Expected(
        (
            Bind("/run/elsewhere/pipewire-0", f"{RUNTIME}/pipewire-0"),
            Bind("/run/elsewhere/pulse/native", f"{RUNTIME}/pulse/native"),
        ),
        {"PULSE_SERVER": f"unix:{RUNTIME}/pulse/native"},
    ),
    "gpu": Expected(
        (
            Bind("/dev/dri", "/dev/dri", "dev"),
            Bind("/sys/dev/char", "/sys/dev/char"),
            Bind("/sys/devices", "/sys/devices"),
        )
    ),
    "dbus": Expected(
        (Bind("/run/elsewhere/bus", f"{RUNTIME}/bus"),),
        {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={RUNTIME}/bus"},
    ),
    "keyring": Expected(
        (Bind("/run/elsewhere/keyring", f"{RUNTIME}/keyring"),), {"GNOME_KEYRING_CONTROL": f"{RUNTIME}/keyring"}
    ),
    "ssh_agent": Expected((Bind("/tmp/agent.1", f"{RUNTIME}/ssh-agent"),), {"SSH_AUTH_SOCK": f"{RUNTIME}/ssh-agent"}),
    "nix": Expected(
        (Bind("/nix/var/nix/daemon-socket", "/nix/var/nix/daemon-socket"),),
        {"NIX_REMOTE": "daemon"},
    ),
    "locale": Expected(env={"LANG": "de_DE.UTF-8", "LC_TIME": "C", "TZ": "UTC"}),
}


def test_every_grant_is_in_the_table_and_explained() -> None:
    assert list(grants.TABLE) == list(spec.GRANT_DEFAULTS) == list(GRANTED)
    assert all(grant.words for grant in grants.TABLE.values())


@pytest.mark.parametrize("name", GRANTED)
def test_one_grant(name: str) -> None:
    """It brings its own mounts and variables, and nothing else of the account's."""
    found = grants.resolve(asked(name), OWNER, everything)
    assert sorted(found.binds, key=str) == sorted((*OWN, *GRANTED[name].binds), key=str)
    assert found.env == GRANTED[name].env
    assert found.given == (name,)
    assert found.skipped == {}


@pytest.mark.parametrize("screen, other", [("display", "x11"), ("x11", "display")])
def test_all_grants_together(screen: str, other: str) -> None:
    """All that can be: of the two X displays it is one."""
    names = [name for name in GRANTED if name != other]
    found = grants.resolve(asked(*names), OWNER, everything)
    expected = [*OWN, *(bind for name in names for bind in GRANTED[name].binds)]
    assert sorted(found.binds, key=str) == sorted(expected, key=str)
    assert found.given == tuple(names)
    assert found.env["DISPLAY"] == GRANTED[screen].env["DISPLAY"]
    assert "secret" not in found.env.values()


def test_no_grant_leaves_the_project_and_what_it_keeps() -> None:
    found = grants.resolve(asked(), OWNER, everything)
    assert set(found.binds) == set(OWN)
    assert found == grants.Granted(found.binds, {}, (), {})


def test_the_stored_folders_are_those_that_are_mounted() -> None:
    mounted = {bind.source.removeprefix(f"{STORE}/") for bind in OWN if bind.source.startswith(STORE)}
    assert set(grants.stored_folders()) == mounted


def test_nothing_of_the_accounts_claude_folder_can_be_written_but_the_login_and_the_projects_transcripts() -> None:
    """What Claude Code obeys would be carried out by the next session outside."""
    binds = grants.resolve(asked(*(name for name in GRANTED if name != "x11")), OWNER, everything).binds
    of_the_account = {bind.source: bind.mode for bind in binds if bind.source.startswith(f"{HOME}/.claude")}
    writable = {source for source, mode in of_the_account.items() if mode != "ro"}
    assert writable == {CREDENTIALS, TRANSCRIPTS}
    assert set(of_the_account) - writable == {f"{HOME}/.claude/{name}" for name in OBEYED}


def test_what_of_claude_is_not_there_is_left_out() -> None:
    """Inside, such a folder can be made in the project's own; outside, none appears."""
    there = {CREDENTIALS, f"{HOME}/.claude/skills"}
    found = grants.resolve(asked("claude"), OWNER, there.__contains__)
    assert [bind.target for bind in found.binds if bind.mode == "ro"] == [f"{HOME}/.claude/skills"]


@pytest.mark.parametrize(
    "name, owner, why",
    [
        pytest.param("ssh", OWNER, f"{HOME}/.ssh does not exist or cannot be read", id="path"),
        pytest.param("claude", OWNER, f"{CREDENTIALS} does not exist or cannot be read", id="claude"),
        pytest.param(
            "git",
            OWNER,
            f"{HOME}/.gitconfig does not exist or cannot be read; {HOME}/.config/git does not exist or cannot be read",
            id="two-paths",
        ),
        pytest.param(
            "ssh_agent", dataclasses.replace(OWNER, environ={}), "$SSH_AUTH_SOCK is not set", id="variable-not-set"
        ),
        pytest.param(
            "ssh_agent",
            dataclasses.replace(OWNER, environ={"SSH_AUTH_SOCK": "agent"}),
            "$SSH_AUTH_SOCK is not set",
            id="variable-is-no-path",
        ),
        pytest.param("ssh_agent", OWNER, "/tmp/agent.1 does not exist or cannot be read", id="variable-leads-nowhere"),
        pytest.param(
            "locale", dataclasses.replace(OWNER, environ={}), "nothing of it is set for this account", id="variables"
        ),
        pytest.param(
            "display",
            dataclasses.replace(OWNER, display=None),
            "$X_SOCKET is not set; $X_COOKIE is not set",
            id="no-display",
        ),
        pytest.param(
            "x11",
            dataclasses.replace(OWNER, environ={"DISPLAY": "other-host:0"}),
            "$DISPLAY names no X display of this machine",
            id="display-of-another-host",
        ),
        pytest.param("wayland", dataclasses.replace(OWNER, environ={}), "$WAYLAND_DISPLAY is not set", id="no-wayland"),
        pytest.param("gpu", OWNER, "/dev/dri does not exist or cannot be read", id="no-graphics-card"),
    ],
)
def test_skipped(name: str, owner: grants.Owner, why: str) -> None:
    """What is not there is left out as a whole, its variables too, and the reason is told."""
    found = grants.resolve(asked(name), owner, nothing)
    assert found.skipped == {name: why}
    assert found.given == ()
    assert found.env == {}
    assert set(found.binds) == set(OWN)


def test_a_grant_of_which_a_part_exists_is_given_that_part() -> None:
    found = grants.resolve(asked("git"), OWNER, lambda path: path.endswith(".gitconfig"))
    assert found.given == ("git",)
    assert found.skipped == {}
    assert [bind.target for bind in found.binds if bind.mode == "ro"] == [f"{HOME}/.gitconfig"]


def test_a_home_with_words_in_it_is_taken_as_it_is() -> None:
    owner = dataclasses.replace(OWNER, home=r"/home/$RUNTIME\1")
    binds = grants.resolve(asked("ssh"), owner, everything).binds
    assert Bind(r"/home/$RUNTIME\1/.ssh", r"/home/$RUNTIME\1/.ssh") in binds


def test_mounts_are_checked_and_as_asked() -> None:
    mounts = [{"source": "/data", "target": "/mnt", "mode": "rw"}, {"source": "/ro"}]
    binds = grants.resolve(asked(mounts=mounts), OWNER, nothing).binds
    assert set(binds) - set(OWN) == {Bind("/data", "/mnt", "rw", True), Bind("/ro", "/ro", "ro", True)}


@pytest.mark.parametrize(
    "names, params, target",
    [
        pytest.param((), {"mounts": [{"source": "/a", "target": "/tmp"}]}, "/tmp", id="mount-on-tmp"),
        pytest.param(
            (), {"mounts": [{"source": "/a", "target": f"{HOME}/.local"}]}, f"{HOME}/.local", id="mount-on-stored"
        ),
        pytest.param(
            ("ssh",), {"mounts": [{"source": "/a", "target": f"{HOME}/.ssh"}]}, f"{HOME}/.ssh", id="mount-on-grant"
        ),
        pytest.param(
            (), {"mounts": [{"source": "/a", "target": f"{HOME}/.claude"}]}, f"{HOME}/.claude", id="mount-on-claude"
        ),
        pytest.param(
            ("claude",),
            {"mounts": [{"source": "/a", "target": f"{HOME}/.claude/hooks", "mode": "rw"}]},
            f"{HOME}/.claude/hooks",
            id="mount-over-what-is-obeyed",
        ),
        pytest.param((), {"project_dir": "/tmp"}, "/tmp", id="project-is-tmp"),
        pytest.param(("claude",), {"project_dir": f"{HOME}/.claude"}, f"{HOME}/.claude", id="project-is-claude"),
        pytest.param(
            ("claude",), {"project_dir": f"{HOME}/.claude/skills"}, f"{HOME}/.claude/skills", id="project-is-obeyed"
        ),
    ],
)
def test_two_things_on_one_target_are_refused(names: tuple[str, ...], params: dict[str, Any], target: str) -> None:
    with pytest.raises(SandboxError) as caught:
        grants.resolve(asked(*names, **params), OWNER, everything)
    assert f"would both stand on '{target}'" in caught.value.what
    assert "another target" in caught.value.hint


def test_a_mount_on_a_grant_that_is_not_given_is_no_clash() -> None:
    mounts = [{"source": "/a", "target": f"{HOME}/.ssh"}]
    binds = grants.resolve(asked("ssh", mounts=mounts), OWNER, nothing).binds
    assert Bind("/a", f"{HOME}/.ssh", "ro", True) in binds


@pytest.mark.parametrize("user, given", [("ann", {"claude", "git", "ssh", "gh", "display"}), ("root", {"display"})])
def test_given_unasked(user: str, given: set[str]) -> None:
    """Root's home holds what no one else may read: nothing of it goes in unasked."""
    params = {"project_dir": PROJECT, "user": user}
    found = grants.resolve(spec.parse(params), OWNER, everything)
    assert set(found.given) == given
    if user == "root":
        assert not any(bind.source.startswith(HOME) for bind in found.binds)


@pytest.mark.parametrize(
    "display, number",
    [
        (":0", 0),
        (":12.3", 12),
        ("unix:4", 4),
        ("localhost:10.0", None),
        ("host:1", None),
        ("", None),
        (":", None),
        (":-1", None),
        (":0;x", None),
        (":0/../../etc", None),
        ("/tmp/launch/x:0", None),
    ],
)
def test_the_display_of_this_machine(display: str, number: int | None) -> None:
    """Its number is a part of a path that is mounted: it is a number, or none."""
    assert grants.x_display({"DISPLAY": display}) == number


@pytest.mark.parametrize(
    "named, path", [("wayland-1", "/run/elsewhere/wayland-1"), ("/srv/compositor", "/srv/compositor")]
)
def test_the_wayland_socket_by_its_name_or_path(named: str, path: str) -> None:
    owner = dataclasses.replace(OWNER, environ={"WAYLAND_DISPLAY": named})
    assert Bind(path, f"{RUNTIME}/wayland-0") in grants.resolve(asked("wayland"), owner, everything).binds


def test_a_grant_that_needs_what_is_not_there_is_skipped_as_a_whole() -> None:
    found = grants.resolve(asked("gpu"), OWNER, lambda path: path != "/dev/dri")
    assert found.skipped == {"gpu": "/dev/dri does not exist or cannot be read"}
    assert set(found.binds) == set(OWN)


def test_a_cookie_without_its_display_is_none() -> None:
    found = grants.resolve(asked("x11"), OWNER, lambda path: path == OWNER.host_cookie)
    assert found.skipped == {"x11": "/tmp/.X11-unix/X3 does not exist or cannot be read"}
    assert found.env == {}


def test_the_paths_that_a_grant_names() -> None:
    assert grants.paths("git", OWNER) == [f"{HOME}/.gitconfig", f"{HOME}/.config/git"]
    assert grants.paths("x11", dataclasses.replace(OWNER, environ={})) == []
    assert grants.paths("locale", OWNER) == []
