"""The Debian trees that hosts are copied from, and what makes a copy a host of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fresh.fresh import Mirrors, carry_certificates, carry_sources, kept_tree, own_certificates
from tests.hosts.layout import BRIDGE_ADDRESS, CACHE, NETWORK, PREFIX_LENGTH, PROXY_URL, Host

# What a small server has. A role has to install everything else.
PACKAGES = (
    *("ca-certificates", "dbus", "dbus-user-session", "iproute2", "libpam-systemd", "openssh-server", "procps"),
    *("python3", "sudo", "systemd", "systemd-sysv"),
)
OPERATOR = "ops"
_OPERATOR_ID = 1000
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# Run once in a new tree. Hosts make nobody wait, and no timer takes apt's lock while a test wants it. What a copy does
# not need is not copied.
_FINISH = f"""\
set -eu
update-ca-certificates >/dev/null
useradd --create-home --shell /bin/bash --uid {_OPERATOR_ID} {OPERATOR}
echo '{OPERATOR} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{OPERATOR}
rm -f /etc/ssh/ssh_host_*
systemctl --quiet enable systemd-networkd.service
systemctl --quiet mask systemd-networkd-wait-online.service console-getty.service
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
find /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man -not -type d -delete
find /var/cache/apt /var/lib/apt/lists -type f -delete
"""

# systemd-nspawn mounts the controllers of cgroup v1 read-only: then systemd accepts limits and enforces none.
_FIRST = """\
#!/bin/sh
for each in /sys/fs/cgroup/*; do
  [ -L "$each" ] || mount -o remount,rw,bind "$each"
done
exec /lib/systemd/systemd SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1
"""
FIRST = "/sbin/first"

_NETWORK = """\
[Match]
Name=host0

[Network]
Address={address}/{prefix_length}
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def tree(release: str, mirrors: Mirrors) -> Path:
    """The kept tree of a release, in which nothing runs."""
    certificates = [path.read_text() for path in own_certificates()]
    made_from = json.dumps([PACKAGES, _FINISH, _FIRST, certificates])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
    return kept_tree(CACHE / f"{release}-{digest}", release, PACKAGES, mirrors, _finish)


def _finish(root: Path) -> None:
    carry_certificates(root)
    first = root / FIRST.lstrip("/")
    first.write_text(_FIRST)
    first.chmod(0o755)
    subprocess.run(["chroot", str(root), "/bin/sh", "-c", _FINISH], check=True, stderr=subprocess.DEVNULL)


def environment(hosts: Sequence[Host]) -> dict[str, str]:
    """What programs on the hosts need to know to reach the sources of packages."""
    direct = ",".join(
        ["localhost", "127.0.0.1", "::1", NETWORK, *(word for host in hosts for word in (host.name, host.address))]
    )
    return {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), PROXY_URL),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), direct),
        "NODE_EXTRA_CA_CERTS": _BUNDLE,
        "PIP_CERT": _BUNDLE,
    }


def furnish(root: Path, host: Host, hosts: Sequence[Host], public_key: str, mirrors: Mirrors) -> str:
    """Make a copy of a tree the host; its public host key."""
    (root / "etc/hostname").write_text(f"{host.name}\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    # Empty, not absent: without a server every lookup of a foreign name fails at once.
    (root / "etc/resolv.conf").write_text("")
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{each.address} {each.name}" for each in hosts)]
    (root / "etc/hosts").write_text("".join(f"{line}\n" for line in lines))
    network = _NETWORK.format(address=host.address, prefix_length=PREFIX_LENGTH, gateway=BRIDGE_ADDRESS)
    (root / "etc/systemd/network/10-host0.network").write_text(network)
    (root / "etc/environment").write_text("".join(f"{name}={value}\n" for name, value in environment(hosts).items()))
    carry_sources(root, host.release, mirrors)
    proxy = "".join(f'Acquire::{scheme}::Proxy "{PROXY_URL}";\n' for scheme in ("http", "https"))
    (root / "etc/apt/apt.conf.d/95proxy").write_text(proxy)
    _let_in(root / "root", 0, public_key)
    if (root / "etc/skel/.npmrc").is_file():
        shutil.copy(root / "etc/skel/.npmrc", root / "home" / OPERATOR / ".npmrc")
    _let_in(root / "home" / OPERATOR, _OPERATOR_ID, public_key)
    key = root / "etc/ssh/ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", str(key)], check=True)
    return key.with_suffix(".pub").read_text()


def _let_in(home: Path, owner: int, public_key: str) -> None:
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(public_key)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, owner, owner)


def device(path: Path, major: int, minor: int) -> None:
    """A character device that every account may use."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    path.chmod(0o666)


def copy(source: Path, target: Path) -> None:
    """Copy a tree as it is."""
    subprocess.run(["cp", "-a", str(source.resolve()), str(target)], check=True)
