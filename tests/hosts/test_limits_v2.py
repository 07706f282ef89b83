"""Limits where cgroup v2 is all there is: an account has them by its own systemd, and root has them for it.

tests/fleet/test_limits.py shows the same where root alone can set them.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.hosts.layout import CHECKOUT
from tests.hosts.machine import Machine, machine
from tests.hosts.trees import OPERATOR

_ENGINE = CHECKOUT / "plugins/module_utils/claude_sandbox"
_ROLE = CHECKOUT / "roles/sandbox/tasks/accounts.yml"
_USER_MANAGER = "user@1000.service"
_PLAIN = "plain"
# The part of the manager's unit that could be in the way.
_HARDENED = ("NoNewPrivileges=yes", "ProtectControlGroups=yes", "ProtectSystem=full", "CapabilityBoundingSet=")
# What each script begins with: an engine, and ways to look at its sandboxes.
_BEGIN = """\
import json, os, pathlib, subprocess, sys, time
sys.path.insert(0, "/opt/engine")
from claude_sandbox import cgroups, procs
from claude_sandbox.errors import SandboxError
from claude_sandbox.sandboxes import Request, Sandboxes

engine = Sandboxes(state_dir="/srv/registry" if os.geteuid() == 0 else None)
PYTHON = "/usr/bin/python3"
WITHHELD = {name: False for name in ("claude", "git", "ssh", "gh", "display")}

def ensure(name, state="started", **params):
    base = {"project_dir": f"/srv/projects/{name}", "agent": ["shell"], "grants": WITHHELD}
    done = engine.ensure(Request(name, state, params={**base, **params} if state != "absent" else None))
    return list(done.actions)

def refused(name, **params):
    try:
        return ensure(name, **params)
    except SandboxError as error:
        return [error.what, error.hint]

def status(name):
    return engine.view(engine.registry.resolve(name))["status"]

def instance(name):
    return engine.registry.resolve(name).instance

def inside(name, *argv, timeout=60):
    done = engine.execute(name, argv, timeout=timeout)
    return [done.code, done.stdout.decode().strip(), done.stderr.decode().strip()[-300:]]

def settings(name):
    init = instance(name).init.pid
    unit = cgroups.unit(init, ".scope")
    files = (("memory", "memory.max"), ("pids", "pids.max"), ("cpu", "cpu.max"))
    return [cgroups.setting(init, unit, *each) for each in files]

def manager(name):
    return instance(name).scope.partition("/")[0]

def say(answer):
    print(json.dumps(answer))
"""
# Takes memory a page at a time, so that it is really there.
_EAT = "import sys; whole = bytearray(int(sys.argv[1]) << 20); whole[::4096] = b'x' * len(whole[::4096]); print('ate')"
# As many processes as it gets, which stay until it has counted them.
_BOMB = """\
import os, signal
made = []
try:
    while len(made) < 150:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
except BlockingIOError:
    pass
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(len(made), flush=True)
"""
_BUSY = """\
import time
end = time.monotonic() + 3
while time.monotonic() < end:
    pass
print(time.process_time())
"""


class Host:
    """The machine, and what runs there."""

    def __init__(self, made: Machine) -> None:
        self.machine = made

    def script(self, body: str, user: str = OPERATOR) -> Any:
        """What a script says last."""
        text = f"{_BEGIN}\n{textwrap.dedent(body)}"
        done = self.machine.ssh("/usr/bin/python3", "-", user=user, input=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def shell(self, text: str) -> str:
        """What a script for sh, as root, prints."""
        done = self.machine.ssh("sh", "-eu", input=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One with the engine, an account that lingers and one that does not, and its user manager as Debian has it."""
    with machine() as made:
        found = Host(made)
        names = ("one", "two", "own", "left")
        # A logged-out account's processes are looked at without ten seconds of waiting.
        found.shell(f"""
            mkdir -p /opt/engine /srv/projects /etc/systemd/logind.conf.d
            useradd --create-home --shell /bin/bash {_PLAIN}
            cp -r ~{OPERATOR}/.ssh ~{_PLAIN}/ && chown -R {_PLAIN}: ~{_PLAIN}/.ssh
            for name in {" ".join(names)}; do install -d -o {OPERATOR} /srv/projects/$name; done
            install -d -o {_PLAIN} /srv/projects/plain
            printf '[Login]\\nUserStopDelaySec=0\\n' >/etc/systemd/logind.conf.d/test.conf
            systemctl restart systemd-logind.service
            loginctl enable-linger {OPERATOR}
            while [ ! -S /run/user/1000/bus ]; do sleep 0.1; done
        """)
        archive = subprocess.run(
            ["tar", "-C", str(_ENGINE.parent), "--exclude=__pycache__", "-c", _ENGINE.name],
            check=True,
            capture_output=True,
        ).stdout
        assert made.ssh("tar", "-x", "-C", "/opt/engine", "--no-same-owner", input=archive).returncode == 0
        # No account may write there, and each script would compile all anew.
        found.shell("python3 -m compileall -q /opt/engine")
        yield found


@pytest.fixture
def cleared(host: Host) -> Iterator[None]:
    """Nothing stays of a test: no sandbox, no scope."""
    yield
    host.script("say([ensure(record.name, 'absent') for record in engine.registry.records()])")
    listed = "list-units --all --plain --no-legend 'claude-sandbox*.scope'"
    assert host.shell(f"systemctl {listed}; systemctl --user --machine={OPERATOR}@.host {listed}").strip() == ""


def test_limits_of_an_account_hit_its_sandbox_alone(host: Host, cleared: None) -> None:
    found = host.script(f"""
        pathlib.Path("/srv/projects/one/bomb.py").write_text({_BOMB!r})
        agent = ["/bin/sh", "-c", "/usr/bin/python3 bomb.py >agents; exec sleep 1000"]
        ensure("one", limits={{"memory": 128, "tasks": 60, "cpus": 0.5}}, agent=agent)
        ensure("two")
        answer = {{"manager": manager("one"), "settings": settings("one"), "neighbour's": settings("two")}}
        agents = pathlib.Path("/srv/projects/one/agents")
        answer["agent's bomb"] = procs.until(lambda: agents.exists() and agents.read_text(), 30, 0.05)
        answer["fits"] = inside("one", PYTHON, "-c", {_EAT!r}, "32")
        answer["too much"] = inside("one", PYTHON, "-c", {_EAT!r}, "256")
        answer["neighbour eats"] = inside("two", PYTHON, "-c", {_EAT!r}, "256")
        answer["bomb"] = inside("one", PYTHON, "-c", {_BOMB!r})
        answer["neighbour's bomb"] = inside("two", PYTHON, "-c", {_BOMB!r})
        answer["busy"] = inside("one", PYTHON, "-c", {_BUSY!r})
        answer["statuses"] = [status("one"), status("two")]
        say(answer)
    """)
    assert found["manager"] == "user"
    assert found["settings"] == [str(128 << 20), "60", "50000 100000"]
    assert found["neighbour's"][0] in ("max", None)
    assert 5 < int(found["agent's bomb"]) < 60
    assert found["fits"][:2] == [0, "ate"]
    assert found["too much"][0] == 137, found
    assert found["neighbour eats"][:2] == [0, "ate"]
    assert 5 < int(found["bomb"][1]) < 60, found
    assert found["neighbour's bomb"][:2] == [0, "150"]
    assert float(found["busy"][1]) < 0.65 * 3, found
    assert found["statuses"] == ["running", "running"]


def test_limits_of_an_account_change_while_it_runs(host: Host, cleared: None) -> None:
    found = host.script("""
        def look():
            return [instance("one").pane.pid, *settings("one")]
        answer = [ensure("one"), look()]
        asked = {"tasks": 70, "memory": 256, "cpus": 1.5}
        answer += [ensure("one", limits=asked), look(), ensure("one", limits=asked)]
        answer += [ensure("one", limits={"tasks": 90}), look()]
        say(answer)
    """)
    made, before, limited, after, again, loosened, at_last = found
    assert made == ["create", "start"]
    assert limited == loosened == ["limit", "update"]
    assert again == []
    assert after == [before[0], str(256 << 20), "70", "150000 100000"]
    assert at_last == [before[0], "max", "90", "max 100000"]


def _drop_in() -> str:
    """What the role sandbox tells systemd of user managers."""
    tasks = yaml.safe_load(_ROLE.read_text())
    (text,) = (
        each["ansible.builtin.copy"]["content"]
        for task in tasks
        for each in task.get("block", ())
        if "ansible.builtin.copy" in each
    )
    return str(text)


def test_what_user_managers_may_limit(host: Host, cleared: None) -> None:
    """As Debian has it all but the disks' weights, and with what the role installs these, too."""
    controllers = f"/sys/fs/cgroup/user.slice/user-1000.slice/{_USER_MANAGER}/cgroup.controllers"
    assert host.shell(f"cat {controllers}").split() == ["cpu", "memory", "pids"]
    asked = 'say(refused("one", limits={"io_weight": 50, "tasks": 70}))'
    lacking = "limits: ops's own systemd has no say over io_weight."
    assert host.script(asked)[0] == lacking
    folder = f"/etc/systemd/system/{_USER_MANAGER.replace('1000', '')}.d"
    host.machine.log_out(OPERATOR)
    host.shell(f"mkdir {folder}; cat >{folder}/claude-sandbox.conf <<'end'\n{_drop_in()}\nend\nsystemctl daemon-reload")
    # It is asked for anew when it starts.
    host.shell(f"systemctl restart {_USER_MANAGER}")
    assert host.shell(f"cat {controllers}").split() == ["cpuset", "cpu", "io", "memory", "pids"]
    assert host.script(asked)[0] == "limits: this host does not keep io_weight."
    host.shell("echo bfq >/sys/block/vda/queue/scheduler")
    assert host.script(asked) == ["create", "start"]
    assert host.script('say(settings("one"))')[1] == "70"


def test_an_account_that_does_not_linger(host: Host) -> None:
    """Its systemd ends at its logout, and all that it has: so no sandbox is put there."""
    limited, made, scope = host.script(
        'say([refused("plain", limits={"tasks": 70}), ensure("plain"), instance("plain").scope])', _PLAIN
    )
    assert limited == [
        "limits need plain's own systemd, and that does not run without a login.",
        "As root: loginctl enable-linger plain",
    ]
    assert (made, scope) == (["create", "start"], "")
    host.machine.log_out(_PLAIN)
    # Its session is over, and its systemd with it, but for what keeps them.
    host.shell(f"""
        while [ "$(loginctl show-user --property=State --value {_PLAIN} 2>&1)" = active ]; do sleep 0.1; done
        while [ "$(systemctl is-active user@$(id -u {_PLAIN}).service)" = deactivating ]; do sleep 0.1; done
    """)
    assert host.script('say([status("plain"), ensure("plain", "absent")])', _PLAIN) == ["running", ["destroy"]]


def _serve(host: Host, body: str) -> str:
    """Run a script as a service of the account, hardened like the manager, until it has said what it says."""
    host.shell(f"cat >/opt/service.py <<'end'\n{_BEGIN}\n{textwrap.dedent(body)}\nend")
    properties = [f"--property={word}" for word in (*_HARDENED, f"User={OPERATOR}", "StandardOutput=file:/opt/said")]
    argv = ["systemd-run", "--quiet", "--unit=maker.service", *properties, "/usr/bin/python3", "/opt/service.py"]
    host.shell(f"rm -f /opt/said; {' '.join(argv)}; systemctl is-active maker.service >/dev/null")
    return host.shell("""
        while [ ! -s /opt/said ] && systemctl is-active --quiet maker.service; do sleep 0.1; done
        cat /opt/said || journalctl --no-pager --unit=maker.service
    """)


def test_a_service_makes_sandboxes_that_outlive_it(host: Host, cleared: None) -> None:
    said = _serve(
        host,
        f"""
        made = ensure("one", limits={{"tasks": 60}})
        # What the service runs inside counts, too.
        bombed = inside("one", PYTHON, "-c", {_BOMB!r})
        where = [cgroups.unit(os.getpid(), ".service"), cgroups.unit(instance("one").init.pid, ".service")]
        print(json.dumps([made, manager("one"), where, bombed]), flush=True)
        time.sleep(1000)
        """,
    )
    made, manager, where, bombed = json.loads(said)
    assert (made, manager) == (["create", "start"], "user")
    assert where == ["maker.service", _USER_MANAGER]
    assert 5 < int(bombed[1]) < 60
    host.shell("systemctl stop maker.service")
    assert host.script('say([status("one"), inside("one", "true")[0]])') == ["running", 0]


def test_root_has_limits_for_an_account(host: Host) -> None:
    found = host.script(
        f"""
        limits = {{"memory": 128, "tasks": 60, "cpus": 0.5}}
        answer = [ensure("own", user="{OPERATOR}", limits=limits), manager("own"), settings("own")]
        answer += [inside("own", PYTHON, "-c", {_EAT!r}, "256")[0], inside("own", PYTHON, "-c", {_BOMB!r})[1]]
        answer += [ensure("own", user="{OPERATOR}", limits={{"tasks": 90}}), settings("own"), ensure("own", "absent")]
        say(answer)
        """,
        "root",
    )
    made, manager, kept, eaten, bombed, changed, loosened, removed = found
    assert (made, manager) == (["create", "start"], "system")
    assert kept == [str(128 << 20), "60", "50000 100000"]
    assert eaten == 137
    assert 5 < int(bombed) < 60
    assert (changed, loosened, removed) == (["limit", "update"], ["max", "90", "max 100000"], ["destroy"])


def test_a_host_with_sandboxes_is_shut_down_soon(host: Host) -> None:
    """The last one: the machine is off after it."""
    ignoring = ["/bin/sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done"]
    host.script(f'say([ensure("one", limits={{"tasks": 60}}), ensure("left", agent={ignoring!r})])')
    began = time.monotonic()
    host.machine.ssh("systemctl", "poweroff")
    # systemd would wait ninety seconds for who does not listen.
    assert host.machine.ended(60), host.machine.console()[-3000:]
    assert time.monotonic() - began < 45
