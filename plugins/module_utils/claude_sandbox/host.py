# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this machine offers: accounts, programs, kernel switches."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import grp
import os
import pwd
import shutil
from collections.abc import Mapping

from .errors import SandboxError, shown

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# NixOS keeps the programs of the system here, those with privileges in the first, and has no /usr/bin but env.
_NIXOS_PATH = "/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin"

# Which package brings a program: on Debian and Ubuntu, and in nixpkgs.
_PACKAGES = {
    "bwrap": ("bubblewrap", "bubblewrap"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu_kvm"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu_kvm"),
    "sudo": ("sudo", "sudo"),
    "systemd-nspawn": ("systemd-container", "systemd"),
    "tmux": ("tmux", "tmux"),
    "Xvfb": ("xvfb", "xorg.xorgserver"),
}
_CLAUDE_CODE = "Install the package @anthropic-ai/claude-code from npm, or let the role sandbox do it."


@dataclasses.dataclass(frozen=True)
class Account:
    """An account of this host, as a process of its own would have it."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why something does not work on this host, and what mends it."""

    what: str
    hint: str


@dataclasses.dataclass(frozen=True)
class Host:
    """This machine, seen by the process that runs the engine."""

    environ: Mapping[str, str]
    uid: int

    @classmethod
    def this(cls) -> Host:
        """The machine and the process as they are now."""
        return cls(dict(os.environ), os.geteuid())

    @functools.cached_property
    def account(self) -> Account:
        """The account that runs the engine."""
        return account(self.uid)

    @property
    def path(self) -> str:
        """Where programs of the host are looked for; never a directory that is not absolute."""
        own = [entry for entry in self.environ.get("PATH", "").split(":") if entry.startswith("/")]
        return ":".join(dict.fromkeys([*own, *SYSTEM_PATH.split(":"), *_NIXOS_PATH.split(":")]))

    def find(self, program: str) -> str | None:
        """The absolute path of a program, or None."""
        return shutil.which(program, path=self.path)

    def need(self, program: str) -> str:
        """The absolute path of a program; a SandboxError that names its package where there is none."""
        found = self.find(program)
        if found is None:
            raise missing_program(program)
        return found

    def state_dir(self) -> str:
        """Where the registry is unless told otherwise: the system's for root, the account's own for others."""
        if self.uid == 0:
            return "/var/lib/claude-manager"
        base = self.environ.get("XDG_STATE_HOME", "")
        if not base.startswith("/"):
            base = f"{self.account.home}/.local/state"
        return f"{base}/claude-sandbox"


def missing_program(program: str) -> SandboxError:
    """The error for a program that is not on this host."""
    problem = missing(program)
    return SandboxError(problem.what, problem.hint)


def missing(program: str) -> Problem:
    """That a program is not on this host, and the command that mends it where that is known."""
    what = f"{program} is not installed on this host."
    if program == "claude":
        return Problem(what, _CLAUDE_CODE)
    debian, nixpkgs = _PACKAGES.get(program, (program, program))
    if os.path.exists("/etc/NIXOS"):
        return Problem(what, f"Add pkgs.{nixpkgs} to environment.systemPackages.")
    if os.path.exists("/usr/bin/apt-get"):
        return Problem(what, f"Install the package {debian}; as root: apt-get install {debian}")
    return Problem(what, f"Install the package {debian}.")


def account(who: str | int) -> Account:
    """An account by name or uid; a SandboxError where there is none of that name."""
    try:
        entry = pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)
    except (KeyError, ValueError):
        if isinstance(who, int):
            # A process can run under a uid that no database knows (containers do that).
            return Account(str(who), who, os.getegid(), os.environ.get("HOME", "/"), "/bin/sh", ())
        raise SandboxError(f"There is no account {shown(who)} on this host.", "Create it, or name another.") from None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell or "/bin/sh", groups)


def group_name(gid: int) -> str:
    """The name of a group, or its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def mapped_ranges() -> list[tuple[int, int]]:
    """The ranges of ids that accounts may map into user namespaces, as (first, how many): see subuid(5)."""
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            words = [line.strip().split(":") for line in file]
            found += [(int(each[1]), int(each[2])) for each in words if len(each) == 3 and "".join(each[1:]).isdigit()]
    return found


def user_namespaces() -> Problem | None:
    """Whether the kernel is told to refuse user namespaces to an unprivileged account."""
    if _sysctl("user/max_user_namespaces") == "0":
        return Problem(
            "This kernel allows no user namespaces (user.max_user_namespaces is 0).",
            "As root: sysctl -w user.max_user_namespaces=15000, and the same in /etc/sysctl.d/.",
        )
    if os.geteuid() and _sysctl("kernel/unprivileged_userns_clone") == "0":
        return Problem(
            "This kernel allows user namespaces to root alone (kernel.unprivileged_userns_clone is 0).",
            "As root: sysctl -w kernel.unprivileged_userns_clone=1, and the same in /etc/sysctl.d/.",
        )
    return None


def apparmor_restricts_namespaces() -> bool:
    """Whether AppArmor takes the use of a user namespace from programs without a profile (Ubuntu 24.04 does)."""
    return _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1"


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def boot_id() -> str:
    """The kernel's name for this boot: a pid from another boot means nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
