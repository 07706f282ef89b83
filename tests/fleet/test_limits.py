"""Limits on hosts that systemd has booted: they hit the sandbox alone, and a restart of whoever made it does not."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import Fleet, fleet
from tests.integration import playing

pytestmark = pytest.mark.usefixtures("as_root")

_PACKAGES = ("bubblewrap", "tmux", "systemd-container")
_ENGINE = playing.CLONE / "plugins/module_utils/claude_sandbox"
_SECONDS = 120
# What each script begins with: an engine on a registry of its own, and sandboxes of the account `ops`.
_BEGIN = """\
import json, os, pathlib, subprocess, sys, time
sys.path.insert(0, "/opt/engine")
from claude_sandbox import cgroups, procs
from claude_sandbox.errors import SandboxError
from claude_sandbox.sandboxes import Request, Sandboxes

STATE = "/srv/registry" if os.geteuid() == 0 else None
engine = Sandboxes(state_dir=STATE)
WITHHELD = {name: False for name in ("claude", "git", "ssh", "gh", "display")}

def ensure(name, state="started", backend="bubblewrap", **params):
    folder = f"/srv/projects/{name}"
    base = {"project_dir": folder, "backend": backend, "agent": ["shell"], "grants": WITHHELD}
    done = engine.ensure(Request(name, state, params={**base, **params} if state != "absent" else None))
    return list(done.actions)

def view(name):
    return engine.view(engine.registry.resolve(name))

def instance(name):
    return engine.registry.resolve(name).instance

def inside(name, *argv, timeout=30):
    done = engine.execute(name, argv, timeout=timeout)
    return [done.code, done.stdout.decode().strip(), done.stderr.decode().strip()[-300:]]

def setting(name, controller, file):
    init = instance(name).init.pid
    return cgroups.setting(init, cgroups.unit(init, ".scope"), controller, file)

def say(answer):
    print(json.dumps(answer))
"""
# Takes memory a page at a time, so that it is really there.
_EAT = "import sys; whole = bytearray(int(sys.argv[1]) << 20); whole[::4096] = b'x' * len(whole[::4096]); print('ate')"
# As many processes as it gets, which stay a while.
_BOMB = """\
import os, time
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made)
"""


class Host:
    """One of the hosts, and what runs there."""

    def __init__(self, hosts: Fleet, name: str) -> None:
        self.hosts = hosts
        self.name = name

    def script(self, body: str, user: str = "root") -> Any:
        """What a script says last."""
        text = f"{_BEGIN}\n{textwrap.dedent(body)}"
        done = self.hosts.ssh(self.name, "python3", "-", user=user, input=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def shell(self, text: str) -> str:
        """What a script for sh, as root, prints."""
        done = self.hosts.ssh(self.name, "sh", "-eu", input=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with the engine and what bubblewrap and containers need."""
    with fleet(count=1, releases=(request.param,)) as hosts:
        made = Host(hosts, hosts.names[0])
        made.shell(f"apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y {' '.join(_PACKAGES)}")
        made.shell("mkdir -p /opt/engine /srv/projects; chmod 755 /opt/engine")
        archive = subprocess.run(
            ["tar", "-C", str(_ENGINE.parent), "--exclude=__pycache__", "-c", _ENGINE.name],
            check=True,
            capture_output=True,
        ).stdout
        _unpack(made, archive)
        for name in ("one", "two", "three", "own"):
            made.shell(f"install -d -o ops -g ops /srv/projects/{name}")
        yield made


def _unpack(host: Host, archive: bytes) -> None:
    import base64

    text = base64.b64encode(archive).decode()
    done = host.hosts.ssh(host.name, "sh", "-c", "base64 -d | tar -x -C /opt/engine", input=text)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def cleared(host: Host) -> Iterator[None]:
    """Nothing stays of a test: no sandbox, no scope, no process."""
    yield
    host.script("say([ensure(record.name, 'absent') for record in engine.registry.records()])")
    left = host.shell("systemctl list-units --all --plain --no-legend 'claude-sandbox*.scope' 'machine-*.scope'")
    assert left.strip() == ""


def test_each_has_a_scope_apart_from_who_made_it(host: Host) -> None:
    found = host.script("""
        ensure("one"), ensure("two")
        members = [instance("one").server, instance("one").pane, instance("one").init]
        say([view("one")["scope"], view("two")["scope"], [cgroups.unit(each.pid, ".scope") for each in members]])
    """)
    one, two, units = found
    assert one.startswith("claude-sandbox-")
    assert one != two
    assert units == [one] * 3
    # The connection by which it was made is over, and what ran there with it.
    assert host.script('say([view("one")["status"], inside("one", "true")[0]])') == ["running", 0]
    shown = host.shell(f"systemctl show --property=Slice,ActiveState,TimeoutStopUSec {one}").split()
    assert sorted(shown) == ["ActiveState=active", "Slice=claude_sandbox.slice", "TimeoutStopUSec=10s"]


@pytest.mark.parametrize("backend", ["bubblewrap", "container"])
def test_limits_hit_the_sandbox_alone(host: Host, backend: str) -> None:
    found = host.script(f"""
        limits = {{"memory": 128, "tasks": 60, "cpus": 0.25}}
        ensure("one", backend={backend!r}, limits=limits)
        ensure("two", backend={backend!r})
        python = "/usr/bin/python3"
        answer = {{}}
        answer["fits"] = inside("one", python, "-c", {_EAT!r}, "32")
        answer["too much"] = inside("one", python, "-c", {_EAT!r}, "256")
        answer["neighbour eats"] = inside("two", python, "-c", {_EAT!r}, "256")
        answer["bomb"] = inside("one", python, "-c", {_BOMB!r})
        answer["neighbour forks"] = inside("two", "sh", "-c", "for i in $(seq 200); do sleep 1 & done; wait; echo ok")
        begin = time.monotonic()
        answer["busy"] = inside("one", python, "-c",
            "import time; e = time.monotonic() + 4\\nwhile time.monotonic() < e: pass\\nprint(time.process_time())")
        answer["statuses"] = [view("one")["status"], view("two")["status"]]
        say(answer)
    """)
    assert found["fits"][:2] == [0, "ate"]
    assert found["too much"][0] == 137, found
    assert found["neighbour eats"][:2] == [0, "ate"]
    assert 5 < int(found["bomb"][1]) < 60
    assert found["neighbour forks"][:2] == [0, "ok"]
    assert float(found["busy"][1]) < 0.45 * 4, found
    assert found["statuses"] == ["running", "running"]


@pytest.mark.parametrize("backend", ["bubblewrap", "container"])
def test_limits_change_while_it_runs(host: Host, backend: str) -> None:
    found = host.script(f"""
        def look():
            return [instance("one").pane.pid, setting("one", "pids", "pids.max"),
                    setting("one", "memory", "memory.limit_in_bytes")]
        answer = [ensure("one", backend={backend!r}), look()]
        answer += [ensure("one", backend={backend!r}, limits={{"tasks": 70, "memory": 256}}), look()]
        answer += [ensure("one", backend={backend!r}, limits={{"tasks": 70, "memory": 256}})]
        answer += [ensure("one", backend={backend!r}, limits={{"tasks": 90}}), look()]
        say(answer)
    """)
    made, before, limited, after, again, loosened, at_last = found
    assert made == ["create", "start"]
    assert limited == loosened == ["limit", "update"]
    assert again == []
    assert after[:2] == [before[0], "70"]
    assert int(after[2]) == 256 << 20
    assert at_last[:2] == [before[0], "90"]
    assert int(at_last[2]) > 1 << 50


def test_what_cannot_be_kept_is_an_error(host: Host) -> None:
    """These hosts have no weights for their disks."""
    found = host.script("""
        answer = []
        for before in (False, True):
            if before:
                ensure("one", limits={"tasks": 70})
            try:
                answer.append(ensure("one", limits={"io_weight": 50, "tasks": 80}))
            except SandboxError as error:
                answer.append(error.what)
        answer.append([view("one")["limits"]["tasks"], setting("one", "pids", "pids.max"), len(engine.views())])
        say(answer)
    """)
    assert found[0] == found[1] == "limits: this host does not keep io_weight."
    # What it had before is in force again.
    assert found[2] == [70, "70", 1]


def test_an_account_has_a_scope_with_its_own_systemd(host: Host) -> None:
    host.shell("loginctl enable-linger ops; while [ ! -S /run/user/$(id -u ops)/bus ]; do sleep 0.1; done")
    found = host.script(
        """
        answer = [ensure("own"), instance("own").scope.partition("/")[0]]
        answer.append(cgroups.unit(instance("own").pane.pid, ".scope") == view("own")["scope"])
        answer.append(cgroups.unit(instance("own").pane.pid, ".service"))
        try:
            ensure("own", "started", limits={"tasks": 80})
        except SandboxError as error:
            answer.append(error.what)
        answer.append(ensure("own", "absent"))
        say(answer)
        """,
        user="ops",
    )
    assert found[:3] == [["create", "start"], "user", True]
    assert found[3] == f"user@{host.shell('id -u ops').strip()}.service"
    assert found[4] == "limits: ops's own systemd has no say over tasks."
    assert found[5] == ["destroy"]


def test_an_account_has_limits_by_the_helper(host: Host) -> None:
    """Where its own systemd has no say: the same that lets it have containers."""
    host.script("""
        # As it is where Ansible or a wheel has put it.
        pathlib.Path("/opt/engine/claude_sandbox/backends/__init__.py").touch()
        from claude_sandbox import installation
        subprocess.run(["useradd", "--create-home", "plain"], check=True)
        subprocess.run(["install", "-d", "-o", "plain", "/srv/projects/plain"], check=True)
        installation.apply(installation.files())
        rule = "plain ALL=(root) NOPASSWD: /usr/local/libexec/claude-sandbox/container-helper\\n"
        pathlib.Path("/etc/sudoers.d/plain").write_text(rule)
        say([])
    """)
    body = f"""
        limits = {{"memory": 128, "tasks": 60}}
        answer = [ensure("plain", limits=limits), instance("plain").scope.partition("/")[0]]
        answer += [inside("plain", "python3", "-c", {_EAT!r}, "256")[0], inside("plain", "python3", "-c", {_BOMB!r})[1]]
        answer += [ensure("plain", limits={{"tasks": 90}}), setting("plain", "pids", "pids.max")]
        answer += [ensure("plain", "absent")]
        say(answer)
    """
    done = host.hosts.ssh(
        host.name,
        *("runuser", "-u", "plain", "--", "env", "HOME=/home/plain", "python3", "-"),
        input=f"{_BEGIN}\n{textwrap.dedent(body)}",
    )
    assert done.returncode == 0, done.stderr
    made, manager, eaten, bombed, changed, tasks, removed = json.loads(done.stdout.splitlines()[-1])
    assert (made, manager) == (["create", "start"], "system")
    assert eaten == 137
    assert 5 < int(bombed) < 60
    assert (changed, tasks, removed) == (["limit", "update"], "90", ["destroy"])


def test_root_limits_nobody_but_who_asks(host: Host) -> None:
    """What a hostile account can ask of root: to put others' processes into a scope, or its own where it likes."""
    found = host.script("""
        from claude_sandbox import privileged, scope
        from claude_sandbox.host import account
        ops = account("ops")
        ensure("one")
        roots = subprocess.Popen(["sleep", "100"])
        theirs = subprocess.Popen(["runuser", "-u", "nobody", "--", "sleep", "100"])
        procs.until(lambda: procs.children(theirs.pid), 5)
        answer, identity = [], "0123456789ab"

        def asked(operation, **content):
            handlers = scope.handlers(ops)
            try:
                privileged.serving(ops, handlers, lambda: privileged.ask(operation, content))
                return "done"
            except SandboxError as error:
                return error.what

        def of(pid):
            return dict(procs.identify(pid).__dict__)

        pane = dict(instance("one").pane.__dict__)
        for pid in (1, roots.pid, procs.children(theirs.pid)[0].pid):
            answer.append(asked("scope", id=identity, limits={"tasks": 20}, processes=[of(pid)], machine=""))
            answer.append(asked("join", process=of(pid), member=pane))
        for bad in ("../x", "0123456789ab.scope", "init", "", None, 5, "0123456789ab\\n"):
            answer.append(asked("scope", id=bad, limits={}, processes=[pane], machine=""))
        for limits in ({"tasks": -1}, {"tasks": "1"}, {"Slice": 1}, {"memory": 1e300}, {"tasks": True}, [1]):
            answer.append(asked("scope", id=identity, limits=limits, processes=[pane], machine=""))
        answer.append(asked("limit", id=identity, limits={"tasks": 20}, processes=[], machine="../../init"))
        answer.append(asked("join", process=pane, member=dict(procs.identify(os.getpid()).__dict__)))
        left = cgroups.unit(roots.pid, ".scope"), cgroups.unit(1, ".scope"), instance("one").pane.alive()
        roots.kill(), theirs.kill()
        say([answer, left])
    """)
    answers, (roots, first, alive) = found
    assert "done" not in answers
    assert [words for words in answers if words.endswith(" is not ops's.")] == [*answers[0:6], answers[-1]]
    assert not str(roots).startswith("claude-sandbox-")
    assert first == "init.scope"
    assert alive
