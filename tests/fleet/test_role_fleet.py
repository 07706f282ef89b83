"""The role fleet, on a booted host that has what sandboxes need, and an account for them; no manager."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door
from tests.fleet.fleets import STATE_DIR, USER, Ran, plain, run, statuses, there
from tests.hosts import Fleet, fleet
from tests.integration import playing

PLAY = [{"hosts": "sandbox_hosts", "gather_facts": False, "roles": ["claude_code.nix_sandbox.fleet"]}]
HOST = "host1"
KEY = "canary-key-0123456789-abcdefghijklmnopqrstuvwxyz"
TOKEN = "canary-token-9876543210-zyxwvutsrqponmlkjihgfedcba"
_PREPARE = f"""\
set -eu
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends bubblewrap tmux >/dev/null
useradd --system --user-group --no-create-home --home-dir {STATE_DIR} --shell /usr/sbin/nologin {USER}
install -d -o {USER} -g {USER} -m 0700 {STATE_DIR}
loginctl enable-linger {USER}
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    if os.geteuid() != 0:
        pytest.skip("only root can boot hosts")
    with fleet(count=1, releases=("trixie",)) as made:
        done = made.ssh(HOST, "sh", "-c", _PREPARE)
        assert done.returncode == 0, done.stdout + done.stderr
        yield made


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins without sandboxes."""
    yield
    if "hosts" in request.fixturenames:
        run(request.getfixturevalue("hosts"), "destroy", claude_sandbox_destroy_all=True).went_well()


def _fleet(hosts: Fleet, *sandboxes: Any, flags: tuple[str, ...] = (), **variables: Any) -> Ran:
    return run(hosts, PLAY, *flags, claude_sandboxes=list(sandboxes), **variables)


def test_parameters_are_the_modules() -> None:
    """The role names what a sandbox can have, since it may show no value that it does not know."""
    variables = yaml.safe_load((playing.CLONE / "roles/fleet/vars/main.yml").read_text(encoding="utf-8"))
    assert variables["__fleet_parameters"] == sorted(door.sandbox_options())


def test_converging(hosts: Fleet) -> None:
    """Check mode foretells it, and changes nothing; a second run finds nothing to do."""
    asked = [plain("web"), plain("api", state="stopped")]
    # Stopped from the start, it is not made; so it is made first.
    foretold = _fleet(hosts, plain("web"), plain("api"), flags=("--check", "--diff")).went_well()
    assert foretold.count(HOST, "changed") > 0
    assert "web api" in foretold.output
    assert hosts.ssh(HOST, "ls", "/srv/projects").returncode != 0
    _fleet(hosts, plain("web"), plain("api")).went_well()
    assert statuses(hosts, HOST) == {"web": "running", "api": "running"}
    seen = hosts.ssh(HOST, "stat", "-c", "%U %a", "/srv/projects", "/srv/projects/web").stdout.splitlines()
    assert seen == ["root 755", f"{USER} 755"]
    first = there(hosts, HOST)["web"]["pid"]
    assert _fleet(hosts, *asked).went_well().count(HOST, "changed") == 1
    again = _fleet(hosts, *asked).went_well()
    assert again.count(HOST, "changed") == 0
    assert _fleet(hosts, *asked, flags=("--check",)).went_well().count(HOST, "changed") == 0
    assert statuses(hosts, HOST) == {"web": "running", "api": "stopped"}
    assert there(hosts, HOST)["web"]["pid"] == first
    # By another way to the host: an account with sudo.
    assert _fleet(hosts, *asked, ansible_user="ops").went_well().count(HOST, "changed") == 0


def test_defaults_extra_and_prune(hosts: Fleet) -> None:
    defaults = {"network": False, "env": {"A": "1", "B": "1"}}
    _fleet(
        hosts,
        plain("web", env={"B": "2"}),
        claude_sandboxes_extra=[plain("api", network=True)],
        claude_sandbox_fleet_defaults=defaults,
    ).went_well()
    found = there(hosts, HOST)
    assert (found["web"]["network"], found["web"]["env"]) == (False, {"A": "1", "B": "2"})
    assert (found["api"]["network"], found["api"]["env"]) == (True, {"A": "1", "B": "1"})
    # Defaults are nothing to one that is only named.
    named = {"name": "web", "state": "stopped"}
    _fleet(hosts, named, claude_sandbox_fleet_defaults=defaults).went_well()
    assert statuses(hosts, HOST) == {"web": "stopped", "api": "running"}
    twice = _fleet(hosts, plain("web"), claude_sandboxes_extra=[plain("web")])
    assert twice.code != 0
    assert "is in the list twice" in twice.output
    _fleet(hosts, named, claude_sandbox_fleet_prune=True).went_well()
    assert statuses(hosts, HOST) == {"web": "stopped"}


def test_one_that_fails(hosts: Fleet) -> None:
    """It has its name in one message, and the others are brought to their states."""
    done = _fleet(hosts, plain("web"), plain("bad", geometry="wide"), plain("api"))
    assert done.code != 0
    assert done.count(HOST, "failed") == 1
    assert "1 of 3 sandboxes failed." in done.output
    assert "bad: geometry is" in done.output
    assert "attach_command" not in done.output
    assert statuses(hosts, HOST) == {"web": "running", "api": "running"}


def test_hosts_that_are_not_ready(hosts: Fleet) -> None:
    nobody = _fleet(hosts, plain("web"), claude_sandbox_fleet_user="nobody-there")
    assert nobody.code != 0
    assert "There is no account nobody-there on this host. Run playbooks/provision.yml" in " ".join(
        nobody.output.split()
    )
    check = _fleet(hosts, plain("web"), claude_sandbox_fleet_user="nobody-there", flags=("--check",))
    assert check.went_well().count(HOST, "changed") > 0
    try:
        assert hosts.ssh(HOST, "mv", "/usr/bin/tmux", "/usr/bin/away").returncode == 0
        missing = _fleet(hosts, plain("web"))
    finally:
        hosts.ssh(HOST, "mv", "/usr/bin/away", "/usr/bin/tmux")
    assert missing.code != 0
    assert "This host has no tmux. Run playbooks/provision.yml" in " ".join(missing.output.split())
    # Nothing was begun.
    assert statuses(hosts, HOST) == {}


def test_root_without_sudo(hosts: Fleet) -> None:
    try:
        assert hosts.ssh(HOST, "mv", "/usr/bin/sudo", "/usr/bin/away").returncode == 0
        _fleet(hosts, plain("web")).went_well()
    finally:
        hosts.ssh(HOST, "mv", "/usr/bin/away", "/usr/bin/sudo")
    assert statuses(hosts, HOST) == {"web": "running"}


def test_project_directories(hosts: Fleet) -> None:
    """Those that are there keep their owner; none is made where a link leads, or where others could lay one."""
    script = f"""
set -eu
install -d -o ops -g ops -m 0750 /srv/theirs
install -d -o ops -g ops -m 0755 /srv/ops
install -d -o {USER} -g {USER} -m 0755 /srv/own
ln -s /etc /srv/link
"""
    assert hosts.ssh(HOST, "sh", "-c", script).returncode == 0
    for path, words in (
        ("/srv/link/project", "link is a symbolic link"),
        ("/srv/ops/project", f"{USER} may not write above project"),
        ("/etc/passwd/project", "not a directory"),
        ("/srv/../project", "without '..'"),
    ):
        done = _fleet(hosts, plain("web", project_dir=path))
        assert done.code != 0, path
        assert words in " ".join(done.output.split()), done.output
    assert hosts.ssh(HOST, "ls", "-d", "/etc/project", "/srv/ops/project").stdout == ""
    kept = _fleet(hosts, plain("web", project_dir="/srv/theirs"))
    assert kept.code != 0
    assert f"{USER} cannot read and write project_dir" in " ".join(kept.output.split())
    assert hosts.ssh(HOST, "stat", "-c", "%U %a", "/srv/theirs").stdout.split() == ["ops", "750"]
    _fleet(hosts, plain("web", project_dir="/srv/own/a/b")).went_well()
    assert hosts.ssh(HOST, "stat", "-c", "%U", "/srv/own/a", "/srv/own/a/b").stdout.split() == [USER, USER]
    missing = _fleet(hosts, plain("api", project_dir="/srv/none"), claude_sandbox_fleet_create_projects=False)
    assert missing.code != 0
    assert "/srv/none" in missing.output


# --- Secrets ----------------------------------------------------------------------------------------------------------


def _mentions(text: str) -> list[str]:
    return [word for word in (KEY, TOKEN) if word in text or word[-20:] in text or word[:16] in text]


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Look at the command lines of all processes, those of the hosts among them, as long as this lasts."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    text = path.read_bytes().decode("latin-1")
                    found.extend([text] if _mentions(text) else [])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _vault(folder: Path, hosts: Fleet, **variables: Any) -> list[str]:
    """An inventory whose group variables are encrypted; the words that read it."""
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text(hosts.inventory.read_text(encoding="utf-8"), encoding="utf-8")
    path, password = folder / "group_vars/sandbox_hosts.yml", folder.parent / "password"
    path.write_text(yaml.safe_dump(variables), encoding="utf-8")
    password.write_text("of-the-vault\n", encoding="utf-8")
    words = ["--vault-password-file", str(password)]
    subprocess.run([playing.program("ansible-vault"), "encrypt", *words, str(path)], check=True, capture_output=True)
    assert _mentions(path.read_text(encoding="utf-8")) == []
    return words


def _secret(name: str = "web", **more: Any) -> dict[str, Any]:
    return plain(name, api_key=KEY, secret_env={"TOKEN": TOKEN}, **more)


# Each with what the run says of it, nothing where it goes well.
_CASES: dict[str, tuple[Any, str]] = {
    "run": ([_secret()], ""),
    "again": ([_secret()], ""),
    "refused": ([_secret(network=False)], "exists with other settings"),
    "bad": ([_secret("bad", geometry="wide")], "geometry is"),
    "no_agent": ([_secret("none", agent=["/no/such/program"])], "/no/such/program"),
    "no_project": ([_secret("lost", project_dir="/proc/none")], "/proc/none"),
    "misspelt": ([plain("web", apikey=KEY)], "parameters that there are not: apikey"),
    "text_for_mapping": ([plain("web", secret_env=f"TOKEN {TOKEN}")], "secret_env"),
    "bad_name": ([plain("web", secret_env={"A B": TOKEN})], "no name for a variable"),
    "bad_value": ([plain("web", secret_env={"A": [TOKEN]})], "must be text"),
    "mapping_for_text": ([plain("key", api_key={"key": KEY})], ""),
    "text_for_sandbox": ([f"name=web api_key={KEY}"], "a mapping of parameters, and one is not"),
    "list_for_sandbox": ([["web", KEY]], "claude_sandboxes"),
    "mapping_for_list": ({"web": {"api_key": KEY}}, "claude_sandboxes"),
    "text_for_list": (f"web {KEY}", "claude_sandboxes"),
}


def _case(name: str) -> dict[str, Any]:
    role = {"ansible.builtin.include_role": {"name": "claude_code.nix_sandbox.fleet"}}
    return {
        "block": [{**role, "vars": {"claude_sandboxes": f"{{{{ cases['{name}'] }}}}"}}],
        "rescue": [{"ansible.builtin.debug": {"msg": f"{name} failed"}}],
    }


def test_secrets(hosts: Fleet, tmp_path: Path) -> None:
    """No output, log, fact, journal or command line has them, and no file but the one that is the account's alone."""
    env = {
        "ANSIBLE_LOG_PATH": str(tmp_path / "log"),
        "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "cache"),
        "ANSIBLE_RETRY_FILES_ENABLED": "1",
        "ANSIBLE_RETRY_FILES_SAVE_PATH": str(tmp_path / "retry"),
        # The role does not count on it.
        "ANSIBLE_PIPELINING": "0",
    }
    defaults = {"secret_env": {"OTHER": TOKEN}}
    asked = {name: sandboxes for name, (sandboxes, _words) in _CASES.items()}
    vault = _vault(tmp_path / "inventory", hosts, cases=asked, claude_sandbox_fleet_defaults=defaults)
    play = {"hosts": "sandbox_hosts", "gather_facts": True, "tasks": [_case(name) for name in _CASES]}
    leaks, said = [], ""
    with _watched() as seen:
        where = tmp_path / "inventory/hosts.yml"
        for flags in (["--check"], []):
            done = run(hosts, [play], "-vvv", "--diff", *flags, *vault, inventory=where, env=env).went_well()
            leaks += [line for line in done.output.splitlines() if _mentions(line)]
            said = " ".join(done.output.split())
    for name, (_sandboxes, words) in _CASES.items():
        assert (f"{name} failed" in said) == bool(words), f"{name}: {said}"
        assert words in said, name
    assert leaks == []
    assert seen == []
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        assert _mentions(path.read_text(encoding="utf-8")) == [], path
    journal = hosts.ssh(HOST, "journalctl", "--no-pager", "--output", "export").stdout
    assert "ansible" in journal
    assert _mentions(journal) == []
    places = [STATE_DIR, "/etc", "/home", "/root", "/run/claude-sandbox", "/srv", "/tmp", "/var/tmp"]
    looked = hosts.ssh(HOST, "grep", "--recursive", "-lFf", "-", *places, input=f"{KEY[:16]}\n{TOKEN[:16]}\n")
    files = [path for path in looked.stdout.splitlines() if not path.endswith("data/secrets.json")]
    # The control: it is in there.
    assert f"{STATE_DIR}/sandboxes/web/data/secrets.json" in looked.stdout
    assert files == []
