# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The role manager on real hosts: from nothing to a service, through upgrades, good and bad, to nothing again."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.hosts import Fleet, fleet

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "roles/manager/files/release.py"
LOCK = ROOT / "requirements/manager.txt"
UNIT = "claude-sandbox-manager"
TOKEN_FILE = "/etc/claude-sandbox/manager-token"
ATTACH = "/usr/local/libexec/claude-sandbox/attach"
LIB = "/usr/local/lib/claude-sandbox/manager"
OLDER, NEWER = "host1", "host2"  # Debian 12 and 13
# What `systemd-analyze security` may say at most, of 10; see the role's README.
EXPOSURE = 4.6
SECONDS = 900

Variables = Mapping[str, object]

PLAY = """\
- hosts: sandbox_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: claude_code.nix_sandbox.manager
"""
# What the role sandbox brings; here without Claude Code and a browser.
PREPARE = """\
- hosts: sandbox_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.apt:
        name: [bubblewrap, tmux, xvfb, xauth]
        install_recommends: false
        update_cache: true
      environment: "{{ claude_sandbox_install_environment }}"
"""
# Calls the API as root, on the host: METHOD PATH [JSON].
CALL = f"""\
import json, sys, urllib.error, urllib.request
method, path, *body = sys.argv[1:]
token = open("{TOKEN_FILE}").read().strip()
headers = {{"Authorization": "Bearer " + token, "Content-Type": "application/json"}}
url, data = "http://127.0.0.1:3000" + path, body[0].encode() if body else None
asked = urllib.request.Request(url, data, headers, method=method)
try:
    answer = urllib.request.urlopen(asked, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
content = answer.read()
is_json = "json" in answer.headers["Content-Type"]
print(json.dumps([answer.status, json.loads(content) if is_json else len(content)]))
"""
# What takes all it can get, each in a sandbox of its own.
HOGS = {
    "bomb": """
import os, time
made = 0
try:
    while made < 5000:
        if os.fork() == 0:
            time.sleep(8)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
time.sleep(6)
print(made)
""",
    "eater": "whole = bytearray(512 << 20); whole[::4096] = b'x' * len(whole[::4096]); print('ate')",
    "spinner": """
import time
end = time.monotonic() + 8
while time.monotonic() < end:
    pass
print(time.process_time() / 8)
""",
}
LIMITS = {"bomb": {"tasks": 60}, "eater": {"memory": 128}, "spinner": {"cpus": 0.25}}
LIMITED = {
    "hosts": "host1",
    "gather_facts": False,
    "tasks": [
        {
            "ansible.builtin.file": {"path": "/srv/{{ item }}", "state": "directory", "owner": "ops"},
            "loop": list(HOGS),
        },
        {
            "claude_code.nix_sandbox.claude_sandboxes": {
                "state_dir": "/srv/limited",
                "sandboxes": [
                    {
                        "name": name,
                        "project_dir": f"/srv/{name}",
                        "agent": ["shell"],
                        "limits": limits,
                        "grants": {"claude": False, "display": False},
                    }
                    for name, limits in LIMITS.items()
                ],
            }
        },
    ],
}
UNLIMITED = {
    "hosts": "host1",
    "gather_facts": False,
    "tasks": [
        {"claude_code.nix_sandbox.claude_sandboxes": {"state_dir": "/srv/limited", "sandboxes": [], "prune": True}}
    ],
}
VIEWS = """
import json
from claude_sandbox.sandboxes import Sandboxes
print(json.dumps({view["name"]: view["status"] for view in Sandboxes(state_dir="/srv/limited").views()}))
"""
# Has all of them at work at once, and meanwhile asks the manager and works in a sandbox of the manager's.
AT_ONCE = f"""
import json, subprocess, urllib.request
hogs = {HOGS!r}
run = ["claude-sandbox", "exec", "--state-dir"]
at_work = {{
    name: subprocess.Popen([*run, "/srv/limited", name, "--", "python3", "-c", text], stdout=subprocess.PIPE, text=True)
    for name, text in hogs.items()
}}
beside = ["runuser", "-u", "claude-manager", "--", *run, "/var/lib/claude-manager", "neighbour", "--", "true"]
healths, works = [], []
while at_work["spinner"].poll() is None:
    healths.append(urllib.request.urlopen("http://127.0.0.1:3000/healthz", timeout=10).status)
    work = subprocess.run(beside, timeout=20, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    works.append([work.returncode, work.stderr])
ended = {{name: [process.communicate()[0].strip(), process.returncode] for name, process in at_work.items()}}
print(json.dumps([healths, works, ended]))
"""


@dataclasses.dataclass(frozen=True)
class Played:
    """How a play went. changed: what it changed, by host."""

    code: int
    output: str
    changed: dict[str, int]


@dataclasses.dataclass
class Site:
    """The hosts, and what has been said about them."""

    hosts: Fleet
    folder: Path
    wheel: Path
    said: list[str]

    def play(self, *options: str, text: str = PLAY, given: Variables | None = None) -> Played:
        """Run the role (or another play). The variables go by a file, as a vault's would."""
        playbook, variables = self.folder / "play.yml", self.folder / "variables.json"
        playbook.write_text(text)
        variables.write_text(json.dumps({"claude_sandbox_manager_wheel": str(self.wheel), **(given or {})}))
        words = ["ansible-playbook", "-i", str(self.hosts.inventory), "-e", f"@{variables}", *options, str(playbook)]
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.folder / "facts"),
            "ANSIBLE_NOCOLOR": "1",
        }
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(words, cwd=ROOT, env=environ, text=True, check=False, timeout=SECONDS, **pipes)
        output = done.stdout
        self.said.append(output)
        changed = {
            name: int(number) for name, number in re.findall(r"^(host\d)\s.*\schanged=(\d+)", output, re.MULTILINE)
        }
        return Played(done.returncode, output, changed)

    def run(self, name: str, *argv: str, user: str = "root") -> str:
        """What a program prints there; it has to end with 0."""
        done = self.hosts.ssh(name, *argv, user=user)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def call(self, name: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """What the API answers there: status and content."""
        words = [] if body is None else [json.dumps(body)]
        status, content = json.loads(self.run(name, "python3", "-c", CALL, method, path, *words))
        return status, content

    def make(self, name: str, sandbox: str) -> dict[str, Any]:
        """A sandbox with a shell, a display and the network."""
        project = f"/srv/{sandbox}"
        self.run(name, "install", "-d", "-o", "claude-manager", "-g", "claude-manager", project)
        asked = {"name": sandbox, "project_dir": project, "agent": ["sh", "-c", "PS1='box$ ' exec sh"]}
        status, content = self.call(name, "POST", "/api/sandboxes", asked)
        assert (status, content["status"]) == (201, "running"), content
        return dict(content)

    def pids(self, name: str, sandbox: str) -> list[str]:
        """The processes of a sandbox, with the times at which they were started."""
        _status, content = self.call(name, "GET", f"/api/sandboxes/{sandbox}")
        assert content["status"] == "running"
        found = [str(content["pid"]), str(content["pid_xvfb"])]
        return self.run(name, "ps", "-o", "pid=,lstart=,args=", "-p", ",".join(found)).splitlines()

    def current(self, name: str) -> str:
        """The version that is to run there."""
        return self.run(name, "readlink", f"{LIB}/current").strip().rpartition("/")[2]


@pytest.fixture(scope="module")
def bare() -> Iterator[Site]:
    """Hosts on which nothing was done yet."""
    if os.geteuid() != 0:
        pytest.skip("hosts are booted by root alone")
    with tempfile.TemporaryDirectory(prefix="csm-") as folder:
        made = subprocess.run(
            [sys.executable, str(RELEASE)], capture_output=True, text=True, check=True, timeout=SECONDS
        )
        # A copy: whoever works on this clone meanwhile makes other wheels.
        wheel = Path(shutil.copy(json.loads(made.stdout)["wheel"], folder))
        with fleet(count=2, releases=("bookworm", "trixie")) as hosts:
            yield Site(hosts, Path(folder), wheel, [])


@pytest.fixture(scope="module")
def checked(bare: Site) -> tuple[Site, Played]:
    """What check mode says of a bare host."""
    for name in bare.hosts.names:
        bare.run(name, "touch", "/before")
    return bare, bare.play("--check", "--diff")


@pytest.fixture(scope="module")
def site(checked: tuple[Site, Played]) -> Site:
    """Hosts with a manager."""
    made, _said = checked
    prepared = made.play(text=PREPARE)
    assert prepared.code == 0, prepared.output
    played = made.play("--diff")
    assert played.code == 0, played.output
    assert set(played.changed) == {OLDER, NEWER}
    return made


@pytest.fixture(scope="module")
def wheelhouse() -> Path:
    """The wheels of what the manager needs, for Debian 12, where hosts reach no index."""
    folder = ROOT / f".cache/wheelhouse-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    words = ["download", "--quiet", "--require-hashes", "--only-binary", ":all:", "--python-version", "3.11"]
    where = ["--find-links", str(folder), "--requirement", str(LOCK), "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, *where], check=True, timeout=SECONDS)
    return folder


def _other_wheel(wheel: Path, version: str, appended: str = "") -> Path:
    """The wheel as another version, with something behind the app's code."""
    old = wheel.name.split("-")[1]
    made = wheel.with_name(wheel.name.replace(old, version))
    rows = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content, record = source.read(name), name.endswith(".dist-info/RECORD")
            path = name.replace(f"-{old}.dist-info", f"-{version}.dist-info")
            if path.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            if path == "manager_app/app.py":
                content += appended.encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{path},," if record else f"{path},sha256={digest},{len(content)}")
            target.writestr(path, "".join(f"{row}\n" for row in rows) if record else content)
    return made


def test_check_mode_on_a_bare_host(checked: tuple[Site, Played]) -> None:
    """It says what it would do, and does none of it."""
    site, played = checked
    assert played.code == 0, played.output
    assert all(played.changed.values())
    for would in ("python3-venv", "NoNewPrivileges=yes", "Say that it would be started", "claude-sandbox-manager"):
        assert would in played.output, would
    for name in site.hosts.names:
        # What the connection itself leaves, and what hosts write of themselves, aside.
        places = ["/etc", "/usr", "/srv", "/var/lib/claude-manager", "/var/lib/systemd/linger"]
        found = site.hosts.ssh(name, "find", *places, "-newer", "/before", "-not", "-type", "d").stdout.split()
        assert found == []
        assert site.hosts.ssh(name, "id", "claude-manager").returncode != 0


def test_again_it_changes_nothing(site: Site) -> None:
    played = site.play()
    assert (played.code, played.changed) == (0, {OLDER: 0, NEWER: 0}), played.output
    played = site.play("--check", "--limit", NEWER)
    assert (played.code, played.changed) == (0, {NEWER: 0}), played.output


def test_the_service(site: Site) -> None:
    """Its rights, and what others get of it."""
    for name in site.hosts.names:
        assert site.run(name, "stat", "-c", "%U:%G %a", TOKEN_FILE) == "root:claude-operators 640\n"
        assert site.hosts.ssh(name, "cat", TOKEN_FILE, user="ops").returncode != 0
        assert site.run(name, "stat", "-c", "%U %a", "/var/lib/claude-manager") == "claude-manager 700\n"
        said = site.run(name, "systemd-analyze", "security", UNIT, "--no-pager").splitlines()[-1]
        exposure = re.search(r"([0-9.]+) (?:OK|MEDIUM|EXPOSED)", said)
        assert exposure, said
        assert float(exposure[1]) <= EXPOSURE
        shown = site.run(name, "systemctl", "show", UNIT, "--property", "User,NRestarts,UnitFileState,Environment")
        assert {"User=claude-manager", "NRestarts=0", "UnitFileState=enabled"} <= set(shown.splitlines())
        assert (
            site.run(name, "claude-sandbox-manager", "--version", user="ops").strip()
            == site.current(name).split("-")[0]
        )


def test_what_it_forbids_leaves_sandboxes_whole(site: Site) -> None:
    """A sandbox with network and screen under the unit's rules, on either release; it outlives a restart."""
    for name in site.hosts.names:
        made = site.make(name, "one")
        assert made["display_num"] is not None
        status, _picture = site.call(name, "GET", "/api/sandboxes/one/screenshot")
        assert status == 200
        before = site.pids(name, "one")
        assert len(before) == 2
        site.run(name, "systemctl", "restart", UNIT)
        assert _until_it_answers(site, name)
        assert site.pids(name, "one") == before
        assert site.call(name, "POST", "/api/sandboxes/one/stop")[0] == 200


def _until_it_answers(site: Site, name: str) -> bool:
    verify = (ROOT / "roles/manager/files/verify.py").read_text()
    argv = ["python3", "-I", "-", "127.0.0.1:3000", TOKEN_FILE, "30"]
    return site.hosts.ssh(name, *argv, input=verify).returncode == 0


def test_what_a_limited_sandbox_does_is_its_own_trouble(site: Site) -> None:
    """Three that take all they can get, at once: the manager answers, and its sandbox works on."""
    site.make(OLDER, "neighbour")
    made = site.play(text=json.dumps([LIMITED]))
    assert made.code == 0, made.output
    healths, works, ended = json.loads(site.run(OLDER, "python3", "-c", AT_ONCE))
    assert set(healths) == {200}
    assert works
    assert [work for work in works if work != [0, ""]] == []
    made_processes, code = ended["bomb"]
    assert (5 < int(made_processes) < 60, code) == (True, 0), ended
    assert ended["eater"] == ["", 137]
    share, code = ended["spinner"]
    assert (float(share) < 0.45, code) == (True, 0), ended
    listed = json.loads(site.run(OLDER, f"{LIB}/current/bin/python", "-c", VIEWS))
    assert listed == dict.fromkeys(HOGS, "running")
    assert len(site.pids(OLDER, "neighbour")) == 2
    gone = site.play(text=json.dumps([UNLIMITED]))
    assert gone.code == 0, gone.output


def test_an_upgrade(site: Site, wheelhouse: Path) -> None:
    """Another version, from wheels brought along: sandboxes go on, and the one before stays."""
    site.make(OLDER, "kept")
    pids, before = site.pids(OLDER, "kept"), site.current(OLDER)
    wheel = _other_wheel(site.wheel, "0.1.7")
    given = {"claude_sandbox_manager_wheel": str(wheel), "claude_sandbox_manager_wheelhouse": str(wheelhouse)}
    # No proxy: nothing is to be fetched.
    played = site.play("--limit", OLDER, given={**given, "claude_sandbox_install_environment": {}})
    assert played.code == 0, played.output
    assert site.current(OLDER).startswith("0.1.7-")
    assert site.call(OLDER, "GET", "/healthz")[1]["version"] == "0.1.7"
    assert site.pids(OLDER, "kept") == pids
    assert sorted(site.run(OLDER, "ls", LIB).split()) == sorted([before, site.current(OLDER), "current"])


BROKEN_START = "\n\ndef create_app(configuration=None):\n    raise RuntimeError('broken on purpose')\n"
BROKEN_IMPORT = "\n\nraise RuntimeError('broken on purpose')\n"


@pytest.mark.parametrize("version, code", [("0.1.8", BROKEN_START), ("0.1.9", BROKEN_IMPORT)], ids=["start", "import"])
def test_a_version_that_does_not_work(site: Site, wheelhouse: Path, version: str, code: str) -> None:
    """The one before is there again, and the play says why."""
    before, token = site.current(OLDER), site.run(OLDER, "sha256sum", TOKEN_FILE)
    wheel = _other_wheel(site.wheel, version, code)
    given = {
        "claude_sandbox_manager_wheel": str(wheel),
        "claude_sandbox_manager_wheelhouse": str(wheelhouse),
        "claude_sandbox_manager_environment": {"NOTHING": "but another unit"},
        "claude_sandbox_manager_start_seconds": 10,
    }
    played = site.play("--limit", OLDER, given=given)
    assert played.code != 0
    assert "broken on purpose" in played.output
    assert (f"The version before, {before}, runs again" in played.output) == (code == BROKEN_START)
    assert site.current(OLDER) == before
    assert _until_it_answers(site, OLDER)
    assert site.call(OLDER, "GET", "/healthz")[1]["version"] == before.split("-")[0]
    assert "NOTHING" not in site.run(OLDER, "systemctl", "cat", UNIT)
    assert site.run(OLDER, "sha256sum", TOKEN_FILE) == token


@pytest.fixture
def operator(site: Site) -> str:
    """An account that is an operator on either host."""
    for name in site.hosts.names:
        if site.hosts.ssh(name, "id", "olga").returncode:
            site.run(name, "useradd", "--create-home", "--shell", "/bin/bash", "olga")
            site.run(name, "install", "-d", "-m", "700", "-o", "olga", "/home/olga/.ssh")
            keys = ["/root/.ssh/authorized_keys", "/home/olga/.ssh/authorized_keys"]
            site.run(name, "install", "-m", "600", "-o", "olga", *keys)
    played = site.play(given={"claude_sandbox_manager_operators": ["olga"]})
    assert played.code == 0, played.output
    return "olga"


def test_operators(site: Site, operator: str) -> None:
    """They attach, by hand and by claude-remote, and do nothing else as the manager's account."""
    sudo = ["sudo", "-n", "-u", "claude-manager"]
    for name in site.hosts.names:
        site.make(name, "shared")
        attach = " ".join([*sudo, ATTACH, "shared"])
        argv = [*site.hosts.ssh_argv(name, "-tt", user=operator), attach]
        _use(pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=30, dimensions=(24, 80)))
        assert site.hosts.ssh(name, "cat", TOKEN_FILE, user=operator).returncode == 0
        for words in (["id"], ["tmux", "ls"], ["-s"], [ATTACH, "shared", "-x"], [ATTACH, "../shared"], [ATTACH]):
            refused = site.hosts.ssh(name, *sudo, *words, user=operator)
            assert refused.returncode != 0, words
            assert "uid=" not in refused.stdout
        assert site.hosts.ssh(name, "sudo", "-n", ATTACH, "shared", user=operator).returncode != 0
        assert site.hosts.ssh(name, *sudo[:2], "-u", "root", ATTACH, "shared", user=operator).returncode != 0
    with _laptop(site, f"{operator}@{OLDER}") as environ:
        listed = _remote(environ, "list")
        assert "shared" in listed.stdout, listed.stderr
        argv = [sys.executable, "-m", "claude_remote", "attach", "shared"]
        _use(pexpect.spawn(argv[0], argv[1:], encoding="utf-8", timeout=30, env=environ, dimensions=(24, 80)))
        _remote(environ, "disconnect")
    # Whoever is not named any more has lost it.
    played = site.play("--limit", OLDER)
    assert played.code == 0, played.output
    assert site.hosts.ssh(OLDER, *sudo, ATTACH, "shared", user=operator).returncode != 0
    assert site.hosts.ssh(OLDER, "cat", TOKEN_FILE, user=operator).returncode != 0


def _use(terminal: Any) -> None:
    """Type in a sandbox's terminal, try tmux' prompt, and leave."""
    terminal.expect(r"box\$ ")
    terminal.send("echo $((41+1))x\r")
    terminal.expect("42x")
    # The key of the prompt of tmux is none here: the words are the sandbox's shell's.
    terminal.send("\x02:")
    terminal.send("echo a$((1+1))b\r")
    terminal.expect("a2b")
    terminal.send("\x02d")
    terminal.expect("detached")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


@contextlib.contextmanager
def _laptop(site: Site, host: str) -> Iterator[dict[str, str]]:
    """The environment of somebody at another machine, whose ssh leads to the hosts."""
    with tempfile.TemporaryDirectory(prefix="csl-") as home:
        ssh, _option, config, *_more = site.hosts.ssh_argv(OLDER)
        # From the hosts' network, and otherwise as anybody's: what claude-remote leaves running is to go on.
        supervisor = re.search(r"--target (\d+)", Path(ssh).read_text())
        assert supervisor
        own = Path(home) / "ssh"
        own.write_text(f'#!/bin/sh\nexec nsenter --target {supervisor[1]} --net -- /usr/bin/ssh "$@"\n')
        own.chmod(0o755)
        yield {
            "HOME": home,
            "XDG_RUNTIME_DIR": home,
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "PATH": f"{home}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "cli"),
            "CLAUDE_REMOTE_HOST": host,
            "CLAUDE_REMOTE_SSH_OPTS": f"-F {config}",
        }


def _remote(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "claude_remote", *words]
    pipes: Any = {"stdin": subprocess.DEVNULL, "capture_output": True}
    return subprocess.run(argv, env=environ, text=True, check=False, timeout=60, **pipes)


def test_the_token_is_told_to_nobody(site: Site) -> None:
    """One from a vault, written with all that Ansible can say; and the one that the host made."""
    made = site.run(NEWER, "cat", TOKEN_FILE).strip()
    canary = f"canary-{secrets.token_hex(16)}"
    given = {"claude_sandbox_manager_token": canary}
    for options, changes in (("--check",), True), ((), True), ((), False):
        played = site.play("--limit", NEWER, "-vvv", "--diff", *options, given=given)
        assert (played.code, bool(played.changed[NEWER])) == (0, changes), played.output
    assert site.run(NEWER, "cat", TOKEN_FILE) == f"{canary}\n"
    assert site.call(NEWER, "GET", "/api/sandboxes")[0] == 200
    wrong = site.play("--limit", NEWER, "-vvv", given={"claude_sandbox_manager_token": f"{canary} and a blank"})
    assert wrong.code != 0
    assert "claude_sandbox_manager_token has to be" in wrong.output
    journal = site.run(NEWER, "journalctl", "--no-pager", "--output", "verbose")
    assert "ansible" in journal, "the modules' own lines are not there to be looked at"
    shown = site.run(NEWER, "systemctl", "show", UNIT) + site.run(NEWER, "systemctl", "cat", UNIT)
    processes = site.run(NEWER, "sh", "-c", "cat /proc/*/cmdline 2>/dev/null; true")
    facts = "".join(path.read_text() for path in (site.folder / "facts").glob("*"))
    for token in (made, canary):
        for text in (*site.said, journal, shown, processes, facts):
            assert token not in text, text[max(0, text.index(token) - 500) : text.index(token)]
    # The files of Ansible's own on the host are gone with it.
    left = site.hosts.ssh(NEWER, "grep", "-rl", canary, "/root", "/tmp", "/var/tmp", "/var/log", "/home", "/srv")
    assert left.stdout == ""


def test_after_a_reboot(site: Site) -> None:
    """The service is there again, and says of the sandbox that ran that it is dead."""
    site.make(NEWER, "mortal")
    site.hosts.reboot(NEWER)
    assert _until_it_answers(site, NEWER)
    assert site.call(NEWER, "GET", "/api/sandboxes/mortal")[1]["status"] == "dead"
    assert site.call(NEWER, "POST", "/api/sandboxes/mortal/start")[0] == 200
    assert len(site.pids(NEWER, "mortal")) == 2


def test_what_cannot_be_is_refused(site: Site) -> None:
    wrong: Variables = {
        "claude_sandbox_manager_operators": ["nobody-of-that-name"],
        "claude_sandbox_manager_listen": "127.0.0.1:3000\nExecStart=/bin/sh",
        "claude_sandbox_manager_environment": {"A": "b\nExecStart=/bin/sh"},
        "claude_sandbox_manager_python": "/usr/bin/python2.7",
    }
    before = site.run(OLDER, "systemctl", "cat", UNIT)
    played = site.play("--limit", OLDER, given=wrong)
    assert played.code != 0
    for name in ("nobody-of-that-name", "manager_listen", "manager_environment", "manager_python"):
        assert name in played.output, name
    assert site.run(OLDER, "systemctl", "cat", UNIT) == before


def test_absent(site: Site) -> None:
    """All is gone but the account, its registry and its sandboxes; and it comes back."""
    made = site.make(OLDER, "lasting")
    for changed in (True, False):
        played = site.play("--limit", OLDER, given={"claude_sandbox_manager_state": "absent"})
        assert (played.code, bool(played.changed[OLDER])) == (0, changed), played.output
    gone = [LIB, ATTACH, TOKEN_FILE, f"/etc/systemd/system/{UNIT}.service", "/usr/local/bin/claude-sandbox"]
    for path in (*gone, f"/etc/sudoers.d/{UNIT}"):
        assert site.hosts.ssh(OLDER, "test", "-L", path, "-o", "-e", path).returncode == 1, path
    site.run(OLDER, "kill", "-0", str(made["pid"]))
    site.run(OLDER, "test", "-d", "/var/lib/claude-manager/sandboxes/lasting")
