"""The first process of a fleet's namespaces: makes its hosts, starts them again when they reboot, and ends with them.

It is the first process of a namespace of processes, so all that it has started, and every ssh to its hosts, ends when
it does, however it ends. Its mounts and its network go the same way. Only control groups stay when it is killed: their
names stand in its state.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TextIO

from tests.hosts import cgroups, sources, trees
from tests.hosts.layout import (
    ALREADY_UP,
    ANSWERED,
    BRIDGE,
    BRIDGE_ADDRESS,
    CACHE,
    PREFIX_LENGTH,
    PROXY_PORT,
    SILENT,
    Folder,
    Host,
    State,
    clean,
    hold,
    hosts_of,
)

_REBOOT = 133  # what systemd-nspawn exits with when the host asked for it
_DISK = "6g"
_ANSWER_SECONDS = 60.0
_FUSE = (10, 229)
# Enters the control groups named before `--`, then becomes what is named after it.
_ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
_SSH = """\
#!/bin/sh
# ssh from the hosts' network, among the supervisor's processes: it ends when they do.
exec nsenter --target {pid} --net --pid -- setpriv --pdeathsig TERM ssh "$@"
"""
_SSH_CONFIG = """\
{hosts}
Host *
  User root
  IdentityFile "{key}"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{known_hosts}"
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 10
  ServerAliveInterval 15
  ControlPath {control_path}
  LogLevel ERROR
"""


def _run(*argv: str, text: str | None = None) -> None:
    subprocess.run(argv, check=True, input=text, text=True)


class Supervisor:
    def __init__(self, folder: Folder, hosts: list[Host], pid: int, outside: list[int]) -> None:
        self.folder = folder
        self.hosts = hosts
        self.outside = outside
        self.mirrors = sources.mirrors()
        self.state = State(pid, tempfile.mkdtemp(prefix="csh-"), f"csh-{pid}-{os.urandom(4).hex()}-", hosts)
        self.state.save(folder.state)
        self._groups: dict[str, list[Path]] = {}
        self._running: dict[int, tuple[Host, subprocess.Popen[bytes]]] = {}
        self._gate: subprocess.Popen[bytes] | None = None

    # --- Beginning --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start all; when this returns, the hosts boot."""
        with self._network() as listening:
            self._gate = self._proxy(listening)
        # systemd-nspawn insists on a tmpfs here.
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "hosts", "/run")
        _run("mount", "-t", "proc", "proc", "/proc")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path(f"/proc/sys/net/ipv4/neigh/{BRIDGE}/retrans_time_ms").write_text("50")
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests/hosts", "-f", str(self.folder.key))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            keys = list(pool.map(self._make, self.hosts))
        self._write_ways_in(keys)

    def _network(self) -> socket.socket:
        """The bridge, and the socket on which the proxy listens there.

        Packets are forwarded, yet there is no route to anywhere: so a host that tries learns at once that it cannot.
        """
        commands = (
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"addr add {BRIDGE_ADDRESS}/{PREFIX_LENGTH} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )
        _run("ip", "-batch", "-", text="".join(f"{command}\n" for command in commands))
        return socket.create_server((BRIDGE_ADDRESS, PROXY_PORT), backlog=128)

    def _proxy(self, listening: socket.socket) -> subprocess.Popen[bytes]:
        """Start it in the machine's own network, with the machine's own mounts: names are resolved as usual there."""
        net, mounts = self.outside
        enter = ["nsenter", f"--net=/proc/self/fd/{net}", f"--mount=/proc/self/fd/{mounts}", "--"]
        program = [sys.executable, str(Path(__file__).with_name("proxy.py")), "--kept", str(CACHE / "debs")]
        argv = [*enter, *program, "--socket", str(listening.fileno()), *sources.places()]
        given = (*self.outside, listening.fileno())
        return subprocess.Popen(argv, pass_fds=given)

    def _make(self, host: Host) -> str:
        """Make a host and start it; its public host key."""
        mount = self.folder.mount(host.name)
        mount.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"mode=700,size={_DISK}", host.name, str(mount))
        trees.copy(trees.tree(host.release, self.mirrors), mount / "root")
        trees.device(mount / "fuse", *_FUSE)
        public_key = self.folder.key.with_suffix(".pub").read_text()
        key = trees.furnish(mount / "root", host, self.hosts, public_key, self.mirrors)
        self._groups[host.name] = cgroups.make(f"{self.state.cgroup}{host.name}")
        self._start(host)
        return key

    def _start(self, host: Host) -> None:
        mount = self.folder.mount(host.name)
        argv = ["systemd-nspawn", "--quiet", f"--directory={mount / 'root'}", f"--machine={host.name}"]
        argv += ["--kill-signal=SIGRTMIN+3", "--register=no", "--keep-unit", f"--network-bridge={BRIDGE}"]
        argv += ["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"]
        # As on a host of one's own, no system call is refused.
        argv += ["--system-call-filter=@known", f"--bind={mount / 'fuse'}:/dev/fuse", trees.FIRST]
        enter = ["sh", "-c", _ENTER, "sh", *map(str, self._groups[host.name]), "--"]
        with self.folder.console(host.name).open("ab") as log:
            process = subprocess.Popen([*enter, *argv], stdout=log, stderr=log)
        self._running[process.pid] = (host, process)

    def _write_ways_in(self, keys: list[str]) -> None:
        folder, hosts = self.folder, list(zip(self.hosts, keys, strict=True))
        folder.known_hosts.write_text("".join(f"{host.address} {key}" for host, key in hosts))
        folder.ssh_config.write_text(
            _SSH_CONFIG.format(
                hosts="".join(f"Host {host.name}\n  HostName {host.address}\n" for host in self.hosts),
                key=folder.key,
                known_hosts=folder.known_hosts,
                control_path=f"{self.state.sockets}/%C",
            )
        )
        folder.ssh.write_text(_SSH.format(pid=self.state.pid))
        folder.ssh.chmod(0o755)
        common = ["-F", str(folder.ssh_config), "-o", f"ControlPath={self.state.sockets}/%C"]
        variables = {
            "ansible_ssh_executable": str(folder.ssh),
            "ansible_ssh_transfer_method": "piped",
            "ansible_ssh_common_args": shlex.join(common),
            "ansible_python_interpreter": "/usr/bin/python3",
            "claude_sandbox_install_environment": trees.environment(self.hosts),
        }
        members = {host.name: {"ansible_host": host.address, "debian_release": host.release} for host in self.hosts}
        inventory = {"sandbox_hosts": {"hosts": members, "vars": variables}}
        # JSON is YAML.
        folder.inventory.write_text(json.dumps(inventory, indent=2) + "\n", encoding="utf-8")

    def answers(self) -> bool:
        """Wait until all take SSH connections; whether they did in time."""
        end = time.monotonic() + _ANSWER_SECONDS
        return all(_answers(host.address, end) for host in self.hosts)

    # --- Going on ---------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of what has ended: start again what reboots."""
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid not in self._running:
                    os.waitpid(found.si_pid, 0)
                    continue
                host, process = self._running.pop(found.si_pid)
                if process.wait() == _REBOOT:
                    self._start(host)
                else:
                    self.folder.ended(host.name).write_text(f"{process.returncode}\n")

    def end(self) -> None:
        """Kill all, and remove what they leave."""
        # All of this namespace: main has made sure of that.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        for host in self.hosts:
            mount = self.folder.mount(host.name)
            if mount.is_mount():
                _run("umount", "--lazy", str(mount))
        clean(self.folder)


def _answers(address: str, end: float) -> bool:
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), 0.5) as connection:
            if connection.recv(4) == b"SSH-":
                return True
        time.sleep(0.02)
    return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Started by tests.hosts; not by hand.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--releases", nargs="+", required=True)
    parser.add_argument("--outside", type=int, nargs=2, required=True, help="descriptors of a network and of mounts")
    parser.add_argument("--detached", action="store_true", help="do not end when the standard input does")
    return parser.parse_args()


def _watch(supervisor: Supervisor, wake: socket.socket, lifeline: int | None) -> None:
    """Until it is told to end, or whoever started it has ended."""
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        if lifeline is not None:
            selector.register(lifeline, selectors.EVENT_READ)
        while True:
            supervisor.reap()
            for key, _events in selector.select():
                if key.fileobj is not wake or set(wake.recv(4096)) - {signal.SIGCHLD}:
                    return


def _supervise(options: argparse.Namespace, pid: int, wake: socket.socket, lifeline: int, tell: TextIO) -> None:
    supervisor = Supervisor(Folder(options.directory), hosts_of(options.count, options.releases), pid, options.outside)
    try:
        supervisor.begin()
        # A thread waits for the hosts' answers, so that the end is noticed meanwhile.
        threading.Thread(target=_tell, args=(supervisor, tell), daemon=True).start()
        _watch(supervisor, wake, None if options.detached else lifeline)
    finally:
        supervisor.end()


def _tell(supervisor: Supervisor, tell: TextIO) -> None:
    with tell:
        tell.write(f"{ANSWERED if supervisor.answers() else SILENT}\n")


def _own_streams() -> tuple[int, TextIO]:
    """What this was started with as standard input and output, which what it starts must neither read nor write."""
    lifeline, tell = os.dup(0), os.fdopen(os.dup(1), "w")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return lifeline, tell


def main() -> None:
    # The pid that others know it by. Whoever kills all processes of a namespace must be sure that it is its own.
    pid = int(os.readlink("/proc/self"))
    if os.getpid() != 1 or pid == 1:
        raise SystemExit("not the first process of a namespace of its own")
    options = _arguments()
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for each in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _number, _frame: None)
    lifeline, tell = _own_streams()
    with tell, hold(Folder(options.directory).lock) as held:
        if held:
            _supervise(options, pid, wake, lifeline, tell)
        else:
            tell.write(f"{ALREADY_UP}\n")


if __name__ == "__main__":
    main()
