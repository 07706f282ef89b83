"""Tasks for the modules, run by the real ansible-playbook: many tasks in one run, for a run costs a second."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parents[2]
COLLECTION = "claude_code.nix_sandbox"
_BIN = Path(sys.executable).parent
_TIMEOUT = 180  # seconds; a run of fifty tasks takes twenty

Task = dict[str, Any]


class Result(dict[str, Any]):
    """What a module returned."""

    @property
    def changed(self) -> bool:
        return bool(self.get("changed"))

    @property
    def failed(self) -> bool:
        return bool(self.get("failed"))

    @property
    def message(self) -> str:
        return str(self.get("msg", ""))

    @property
    def sandbox(self) -> dict[str, Any]:
        found = self["sandbox"]
        assert isinstance(found, dict), self
        return found


@dataclasses.dataclass(frozen=True)
class Play:
    """A run of ansible-playbook: the result of each task, and all that was printed."""

    results: list[Result]
    output: str


def task(module: str, *, check: bool = False, **args: Any) -> Task:
    """A task that may fail without ending the play."""
    name = module if "." in module else f"{COLLECTION}.{module}"
    return {name: args, "check_mode": check, "diff": True, "ignore_errors": True}


def quartet(module: str, **args: Any) -> list[Task]:
    """Check mode, a run, the same again, and that in check mode."""
    return [task(module, check=check, **args) for check in (True, False, False, True)]


def assert_quartet(results: Sequence[Result], actions: Sequence[str]) -> Result:
    """That check mode foretold what the run did, and that nothing was left to do; the run's result."""
    predicted, done, again, still = results
    assert not any(result.failed for result in results), results
    assert (predicted.changed, predicted["actions"]) == (True, list(actions)), predicted
    assert (done.changed, done["actions"]) == (True, list(actions)), done
    assert predicted["diff"] == done["diff"]
    for result in (again, still):
        assert (result.changed, result["actions"]) == (False, []), result
        assert result["diff"]["before"] == result["diff"]["after"] == done["diff"]["after"]
    return done


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what would change how Ansible or the engine behaves."""
    dropped = ("ANSIBLE_", "XDG_", "TMUX", "PYTHON", "ANTHROPIC_", "CLAUDE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def program(name: str) -> str:
    """A program of the environment that runs the tests."""
    return str(_BIN / name)


def play(
    tasks: Sequence[Task],
    *flags: str,
    folder: Path = CLONE,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    play_vars: Mapping[str, Any] | None = None,
) -> Play:
    """Run the tasks on this machine; `prefix` is put before ansible-playbook, `folder` is where it runs."""
    with tempfile.TemporaryDirectory(prefix="cst-play-") as temporary:
        # An account that a task becomes has to pass through here to its module.
        Path(temporary).chmod(0o711)
        book, answers = Path(temporary, "play.json"), Path(temporary, "results")
        head = {"hosts": "localhost", "gather_facts": False, "vars": dict(play_vars or {})}
        book.write_text(json.dumps([{**head, "tasks": list(tasks)}]), encoding="utf-8")
        environment = clean_environment(
            HOME=temporary,
            ANSIBLE_CONFIG=str(CLONE / "ansible.cfg"),
            ANSIBLE_CALLBACK_PLUGINS=str(CLONE / "tests/integration/callback"),
            ANSIBLE_CALLBACKS_ENABLED="results",
            ANSIBLE_REMOTE_TEMP=f"{temporary}/remote",
            CLAUDE_SANDBOX_TEST_RESULTS=str(answers),
        )
        done = subprocess.run(
            [*prefix, program("ansible-playbook"), *flags, str(book)],
            cwd=folder,
            env=environment | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
        output = done.stdout + done.stderr
        assert answers.exists(), output
        results = [Result(json.loads(line)) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(results) == len(tasks), output
    return Play(results, output)
