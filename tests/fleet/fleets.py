"""Playbooks on booted hosts."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hosts import Fleet
from tests.integration import playing
from tests.integration.arena import PLAIN

USER = "claude-manager"
STATE_DIR = "/var/lib/claude-manager"
_TIMEOUT = 590  # seconds; a bare host takes two minutes, and longer where others work, too
_RECAP = re.compile(r"^(\S+)\s+: (ok=\d+ .*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a run of ansible-playbook."""

    code: int
    output: str

    def count(self, host: str, what: str) -> int:
        """How many tasks of a host were, by the recap, `changed`, `failed` and so on."""
        recaps = dict(_RECAP.findall(self.output))
        assert host in recaps, self.output
        return int(dict(word.split("=") for word in recaps[host].split())[what])

    def changes(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        return {host: self.count(host, "changed") for host, _counts in _RECAP.findall(self.output)}

    def went_well(self) -> Ran:
        """This, when nothing failed."""
        assert self.code == 0, self.output[-6000:]
        return self


def plain(name: str, **more: Any) -> dict[str, Any]:
    """An entry of claude_sandboxes: a shell that asks for nothing of its account's."""
    return {"name": name, "project_dir": f"/srv/projects/{name}", **PLAIN, **more}


def run(
    hosts: Fleet,
    book: str | list[dict[str, Any]],
    *flags: str,
    inventory: Path | None = None,
    env: Mapping[str, str] | None = None,
    **variables: Any,
) -> Ran:
    """Run one of the playbooks by its name, or plays, on the hosts."""
    with tempfile.TemporaryDirectory(prefix="cst-play-") as temporary:
        path = playing.CLONE / f"playbooks/{book}.yml"
        if not isinstance(book, str):
            path = Path(temporary, "play.json")
            path.write_text(json.dumps(book), encoding="utf-8")
        given = Path(temporary, "variables.json")
        given.write_text(json.dumps(variables), encoding="utf-8")
        argv = ["ansible-playbook", "-i", str(inventory or hosts.inventory), "-e", f"@{given}", *flags, str(path)]
        done = ansible(*argv, env=env or {}, home=temporary)
    return Ran(done.returncode, done.stdout + done.stderr)


def ansible(*argv: str, home: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command of Ansible's, in the clone, without the settings of whoever runs the tests."""
    environment = playing.clean_environment(HOME=home, ANSIBLE_CONFIG=str(playing.CLONE / "ansible.cfg"))
    return subprocess.run(
        [playing.program(argv[0]), *argv[1:]],
        cwd=playing.CLONE,
        env=environment | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )


def there(hosts: Fleet, host: str) -> dict[str, dict[str, Any]]:
    """The sandboxes of the manager's account on a host by their names."""
    with tempfile.TemporaryDirectory(prefix="cst-play-") as temporary:
        module = "claude_code.nix_sandbox.claude_sandbox_info"
        words = ["-m", module, "-b", "--become-user", USER, "-a", f"state_dir={STATE_DIR}"]
        env = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        done = ansible("ansible", "-i", str(hosts.inventory), host, *words, home=temporary, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    views = json.loads(done.stdout.partition("=>")[2])["sandboxes"]
    return {view["name"]: view for view in views}


def statuses(hosts: Fleet, host: str) -> dict[str, str]:
    """The status of each sandbox of a host."""
    return {name: str(view["status"]) for name, view in there(hosts, host).items()}
