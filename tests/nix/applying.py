"""Apply a role to hosts of a fleet, and say what it changed there."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.hosts import Fleet
from tests.integration import playing

_SECONDS = 300
_RECAP = re.compile(r"^(\w+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Applied:
    """What ansible-playbook says at its end, for one host."""

    changed: int
    failed: bool
    output: str

    @property
    def error(self) -> str:
        """The message of the task that failed, on one line."""
        found = re.search(r"\[ERROR\]: Task failed: (.*)", self.output)
        assert found, self.output
        return found[1]


def apply(hosts: Fleet, role: str, *flags: str, host: str, user: str = "root", **variables: Any) -> Applied:
    """Run a role of this collection on one host."""
    play = {"hosts": host, "gather_facts": False, "remote_user": user, "vars": variables}
    with tempfile.TemporaryDirectory(prefix="cst-role-") as temporary:
        book = Path(temporary, "play.json")
        book.write_text(json.dumps([{**play, "roles": [f"{playing.COLLECTION}.{role}"]}]), encoding="utf-8")
        done = subprocess.run(
            [playing.program("ansible-playbook"), "--inventory", str(hosts.inventory), "--diff", *flags, str(book)],
            cwd=playing.CLONE,
            env=playing.clean_environment(HOME=temporary, ANSIBLE_CONFIG=str(playing.CLONE / "ansible.cfg")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    output = done.stdout + done.stderr
    found = {name: numbers for name, *numbers in _RECAP.findall(output)}
    assert host in found, output
    changed, unreachable, failed = map(int, found[host])
    assert not unreachable, output
    return Applied(changed, bool(failed), output)


def applied(hosts: Fleet, role: str, *flags: str, host: str, user: str = "root", **variables: Any) -> Applied:
    """The same, where it has to succeed."""
    done = apply(hosts, role, *flags, host=host, user=user, **variables)
    assert not done.failed, done.output
    return done


def said(hosts: Fleet, host: str, *argv: str, user: str = "root") -> str:
    """What a program prints on a host, where it has to succeed."""
    done = hosts.ssh(host, *argv, user=user)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout.strip()
