"""Containers on a host whose first process is systemd: registered with machined, and gone from there afterwards.

The host is a Debian tree booted by systemd-nspawn. The tree is made by debootstrap, which takes a minute, and kept.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.fresh.fresh import Mirrors
from tests.integration import playing

pytestmark = pytest.mark.usefixtures("as_root")

_PACKAGES = "dbus,libpam-systemd,procps,python3,sudo,systemd,systemd-container,systemd-sysv,tmux"
_TREE = playing.CLONE / ".cache/booted/bookworm"
_CGROUPS = ("systemd", "unified", "memory", "pids", "cpu", "cpuacct", "blkio")
_NAME = f"booted-{os.getpid()}"
_SECONDS = 100

# Mounts are this process' own; TREE WORK are its arguments, and WORK/answer is what it leaves.
_BOOT = f"""\
set -e
mount -t tmpfs none /run
mount -t tmpfs none /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/up,workdir=/mnt/work" none /mnt/root
cp -r "$2/." /mnt/root/opt/
echo booted >/mnt/root/etc/hostname
: >/mnt/root/etc/machine-id
: >/mnt/root/etc/resolv.conf
cp /mnt/root/opt/inside.service /mnt/root/etc/systemd/system/
mkdir -p /mnt/root/etc/systemd/system/multi-user.target.wants
ln -s ../inside.service /mnt/root/etc/systemd/system/multi-user.target.wants/
for each in {" ".join(_CGROUPS)}; do
  [ ! -d /sys/fs/cgroup/$each ] || mkdir -p /sys/fs/cgroup/$each/{_NAME}
  [ ! -d /sys/fs/cgroup/$each ] || echo $$ >/sys/fs/cgroup/$each/{_NAME}/cgroup.procs
done
systemd-nspawn -q -D /mnt/root -M {_NAME} --kill-signal=SIGRTMIN+3 --register=no --keep-unit --private-network \
  --link-journal=no --resolv-conf=off --timezone=off --console=pipe /lib/systemd/systemd </dev/null
cp /mnt/root/opt/answer "$2/answer"
"""
_UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/inside.py
ExecStopPost=/bin/systemctl --no-block exit 0
"""
# An overlay takes no mapping of owners: the registry and the project are on a file system that does.
_INSIDE = """\
import json, os, subprocess, sys, time, traceback
sys.path.insert(0, "/opt/engine")
from claude_sandbox.sandboxes import Request, Sandboxes

PROGRAMS = ("systemd-nspawn", "(sd-stub", "tmux")

def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.stdout + done.stderr

def seen():
    kept = [path for top in ("nspawn", "machines") for path in run("find", f"/run/systemd/{top}", "-type", "f").split()]
    left = run("find", "/run/claude-sandbox", "-mindepth", "1").split() + run("find", "/run/systemd/nspawn").split()
    return {
        "machines": [line.split()[:3] for line in run("machinectl", "list", "--no-legend").splitlines()],
        "scopes": run("systemctl", "list-units", "--no-legend", "--plain", "machine-*.scope").split()[:1],
        "kept": kept,
        "left": left,
        "processes": [name for name in run("ps", "-eo", "comm=").splitlines() if name.startswith(PROGRAMS)],
    }

def ensure(state="started", **params):
    return list(engine.ensure(Request("box", state, params=params or None)).actions)

answer = {}
try:
    run("mount", "-t", "tmpfs", "none", "/srv")
    run("useradd", "--create-home", "agent")
    os.mkdir("/srv/project")
    os.mkdir("/srv/registry")
    run("chown", "agent:", "/srv/project")
    engine = Sandboxes(state_dir="/srv/registry")
    withheld = {name: False for name in ("claude", "git", "ssh", "gh", "display")}
    params = {"project_dir": "/srv/project", "backend": "container", "agent": ["shell"], "grants": withheld}
    answer["started"] = ensure(**params)
    answer["running"] = seen()
    done = engine.execute("box", ["sh", "-c", "touch made; id -un; exit 7"])
    answer["exec"] = [done.code, done.stdout.decode().strip(), os.stat("/srv/project/made").st_uid]
    answer["stopped"] = [ensure("stopped"), seen()]
    ensure()
    (nspawn,) = run("pgrep", "-x", "systemd-nspawn").split()
    os.kill(int(nspawn), 9)
    time.sleep(0.3)
    answer["killed"] = engine.view(engine.registry.resolve("box"))["status"]
    answer["absent"] = [ensure("absent"), seen()]
except BaseException:
    answer["crash"] = traceback.format_exc()
with open("/opt/answer", "w") as file:
    json.dump(answer, file)
"""


def _tree() -> Path:
    """The tree; made under another name first, so that half a tree is never taken for one."""
    _TREE.parent.mkdir(parents=True, exist_ok=True)
    with (_TREE.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _TREE.is_dir():
            draft = _TREE.with_name("draft")
            shutil.rmtree(draft, ignore_errors=True)
            argv = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(draft)]
            with (_TREE.parent / "log").open("w") as log:
                done = subprocess.run(
                    [*argv, *filter(None, [Mirrors.of_this_machine().archive])], stdout=log, stderr=log, check=False
                )
            if done.returncode:
                pytest.skip(f"debootstrap failed: see {_TREE.parent / 'log'}")
            draft.rename(_TREE)
    return _TREE


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    """What was seen on such a host."""
    if not (shutil.which("debootstrap") and shutil.which("systemd-nspawn")):
        pytest.skip("there is no debootstrap, or no systemd-nspawn")
    tree = _tree()
    with tempfile.TemporaryDirectory(prefix="cst-booted-") as temporary:
        work = Path(temporary)
        (work / "inside.py").write_text(_INSIDE, encoding="utf-8")
        (work / "inside.service").write_text(_UNIT, encoding="utf-8")
        engine = playing.CLONE / "plugins/module_utils/claude_sandbox"
        shutil.copytree(engine, work / "engine/claude_sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT, "sh", str(tree), temporary]
        try:
            done = subprocess.run(
                ["timeout", "--kill-after=5", str(_SECONDS), *command], capture_output=True, text=True, check=False
            )
        finally:
            for each in _CGROUPS:
                folder = Path("/sys/fs/cgroup", each, _NAME)
                subprocess.run(["find", str(folder), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], check=False)
        assert (work / "answer").exists(), done.stdout + done.stderr
        found: dict[str, Any] = json.loads((work / "answer").read_text(encoding="utf-8"))
    assert "crash" not in found, found["crash"]
    return found


def test_it_is_registered(answer: dict[str, Any]) -> None:
    assert answer["started"] == ["create", "start"]
    (machine,) = answer["running"]["machines"]
    assert machine[0].startswith("box-")
    assert machine[1:] == ["container", "systemd-nspawn"]
    assert len(answer["running"]["scopes"]) == 1
    assert answer["exec"] == [7, "agent", 1000]


def test_nothing_stays(answer: dict[str, Any]) -> None:
    """Of one that is stopped, and of one that was removed after its systemd-nspawn had been killed."""
    assert answer["killed"] == "dead"
    for actions, seen in (answer["stopped"], answer["absent"]):
        assert actions in (["stop"], ["destroy"])
        assert (seen["machines"], seen["scopes"], seen["processes"]) == ([], [], [])
        assert seen["kept"] == [], actions
        own = [path for path in seen["left"] if path.rpartition("/")[2].startswith(("box-", "inode-", ".#"))]
        assert own == [], actions
