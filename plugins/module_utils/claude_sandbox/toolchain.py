# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the programs inside come from: the host's own /usr, another tree of that kind, or Nix."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping

from . import closure, files
from .errors import SandboxError, shown
from .grants import Bind
from .host import Account, missing_program
from .spec import ROOTFS, Spec

NIX_PROFILE = "/nix/var/nix/profiles/claude-sandbox"
NIXOS_TOOLCHAINS = "/etc/claude-sandbox/toolchains"  # where the NixOS module puts one for each backend
_NIX_STORE = closure.STORE
_DESCRIPTION = "share/claude-sandbox/toolchain.json"  # of what the flake makes
_PROGRAMS = "/opt/claude-sandbox/bin"
_MOST_LINKS = 400  # and parts of a path
# What is the host's own, whatever tree the programs are from.
_OF_HOST = ("hosts", "localtime", "resolv.conf", "timezone")
_USR_PATH = ("/usr/local/bin", "/usr/bin")
# Of /etc only what programs need to run: nothing that names accounts, keys or services of the host.
_ETC = (
    "alternatives",
    "chromium",
    "chromium.d",
    "claude-code",
    "fonts",
    "hosts",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "os-release",
    "pki/tls/certs",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)
_ETC_BEGINNINGS = ("java-",)  # where Debian's OpenJDK packages keep what they cannot run without


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """The programs inside: read-only mounts, links, PATH, and the shell.

    root: what paths inside begin with on the host, where that is another tree than the host's own.
    env: variables that the programs need, before which whatever else is set goes.
    guest: a folder with the kernel and the initial file system for virtual machines, where it brings one.
    """

    kind: str
    binds: tuple[Bind, ...]
    links: tuple[tuple[str, str], ...]  # (path, what it points to)
    path: str
    shell: str
    root: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    guest: str | None = None


def find(spec: Spec) -> Toolchain:
    """The toolchain that the spec asks for on this host.

    Raises SandboxError where this host has none of that kind.
    """
    if spec.toolchain == "nix" or (spec.toolchain == "auto" and spec.rootfs is None):
        place = _nix_place(spec)
        if place is not None:
            return _nix(place)
        if spec.toolchain == "nix":
            raise SandboxError(
                f"This host has no Nix profile {NIX_PROFILE}.", "Install one there, or use toolchain: host."
            )
    # A machine of its own is the better for programs of its own.
    has_tree = spec.rootfs is not None or (spec.backend == "vm" and os.path.isdir(f"{ROOTFS}/usr"))
    if spec.toolchain == "rootfs" or (spec.toolchain == "auto" and has_tree):
        return _rootfs(spec.rootfs or ROOTFS)
    return _host()


def agent_argv(spec: Spec, toolchain: Toolchain, owner: Account) -> tuple[list[str], tuple[Bind, ...]]:
    """The agent's argv without its arguments, and what must be mounted for it beyond the toolchain."""
    if spec.agent == ["shell"]:
        return [toolchain.shell], ()
    if spec.agent != ["claude"]:
        return list(spec.agent), ()
    path, binds = _claude(toolchain, owner)
    return [path], binds


def masks(toolchain: Toolchain) -> tuple[tuple[str, bool], ...]:
    """What of the mounts not everybody may read, each with whether it is a folder: to be hidden where root runs.

    Reads the whole tree: a second or two.
    """
    return tuple(
        (f"{bind.target}{path.removeprefix(bind.source)}", is_folder)
        for bind in toolchain.binds
        # Nix lets everybody read all that is in its store, which is too much to walk through.
        if not f"{bind.source}/".startswith(f"{_NIX_STORE}/")
        for path, is_folder in _for_root_only(bind.source)
    )


def _host() -> Toolchain:
    if not os.path.exists("/usr/bin/bash"):
        raise SandboxError("This host has no /usr/bin/bash, so its /usr is no toolchain.", "Use toolchain: nix.")
    tools = _tree("host", "")
    if os.path.isdir(_NIX_STORE):
        # On a host with Nix, settings and programs of the account's are links into it.
        return dataclasses.replace(tools, binds=(*tools.binds, Bind(_NIX_STORE, _NIX_STORE)))
    return tools


def _rootfs(root: str) -> Toolchain:
    if not os.path.exists(_within(root, "/usr/bin/bash")):
        raise SandboxError(
            f"There is no tree of programs at {shown(root)}: it has no /usr/bin/bash.",
            "Make one (make rootfs, or the role sandbox), or give another rootfs.",
        )
    return _tree("rootfs", root)


def _tree(kind: str, root: str) -> Toolchain:
    binds = [Bind(f"{root}/usr", "/usr"), *_etc(root)]
    links = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"{root}/{name}"):
            links.append((f"/{name}", os.readlink(f"{root}/{name}")))
        elif os.path.isdir(f"{root}/{name}"):
            binds.append(Bind(f"{root}/{name}", f"/{name}"))
    path = ":".join((_PROGRAMS, *_USR_PATH))
    return Toolchain(kind, tuple(binds), tuple(links), path, "/usr/bin/bash", root)


def _within(root: str, path: str) -> str:
    """Where a path of a tree leads on the host, with every link taken as it is meant there: from the tree's root."""
    if not root:
        return os.path.realpath(path)
    left, found = path.strip("/").split("/"), ""
    for _step in range(_MOST_LINKS):
        if not left:
            return f"{root}{found}"
        part = left.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            found = os.path.dirname(found.rstrip("/")).rstrip("/")
            continue
        try:
            points_to = os.readlink(f"{root}{found}/{part}")
        except OSError:
            found = f"{found}/{part}"
            continue
        found = "" if points_to.startswith("/") else found
        left = [*points_to.strip("/").split("/"), *left]
    raise SandboxError(f"{shown(f'{root}{path}')} has too many links on its way.", "Mend the tree.")


def _nix_place(spec: Spec) -> str | None:
    """The profile, or what the flake made. Raises SandboxError where the one that is asked for is none."""
    if spec.nix_toolchain is not None:
        if not os.path.isdir(f"{spec.nix_toolchain}/bin"):
            raise SandboxError(
                f"{shown(spec.nix_toolchain)} is no toolchain: it has no bin.",
                "Build it again (it may have been collected as garbage), or leave nix_toolchain out.",
            )
        return spec.nix_toolchain
    places = (NIX_PROFILE, f"{NIXOS_TOOLCHAINS}/{spec.backend}")
    return next((place for place in places if os.path.isdir(f"{place}/bin")), None)


def _nix(place: str) -> Toolchain:
    description = f"{place}/{_DESCRIPTION}"
    if os.path.exists(description):
        return _described(os.path.realpath(description))
    programs = os.path.realpath(f"{place}/bin")
    links = (("/bin/sh", f"{programs}/bash"), ("/usr/bin/env", f"{programs}/env"))
    path = f"{_PROGRAMS}:{programs}"
    return Toolchain("nix", (Bind(_NIX_STORE, _NIX_STORE), *_etc("")), links, path, f"{programs}/bash")


def _described(description: str) -> Toolchain:
    """What the flake has written down. Of /etc only what says where this runs is then the host's."""
    file = files.open_regular(description)
    if file is None:
        raise SandboxError(f"{shown(description)} cannot be read.", "Build the toolchain again.")
    with file:
        found = closure.parse(file.read(closure.LIMIT + 1), description)
    lacking = next((path for path in (found.shell, *found.etc.values()) if not os.path.exists(path)), None)
    if lacking is not None:
        raise SandboxError(
            f"{shown(description)} names {shown(lacking)}, which is gone.",
            "Build the toolchain again: it was collected as garbage.",
        )
    etc = (Bind(source, f"/etc/{name}") for name, source in found.etc.items())
    binds = (Bind(_NIX_STORE, _NIX_STORE), *etc, *_listed("", _OF_HOST))
    path = ":".join((_PROGRAMS, *found.path))
    return Toolchain("nix", binds, tuple(found.links.items()), path, found.shell, env=found.env, guest=found.guest)


def _etc(root: str) -> Iterator[Bind]:
    more = [entry for entry in os.listdir(f"{root}/etc") if entry.startswith(_ETC_BEGINNINGS)]
    return _listed(root, (*_ETC, *more))


def _listed(root: str, names: Iterable[str]) -> Iterator[Bind]:
    for name in names:
        # The file behind a link: /etc/resolv.conf often points into /run, which is not inside.
        source = _within("" if name in _OF_HOST else root, f"/etc/{name}")
        if os.path.exists(source) and _readable_by_all(os.stat(source).st_mode):
            yield Bind(source, f"/etc/{name}")


def _claude(toolchain: Toolchain, owner: Account) -> tuple[str, tuple[Bind, ...]]:
    """Claude Code's program: the toolchain's, or the account's own, which is then mounted as one file."""
    for folder in toolchain.path.split(":"):
        program = _within(toolchain.root, f"{folder}/claude")
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return f"{folder}/claude", ()
    own = ":".join((f"{owner.home}/.local/bin", f"{owner.home}/.claude/local"))
    found = shutil.which("claude", path=own)
    if not found:
        raise missing_program("claude")
    program = os.path.realpath(found)
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise SandboxError(
                f"{found} is a script, which cannot run in a sandbox without the rest of its installation.",
                "Install Claude Code's native program (claude install), or one under /usr/local.",
            )
    inside = f"{_PROGRAMS}/claude"
    return inside, (Bind(program, inside),)


def _readable_by_all(mode: int) -> bool:
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
    return stat.S_ISLNK(mode) or mode & needed == needed


def _for_root_only(path: str) -> Iterator[tuple[str, bool]]:
    """What of a tree not everybody may read, and whether it is a folder; such a folder's content is not named."""
    mode = os.lstat(path).st_mode
    if not _readable_by_all(mode):
        yield path, stat.S_ISDIR(mode)
    elif stat.S_ISDIR(mode):
        with os.scandir(path) as entries:
            for entry in entries:
                yield from _for_root_only(entry.path)
