"""That the hosts are what other tests take them for: apart, limited, supplied with packages, and gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import Fleet, FleetError, cgroups, fleet
from tests.hosts.fleet import start
from tests.hosts.layout import CACHE, CHECKOUT, PROXY_URL, Folder, State
from tests.support.listener import TcpCanary

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot hosts")

_SECONDS = 60.0
# Prints ok when it could connect to HOST PORT, and otherwise why not.
_CONNECT = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
except OSError as error:
    print(type(error).__name__, error)
else:
    print("ok")
"""
_FETCH = """\
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except OSError as error:
    print(error)
"""
_SPIN = """\
import time
began = time.monotonic()
while time.process_time() < 0.2:
    pass
print(time.monotonic() - began)
"""
# A small tree for a container: the host's programs, and nothing of its own.
_NESTED = """\
set -e
mkdir -p /srv/tree/etc /srv/tree/usr /srv/project
for each in bin lib lib64 sbin; do ln -sfn usr/$each /srv/tree/$each; done
touch /srv/tree/etc/os-release
chown ops: /srv/project
systemd-nspawn --quiet --directory=/srv/tree --machine=nested --network-veth --private-users=pick --bind-ro=/usr \
  --bind=/srv/project:/mnt:rootidmap --as-pid2 sh -c 'touch /mnt/made; head -n 1 /proc/self/uid_map'
stat --format %U /srv/project/made
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    """One of each release."""
    with fleet(count=2, releases=("bookworm", "trixie")) as made:
        yield made


def _both(hosts: Fleet, *argv: str, **more: str) -> list[subprocess.CompletedProcess[str]]:
    return [hosts.ssh(name, *argv, **more) for name in hosts.names]  # type: ignore[arg-type]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.05)


def test_accounts(hosts: Fleet) -> None:
    assert hosts.names == ["host1", "host2"]
    for name, release in zip(hosts.names, ("bookworm", "trixie"), strict=True):
        assert hosts.release(name) == release
        done = hosts.ssh(name, "sh", "-c", "id -un; hostname; . /etc/os-release; echo $VERSION_CODENAME")
        assert done.stdout.split() == ["root", name, release], done.stderr
        done = hosts.ssh(name, "sh", "-c", "id -un; sudo -n id -un; cat", user="ops", input="given\n")
        assert done.stdout.split() == ["ops", "root", "given"], done.stderr
        assert hosts.ssh(name, "sh", "-c", "exit 7").returncode == 7
        assert hosts.ssh(name, "printf", "%s", "a b'c\"$d").stdout == "a b'c\"$d"


def test_ansible(hosts: Fleet, tmp_path: Path) -> None:
    """By the inventory alone, from any directory, as either account."""
    ansible = [str(Path(sys.executable).with_name("ansible")), "sandbox_hosts", "-i", str(hosts.inventory)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    for more in ([], ["--user", "ops", "--become"]):
        facts = ["-m", "ansible.builtin.setup", "-a", "gather_subset=!all,min,distribution,network", "--tree", "facts"]
        done = subprocess.run(
            [*ansible, *facts, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for name in hosts.names:
            found = json.loads((tmp_path / "facts" / name).read_text(encoding="utf-8"))["ansible_facts"]
            assert found["ansible_distribution_release"] == hosts.release(name)
            assert found["ansible_default_ipv4"]["address"] == hosts.address(name)
            assert found["ansible_user_id"] == "root"


def test_network(hosts: Fleet) -> None:
    """They reach each other. They reach neither this machine nor anything beyond, at once and by name or number."""
    links = json.loads(_output("ip", "-json", "-4", "address"))
    own = [each["local"] for link in links for each in link["addr_info"] if each["scope"] == "global"]
    assert own

    def tried(address: str, port: int) -> str:
        return hosts.ssh("host1", "python3", "-c", _CONNECT, address, str(port)).stdout.strip()

    assert tried("host2", 22) == "ok"
    with TcpCanary("0.0.0.0") as canary:  # noqa: S104 - so that it could be reached
        began = time.monotonic()
        for address in (*own, "10.77.0.1", "127.0.0.1", "1.1.1.1"):
            assert tried(address, canary.port) not in ("", "ok")
        assert "gaierror" in tried("deb.debian.org", 80)
        assert time.monotonic() - began < 10
        for scheme in ("http", "https"):
            url = f"{scheme}://{own[0]}:{canary.port}/"
            assert "403" in hosts.ssh("host1", "env", "no_proxy=", "python3", "-c", _FETCH, url).stdout
        assert canary.count == 0
        socket.create_connection((own[0], canary.port)).close()
        _until(lambda: canary.count == 1)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_limits(hosts: Fleet) -> None:
    """They are not only accepted."""
    limited = ("systemd-run", "--wait", "--pipe", "--quiet")
    for name in hosts.names:
        script = "kept = b'x' * (100 << 20); print(len(kept))"
        assert hosts.ssh(name, *limited, "-p", "MemoryMax=400M", "python3", "-c", script).returncode == 0
        done = hosts.ssh(name, *limited, "-p", "MemoryMax=40M", "python3", "-c", script)
        assert (done.returncode != 0, done.stdout) == (True, ""), done.stderr
        many = "for each in 1 2 3 4 5 6 7 8; do sleep 0.1 & done; wait"
        assert hosts.ssh(name, *limited, "-p", "TasksMax=20", "sh", "-c", many).returncode == 0
        assert hosts.ssh(name, *limited, "-p", "TasksMax=5", "sh", "-c", many).returncode != 0
        # A tenth of a processor: a fifth of a second's work takes nearly two.
        done = hosts.ssh(name, *limited, "-p", "CPUQuota=10%", "python3", "-c", _SPIN)
        assert float(done.stdout) > 1, done.stderr


def test_packages(hosts: Fleet) -> None:
    """apt, through the proxy, which keeps what it has fetched; then sandboxes within the hosts."""
    script = "apt-get -qq update && apt-get -qq install -y --no-install-recommends bubblewrap systemd-container"
    for done in _both(hosts, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", script):
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((CACHE / "debs").rglob("bubblewrap_*.deb"))) >= 2
    assert not list((CACHE / "debs").rglob(".*"))
    unprivileged = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "id", "-un")
    for done in _both(hosts, *unprivileged, user="ops"):
        assert done.stdout == "ops\n", done.stderr
    for done in _both(hosts, "sh", "-c", _NESTED):
        inside, owner = done.stdout.splitlines()
        assert (inside.split()[0], owner) == ("0", "ops"), done.stderr
        assert int(inside.split()[1]) > 0


def test_sources_of_other_packages(hosts: Fleet) -> None:
    """What pip and npm take from answers through the proxy, with a certificate that is trusted."""
    for url in ("https://pypi.org/simple/six/", "https://registry.npmjs.org/left-pad"):
        assert hosts.ssh("host2", "python3", "-c", _FETCH, url).stdout == "200\n"
    assert PROXY_URL in hosts.ssh("host2", "printenv", "https_proxy", user="ops").stdout


def test_devices(hosts: Fleet) -> None:
    for done in _both(hosts, "sh", "-c", "exec 3<>/dev/fuse 4<>/dev/net/tun", user="ops"):
        assert done.returncode == 0, done.stderr


def test_reboot(hosts: Fleet) -> None:
    """What is on the disk stays, what runs does not."""
    hosts.ssh("host1", "sh", "-c", "touch /root/kept /run/lost")
    identity = hosts.ssh("host1", "cat", "/etc/machine-id").stdout
    hosts.reboot("host1")
    done = hosts.ssh("host1", "ls", "/root/kept", "/run/lost")
    assert (done.stdout, "/run/lost" in done.stderr) == ("/root/kept\n", True)
    assert hosts.ssh("host1", "cat", "/etc/machine-id").stdout == identity != ""


# --- How they end ---------------------------------------------------------------------------------------------------

_HOLDER = """\
import sys
from tests.hosts import fleet
with fleet(count=1) as hosts:
    print(hosts.inventory.parent, flush=True)
    sys.stdin.read()
"""


def _gone(state: State) -> bool:
    """Its processes, so its mounts and its network as well, and its control groups and files."""
    return not (Path(f"/proc/{state.pid}").exists() or cgroups.left(state.cgroup) or Path(state.sockets).exists())


def test_killed_holder() -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    argv = [sys.executable, "-c", _HOLDER]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Folder(Path(holder.stdout.readline().strip()))
        state = State.load(folder.state)
        assert cgroups.left(state.cgroup)
        # One that holds a connection open ends, too.
        ssh = subprocess.Popen([*Fleet(folder.path).ssh_argv("host1"), "sleep 600"], stdin=subprocess.DEVNULL)
        holder.kill()
    assert ssh.wait(_SECONDS) != 0
    _until(lambda: _gone(state) and not folder.path.exists())


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.hosts", *words]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_detached(tmp_path: Path) -> None:
    """One at a time in a directory; one whose supervisor was killed is replaced; afterwards nothing is left."""
    directory = tmp_path / "a directory"
    where = ("--directory", str(directory))
    try:
        done = _command("up", "--count", "1", "--releases", "trixie", *where)
        assert (done.returncode, "1 hosts in " in done.stdout) == (0, True), done.stderr
        first = State.load(Folder(directory).state)
        done = _command("up", *where)
        assert (done.returncode, "up already" in done.stderr) == (1, True), done.stderr
        assert Fleet(directory).ssh("host1", "true").returncode == 0
        os.kill(first.pid, signal.SIGKILL)
        _until(lambda: not Path(f"/proc/{first.pid}").exists())
        assert cgroups.left(first.cgroup)
        done = _command("up", "--count", "1", "--releases", "bookworm", *where)
        assert done.returncode == 0, done.stderr
        second = State.load(Folder(directory).state)
        assert Fleet(directory).ssh("host1", "true").returncode == 0
        assert _gone(first)
    finally:
        done = _command("down", *where)
    assert "are down" in done.stdout
    _until(lambda: _gone(second))
    assert not directory.exists()
    assert "no hosts" in _command("down", *where).stdout
    assert str(directory) not in Path("/proc/self/mounts").read_text(encoding="utf-8")


def test_refused(tmp_path: Path) -> None:
    for count, releases in ((0, ["trixie"]), (1, ["sid"]), (1, [])):
        with pytest.raises(FleetError):
            start(tmp_path / "none", count, releases, detached=False)
    assert not (tmp_path / "none").exists()
