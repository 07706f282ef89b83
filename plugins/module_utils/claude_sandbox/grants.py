# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The table of what gets in, and what of it a given sandbox gets on a given host.

Pure: what exists on the host is asked through a function that the caller gives.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

from . import claude
from .errors import SandboxError, shown
from .spec import Mount, Spec

READ_ONLY, READ_WRITE, DEVICE = "ro", "rw", "dev"


@dataclasses.dataclass(frozen=True)
class Bind:
    """A path of the host at a path in the sandbox. `checked` ones are compared, once mounted, with what was meant."""

    source: str
    target: str
    mode: str = READ_ONLY
    checked: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """A path of the host that a grant names: `~` and `$WORDS` stand for the owner's own (see Owner)."""

    path: str
    target: str = ""  # the same path, where not given
    mode: str = READ_ONLY


@dataclasses.dataclass(frozen=True)
class Grant:
    """One thing of the host that a sandbox gets.

    sources: what is mounted, each where it exists; a grant of which nothing exists is skipped.
    env: variables set inside, with the same words as a source.
    passes: the names (or beginnings, with a final *) of the owner's variables that go in as they are.
    in_guest: the variables where a virtual machine has one of its own, and needs none of the host's.
    """

    sources: tuple[Source, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    passes: tuple[str, ...] = ()
    words: str = ""  # what it means, for people
    in_guest: Mapping[str, str] | None = None
    needs: str = ""  # a path of the host, as of a source, without which the rest is of no use


TABLE: Mapping[str, Grant] = {
    "claude": Grant(
        (Source(f"~/.claude/{claude.CREDENTIALS}", mode=READ_WRITE),),
        words="has your login to Claude, your settings as a copy, and this project's transcripts",
    ),
    "git": Grant((Source("~/.gitconfig"), Source("~/.config/git")), words="reads your git settings"),
    "ssh": Grant((Source("~/.ssh"),), words="reads ~/.ssh, private keys included"),
    "gh": Grant((Source("~/.config/gh"),), words="reads the GitHub CLI's settings and token"),
    "display": Grant(
        (Source("$X_SOCKET"), Source("$X_COOKIE", "$INSIDE_RUNTIME/xauth")),
        env={"DISPLAY": "$DISPLAY", "XAUTHORITY": "$INSIDE_RUNTIME/xauth"},
        words="has a screen of its own",
        in_guest={"DISPLAY": ":0"},
    ),
    "x11": Grant(
        (Source("$HOST_X_SOCKET"), Source("$HOST_X_COOKIE", "$INSIDE_RUNTIME/xauth")),
        env={"DISPLAY": "$HOST_DISPLAY", "XAUTHORITY": "$INSIDE_RUNTIME/xauth"},
        words="has windows on your X display, where it can watch your other windows and type into them",
        needs="$HOST_X_SOCKET",
    ),
    "wayland": Grant(
        (Source("$HOST_WAYLAND", "$INSIDE_RUNTIME/wayland-0"),),
        env={"WAYLAND_DISPLAY": "wayland-0"},
        words="has windows on your Wayland desktop",
    ),
    "audio": Grant(
        (
            Source("$RUNTIME/pipewire-0", "$INSIDE_RUNTIME/pipewire-0"),
            Source("$RUNTIME/pulse/native", "$INSIDE_RUNTIME/pulse/native"),
        ),
        env={"PULSE_SERVER": "unix:$INSIDE_RUNTIME/pulse/native"},
        words="plays sound and may listen to your microphone",
    ),
    "gpu": Grant(
        (Source("/dev/dri", mode=DEVICE), Source("/sys/dev/char"), Source("/sys/devices")),
        words="uses the graphics card",
        needs="/dev/dri",
    ),
    "dbus": Grant(
        (Source("$RUNTIME/bus", "$INSIDE_RUNTIME/bus"),),
        env={"DBUS_SESSION_BUS_ADDRESS": "unix:path=$INSIDE_RUNTIME/bus"},
        words="talks to every program on your session bus, which can start programs outside the sandbox",
    ),
    "keyring": Grant(
        (Source("$RUNTIME/keyring", "$INSIDE_RUNTIME/keyring"),),
        env={"GNOME_KEYRING_CONTROL": "$INSIDE_RUNTIME/keyring"},
        words="talks to your keyring",
    ),
    "ssh_agent": Grant(
        (Source("$SSH_AUTH_SOCK", "$INSIDE_RUNTIME/ssh-agent"),),
        env={"SSH_AUTH_SOCK": "$INSIDE_RUNTIME/ssh-agent"},
        words="signs with the keys of your ssh-agent",
    ),
    "nix": Grant(
        (Source("/nix/var/nix/daemon-socket"),),
        env={"NIX_REMOTE": "daemon"},
        words="builds and fetches by the host's Nix daemon",
    ),
    "locale": Grant(passes=("LANG", "LANGUAGE", "LC_*", "TZ"), words="has your language and time zone"),
}


# What it means that a word has no meaning, where that is no variable's name.
_UNSET = {
    "$HOST_X_SOCKET": "$DISPLAY names no X display of this machine",
    "$HOST_WAYLAND": "$WAYLAND_DISPLAY is not set",
}


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whom the sandbox belongs to, as far as grants ask.

    runtime: the account's XDG_RUNTIME_DIR on the host; data, store: the sandbox's and the project's own folders.
    display: the number of the sandbox's X display, where it has one of the host's.
    host_cookie: the file with the cookie of the account's own X display.
    guest_has: the grants that its virtual machine has of its own, where it is one.
    """

    home: str
    uid: int
    runtime: str
    environ: Mapping[str, str]
    data: str
    store: str
    display: int | None = None
    x_cookie: str = ""
    host_cookie: str = ""
    guest_has: tuple[str, ...] = ()

    @property
    def inside_runtime(self) -> str:
        """XDG_RUNTIME_DIR inside the sandbox."""
        return f"/run/user/{self.uid}"

    def words(self) -> dict[str, str]:
        """What stands for what in the paths of the table; a word without a meaning is absent."""
        words = {
            "HOME": self.home,
            "RUNTIME": self.runtime,
            "INSIDE_RUNTIME": self.inside_runtime,
        }
        agent = self.environ.get("SSH_AUTH_SOCK", "")
        if agent.startswith("/"):
            words["SSH_AUTH_SOCK"] = agent
        number = x_display(self.environ)
        if number is not None:
            words["HOST_DISPLAY"] = f":{number}"
            words["HOST_X_SOCKET"] = f"/tmp/.X11-unix/X{number}"
            words["HOST_X_COOKIE"] = self.host_cookie
        wayland = self.environ.get("WAYLAND_DISPLAY", "")
        if wayland:
            words["HOST_WAYLAND"] = wayland if wayland.startswith("/") else f"{self.runtime}/{wayland}"
        if self.display is not None:
            words["DISPLAY"] = f":{self.display}"
            words["X_SOCKET"] = f"/tmp/.X11-unix/X{self.display}"
            words["X_COOKIE"] = self.x_cookie
        return words


def x_display(environ: Mapping[str, str]) -> int | None:
    """The number of the X display of this machine that $DISPLAY names; None where it names none, or another's."""
    match = re.fullmatch(r"(?:unix)?:([0-9]{1,5})(?:\.[0-9]+)?", environ.get("DISPLAY", ""))
    return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class Granted:
    """What a sandbox gets of the host, and what it asked for and does not get."""

    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    given: tuple[str, ...]
    skipped: Mapping[str, str]  # grant → why


Exists = Callable[[str], bool]


def resolve(spec: Spec, owner: Owner, exists: Exists) -> Granted:
    """Work the table out for one sandbox.

    Raises SandboxError where two things would be mounted on one target.
    """
    binds = list(_own(spec, owner))
    env: dict[str, str] = {}
    given, skipped = [], {}
    words = owner.words()
    for name, grant in TABLE.items():
        if not spec.granted(name):
            continue
        if name in owner.guest_has and grant.in_guest is not None:
            given.append(name)
            env |= grant.in_guest
            continue
        found, missing = _sources(grant, words, exists)
        needed, unmet = _sources(Grant((Source(grant.needs),)), words, exists) if grant.needs else ([], "")
        if unmet and not needed:
            found, missing = [], unmet
        passed = {key: value for key, value in owner.environ.items() if _passes(grant, key)}
        if not found and not passed:
            skipped[name] = missing or "nothing of it is set for this account"
            continue
        given.append(name)
        binds += found
        env |= {key: _filled(value, words) or "" for key, value in grant.env.items()} | passed
    binds += _claude(spec, owner, "claude" in given, exists)
    binds += [own_mount(mount) for mount in spec.mounts]
    _check_targets(binds)
    return Granted(tuple(binds), env, tuple(given), skipped)


def paths(name: str, owner: Owner) -> list[str]:
    """The paths of the host that a grant names for this owner, whether they are there or not."""
    words = owner.words()
    found = (_filled(source.path, words) for source in TABLE[name].sources)
    return [path for path in found if path is not None]


def _own(spec: Spec, owner: Owner) -> tuple[Bind, ...]:
    """What every sandbox has: its project, and what the project keeps from one sandbox to the next."""
    return (
        Bind(spec.project_dir, spec.project_dir, READ_WRITE, checked=True),
        Bind(f"{owner.store}/local", f"{owner.home}/.local", READ_WRITE),
        Bind(f"{owner.store}/cache", f"{owner.home}/.cache", READ_WRITE),
        Bind(f"{owner.store}/chromium", f"{owner.home}/.config/chromium", READ_WRITE),
        Bind(f"{owner.store}/tmp", "/tmp", READ_WRITE),
        Bind(f"{owner.store}/tmp", "/var/tmp", READ_WRITE),
    )


def own_mount(mount: Mount) -> Bind:
    """What the user adds."""
    return Bind(mount.source, mount.target, mount.mode, checked=True)


def stored_folders() -> tuple[str, ...]:
    """The folders of a project's store."""
    return ("local", "cache", "chromium", "tmp", "claude")


def _claude(spec: Spec, owner: Owner, shared: bool, exists: Exists) -> list[Bind]:
    """Claude Code's own folder: one that the project keeps, with what of the account's is shared in it."""
    folder = f"{owner.home}/.claude"
    binds = [
        Bind(f"{owner.store}/claude", folder, READ_WRITE),
        # Its session files are named by a pid inside, which every sandbox has.
        Bind(f"{owner.data}/{claude.SESSIONS}", f"{folder}/{claude.SESSIONS}", READ_WRITE),
    ]
    if shared:
        obeyed = (f"{folder}/{name}" for name in claude.OBEYED_FOLDERS)
        binds += [Bind(path, path) for path in obeyed if exists(path)]
        transcripts = f"{folder}/{claude.PROJECTS}/{claude.encoded(spec.project_dir)}"
        binds.append(Bind(transcripts, transcripts, READ_WRITE))
    return binds


def _sources(grant: Grant, words: Mapping[str, str], exists: Exists) -> tuple[list[Bind], str]:
    found, missing = [], []
    for source in grant.sources:
        path = _filled(source.path, words)
        if path is None:
            word = source.path.split("/")[0]
            missing.append(_UNSET.get(word, f"{word} is not set"))
        elif exists(path):
            found.append(Bind(path, _filled(source.target or source.path, words) or path, source.mode))
        else:
            missing.append(f"{path} does not exist or cannot be read")
    return found, "; ".join(missing)


def _filled(text: str, words: Mapping[str, str]) -> str | None:
    """The text with its words replaced, or None where one has no meaning here."""
    if text == "~" or text.startswith("~/"):
        text = f"$HOME{text[1:]}"
    names = re.findall(r"\$([A-Z_]+)", text)
    if any(name not in words for name in names):
        return None
    return re.sub(r"\$([A-Z_]+)", lambda match: words[match[1]], text)


def _passes(grant: Grant, variable: str) -> bool:
    return any(variable.startswith(name[:-1]) if name.endswith("*") else variable == name for name in grant.passes)


def _check_targets(binds: list[Bind]) -> None:
    seen: dict[str, Bind] = {}
    for bind in binds:
        other = seen.setdefault(bind.target, bind)
        if other is not bind:
            raise SandboxError(
                f"{shown(other.source)} and {shown(bind.source)} would both stand on {shown(bind.target)}.",
                "Give the mount another target, or take the grant away.",
            )
