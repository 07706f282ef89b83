# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Twenty sandboxes on each of three hosts over SSH, from nothing and again; and what many hosts cost the controller."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.hosts import Fleet, fleet

from . import place
from .figure import Figure

HOSTS, SANDBOXES = 3, 20
MANY_HOSTS, FORKS = 50, 20
NEW_LIMIT = 0.5
AGAIN_LIMIT = 0.02
CONTROLLER_LIMIT = 1.5
_AGAIN = 5
_SECONDS = 300
_CLONE = pathlib.Path(__file__).resolve().parents[1]
_COLLECTION = "claude_code.nix_sandbox"
_STATE = "/srv/registry"
_PACKAGES = ["bubblewrap", "tmux", "xvfb", "xauth"]
_PROXY = "{{ claude_sandbox_install_environment | default({}) }}"

Task = dict[str, Any]


def measure(where: place.Place) -> Iterator[Figure]:
    """The cost of a sandbox against that of one call of a module; and of a host, against a call that does nothing."""
    with fleet(count=HOSTS) as hosts:
        run = _Run(where, hosts)
        run.play([_installed(), _projects()])
        spans = run.play([*_calls(), _converged("new"), *(_converged("again") for _round in range(_AGAIN))])
        call, new, again = (statistics.median(spans[name]) for name in ("call", "new", "again"))
        shown = f"{HOSTS} hosts: a call {call:.2f} s, {SANDBOXES} sandboxes each new {new:.2f} s, again {again:.2f} s"
        yield Figure("fleet-new", (new - call) / SANDBOXES / call, NEW_LIMIT, (shown,))
        yield Figure("fleet-again", max(again - call, 0) / SANDBOXES / call, AGAIN_LIMIT, (shown,))
        yield _controller(run)
        run.play(
            [{"name": "end", f"{_COLLECTION}.claude_sandboxes": {"state_dir": _STATE, "sandboxes": [], "prune": True}}]
        )


def _controller(run: _Run) -> Figure:
    """What 50 hosts cost the controller, which are these three under many names."""
    names = {f"n{number}": f"host{number % HOSTS + 1}" for number in range(MANY_HOSTS)}
    nothing = {"name": "ping", "ansible.builtin.ping": {}}
    # A run has its own beginning: that of one with two tasks less that of one with one is a task.
    once, twice, converged = (
        run.processor_seconds(tasks, names) for tasks in ([nothing], [nothing] * 2, [nothing, _converged("again")])
    )
    ping, ours = twice - once, converged - once
    shown = (
        f"{MANY_HOSTS} hosts, {FORKS} forks: {ours / MANY_HOSTS * 1000:.0f} ms of processor a host, "
        f"ping {ping / MANY_HOSTS * 1000:.0f} ms, the run itself {once - ping:.1f} s"
    )
    return Figure("fleet-controller", ours / ping, CONTROLLER_LIMIT, (shown,))


class _Run:
    """Plays on the hosts."""

    def __init__(self, where: place.Place, hosts: Fleet) -> None:
        self._folder = pathlib.Path(where.folder, "fleet")
        self._folder.mkdir()
        self._hosts = hosts

    def play(self, tasks: Sequence[Task]) -> Mapping[str, list[float]]:
        """Seconds that each task took on all hosts, by its name."""
        path = self._folder / "spans"
        path.unlink(missing_ok=True)
        self._run(tasks, [], CLAUDE_SANDBOX_BENCH_SPANS=str(path), ANSIBLE_CALLBACKS_ENABLED="spans")
        found: dict[str, list[float]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            span = json.loads(line)
            found[span["task"]].append(span["seconds"])
        return found

    def processor_seconds(self, tasks: Sequence[Task], names: Mapping[str, str]) -> float:
        """Processor time on the controller of a run over hosts under many names."""
        own = subprocess.run(
            [_program("ansible-inventory"), "-i", str(self._hosts.inventory), "--list"],
            check=True,
            capture_output=True,
            env=self._environment({}),
        )
        variables = json.loads(own.stdout)["_meta"]["hostvars"]
        many = {"all": {"hosts": {name: variables[host] for name, host in names.items()}}}
        inventory = self._folder / "many.json"
        inventory.write_text(json.dumps(many), encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(tasks, ["-i", str(inventory), "--forks", str(FORKS)])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _run(self, tasks: Sequence[Task], flags: Sequence[str], **more: str) -> None:
        book = self._folder / "play.json"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]), encoding="utf-8")
        where = flags or ["-i", str(self._hosts.inventory)]
        done = subprocess.run(
            [_program("ansible-playbook"), *where, str(book)],
            env=self._environment(more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        own = {
            "ANSIBLE_CONFIG": str(_CLONE / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(_CLONE / "bench/callback"),
        }
        return {**kept, **own, **more}


def _program(name: str) -> str:
    return str(pathlib.Path(sys.executable).parent / name)


def _installed() -> Task:
    wanted = {"name": _PACKAGES, "update_cache": True, "install_recommends": False}
    return {"name": "install", "environment": _PROXY, "ansible.builtin.apt": wanted}


def _project(number: int) -> str:
    return f"/srv/projects/n{number}"


def _projects() -> Task:
    made = {"path": "{{ item }}", "state": "directory", "owner": "ops"}
    return {"name": "projects", "ansible.builtin.file": made, "loop": [_project(each) for each in range(SANDBOXES)]}


def _calls() -> list[Task]:
    look = {"state_dir": _STATE, "name": []}
    return [{"name": "call", f"{_COLLECTION}.claude_sandbox_info": look} for _round in range(_AGAIN + 1)]


def _converged(name: str) -> Task:
    asked = [{"name": f"n{each}", "project_dir": _project(each), "agent": ["sleep", "1d"]} for each in range(SANDBOXES)]
    return {"name": name, f"{_COLLECTION}.claude_sandboxes": {"state_dir": _STATE, "sandboxes": asked}}
