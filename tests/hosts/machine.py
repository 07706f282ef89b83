"""A Debian host with a kernel of its own, and so with cgroup v2 alone: a virtual machine, reached over SSH.

It is emulated, for not every machine can do better: ten times as slow as a host of tests.hosts, but needs no root
once its disk has been made. Nothing is reached from it; it is reached by a port of this machine's loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import qmp
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from tests.fresh.fresh import Mirrors, kept_tree
from tests.hosts import trees
from tests.hosts.layout import CACHE, CHECKOUT

RELEASE = "bookworm"
PACKAGES = (*trees.PACKAGES, "bubblewrap", "systemd-container", "tmux")
PROGRAMS = {
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
}
_DISK_BYTES = 3 << 30
_MEMORY_MIB = 1536
_BOOT_SECONDS = 120.0
_STEP = 0.1
# bfq is the one scheduler of disks that knows weights.
_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "virtio_net", "bfq")
_BUILDER = CHECKOUT / "roles/sandbox/files/guest/build.py"

# Of its network the machine itself needs to know nothing.
_FIRST = b"""\
#!/bin/busybox sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
while read -r module; do
  busybox insmod "$module"
done </lib/modules
busybox ip link set lo up
busybox ip address add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
busybox mount -t ext4 /dev/vda /new
busybox mount -o move /dev /new/dev
exec busybox switch_root /new /sbin/init
"""

# Run once in the tree: as trees does for hosts, and with a way in.
_FINISH = f"""\
set -eu
useradd --create-home --shell /bin/bash --uid 1000 {trees.OPERATOR}
echo '{trees.OPERATOR} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{trees.OPERATOR}
echo machine >/etc/hostname
echo '127.0.0.1 localhost machine' >/etc/hosts
: >/etc/resolv.conf
: >/etc/machine-id
systemctl --quiet enable ssh.service
systemctl --quiet mask console-getty.service getty@tty1.service e2scrub_reap.service
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
find /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man -not -type d -delete
find /var/cache/apt /var/lib/apt/lists -type f -delete
"""
_LET_IN = """\
set -eu
for home in /root /home/*; do
  install -d -m 700 "$home/.ssh"
  cp /key.pub "$home/.ssh/authorized_keys"
  chown -R --reference="$home" "$home/.ssh"
done
rm /key.pub
"""


class MachineError(Exception):
    """Something that the person who runs this can act on."""


@dataclasses.dataclass(frozen=True)
class Image:
    """What a machine is started from. It is never written to."""

    folder: Path

    @property
    def disk(self) -> Path:
        """A file system, without partitions."""
        return self.folder / "disk"

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def key(self) -> Path:
        """With it every account of the machine is reached."""
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """The public one."""
        return (self.folder / "host_key.pub").read_text()


def image() -> Image:
    """The kept image; made where there is none, which takes two minutes and needs root. Raises MachineError."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        raise MachineError(f"missing here: apt-get install {' '.join(missing)}")
    made_from = json.dumps([PACKAGES, _FINISH, _LET_IN, _FIRST.decode(), _MODULES, _DISK_BYTES])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
    folder = CACHE / f"machine-{RELEASE}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=".machine-", dir=CACHE) as scratch:
                _make(Path(scratch))
                (Path(scratch) / "image").rename(folder)
    return Image(folder)


def _make(scratch: Path) -> None:
    new = Image(scratch / "image")
    new.folder.mkdir(mode=0o700)
    _make_kernel(scratch, new)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests/hosts", "-f", str(new.key))

    def finish(root: Path) -> None:
        shutil.copy(new.key.with_suffix(".pub"), root / "key.pub")
        _run("chroot", str(root), "/bin/sh", "-c", _FINISH + _LET_IN)
        # Debian has made keys for the three kinds when it was installed; one is enough.
        for path in (root / "etc/ssh").glob("ssh_host_*"):
            path.unlink()
        key = root / "etc/ssh/ssh_host_ed25519_key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "machine", "-f", str(key))
        shutil.copy(key.with_suffix(".pub"), new.folder / "host_key.pub")

    tree = kept_tree(scratch / "tree", RELEASE, PACKAGES, Mirrors.of_this_machine(), finish)
    with new.disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    _run("mkfs.ext4", "-q", "-F", "-d", str(tree), str(new.disk))


def _make_kernel(scratch: Path, new: Image) -> None:
    """Debian's, and what brings it to the disk, by what makes the guest of the backend vm."""
    build = _builder()
    tree = build.unpacked(scratch, build.kernel_package())
    busybox = build.unpacked(scratch, build.BUSYBOX_PACKAGE)
    new.kernel.write_bytes(build.uncompressed(next((tree / "boot").glob("vmlinuz-*")).read_bytes()))
    archive, modules = build.Archive(), build.Modules(tree)
    for path in ("bin", "dev", "new", "lib"):
        archive.folder(path)
    archive.device("dev/console", 5, 1)
    archive.file("init", _FIRST, 0o755)
    archive.file("bin/busybox", next(busybox.glob("**/bin/busybox")).read_bytes(), 0o755)
    order = modules.order(_MODULES)
    archive.file("lib/modules", "".join(f"/lib/{name}.ko\n" for name in order).encode())
    for name in order:
        archive.file(f"lib/{name}.ko", modules.content(name))
    new.initrd.write_bytes(archive.finished())


def _builder() -> Any:
    """It is a program and no part of a package."""
    spec = importlib.util.spec_from_file_location("guest_build", _BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Machine:
    """One that runs."""

    def __init__(self, folder: Path, key: Path, process: subprocess.Popen[bytes], port: int) -> None:
        self._folder = folder
        self._key = key
        self._process = process
        self._port = port

    def ssh_argv(self, user: str, options: Sequence[str] = ()) -> list[str]:
        """ssh to it; what it shall run there may follow."""
        fixed = {
            "BatchMode": "yes",
            "ControlMaster": "auto",
            "ControlPath": f"{self._folder}/ssh-%r",
            "ControlPersist": "yes",
            "GlobalKnownHostsFile": "none",
            "HostKeyAlias": "machine",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f"{self._folder}/known_hosts",
        }
        words = [word for name, value in fixed.items() for word in ("-o", f"{name}={value}")]
        ways = ["-F", "none", "-i", str(self._key), "-p", str(self._port), "-l", user]
        # Of an option that is given twice, ssh takes the first.
        return ["ssh", *options, *ways, *words, "127.0.0.1"]

    def ssh(
        self,
        *argv: str,
        user: str = "root",
        input: str | bytes | None = None,  # noqa: A002 - as subprocess.run calls it
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there; `timeout` is in seconds. Without input it reads nothing.

        All of an account's come by one connection, and so belong to one session of its: see `log_out`.
        """
        given = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [*self.ssh_argv(user), "--", shlex.join(argv)],
            input=given if given is not None else b"",
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def log_out(self, user: str) -> None:
        """End the account's connection."""
        argv = self.ssh_argv(user, ("-O", "exit"))
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)

    def wait(self) -> None:
        """Until it has booted. Raises MachineError when it does not."""
        end = time.monotonic() + _BOOT_SECONDS
        while self.ssh("true").returncode:
            self._still_boots(end)
            time.sleep(_STEP)
        # Until this is over, PAM lets only root in.
        done = self.ssh("systemctl", "is-system-running", "--wait")
        if done.stdout.strip() not in ("running", "degraded"):
            raise MachineError(f"it has not booted: {done.stdout}{done.stderr}\n{self.console()[-3000:]}")

    def _still_boots(self, end: float) -> None:
        if self._process.poll() is not None or time.monotonic() > end:
            raise MachineError(f"it does not come up; its console says:\n{self.console()[-3000:]}")

    def ended(self, seconds: float) -> bool:
        """Whether it turns itself off within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def console(self) -> str:
        """What its kernel and its first process have printed."""
        return (self._folder / "console").read_text(errors="replace")

    def _stop(self) -> None:
        for path in self._folder.glob("ssh-*"):
            self.log_out(path.name.removeprefix("ssh-"))
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """One that is up for as long as this lasts, and no longer than this process. Raises MachineError."""
    source = image()
    with tempfile.TemporaryDirectory(prefix="csm-") as name:
        folder = Path(name)
        (folder / "known_hosts").write_text(f"machine {source.host_key}")
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                _argv(source, folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"TMPDIR": name}
            )
        made = Machine(folder, source.key, process, 0)
        try:
            made = Machine(folder, source.key, process, _port(process, folder))
            made.wait()
            yield made
        finally:
            made._stop()


def _argv(source: Image, folder: Path) -> list[str]:
    # Without udev no device is ever known to be there: a getty on the console would be waited for.
    words = "console=ttyS0 quiet net.ifnames=0 root=/dev/vda rw mitigations=off systemd.getty_auto=no"
    emulator, setpriv = shutil.which("qemu-system-x86_64"), shutil.which("setpriv")
    return [
        *(str(setpriv), "--pdeathsig", "KILL", str(emulator)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-kernel", str(source.kernel), "-initrd", str(source.initrd), "-append", words),
        # What is written goes into a file without a name.
        *(
            "-drive",
            f"file={source.disk},if=none,id=disk,format=raw,snapshot=on",
            "-device",
            "virtio-blk-pci,drive=disk",
        ),
        *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net"),
        *("-device", "virtio-rng-pci", "-serial", f"file:{folder}/console"),
        *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
    ]


def _port(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The one that leads to its SSH: QEMU has taken one that was free."""
    end = time.monotonic() + _BOOT_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(SandboxError, OSError):
            text = qmp.command(str(folder), "human-monitor-command", {"command-line": "info usernet"})
            if found := re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", text):
                return int(found[1])
        time.sleep(_STEP)
    raise MachineError(f"QEMU does not start: {(folder / 'qemu.log').read_text()}")
