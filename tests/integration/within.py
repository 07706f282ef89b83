"""Plays on hosts of an inventory, for the plugins: hosts that are sandboxes, and hosts that have some."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration import playing
from tests.integration.playing import Play, Result, Task

_TIMEOUT = 300  # seconds
CONNECTION = "claude_code.nix_sandbox.sandbox"
INVENTORY = "claude_code.nix_sandbox.sandboxes"
# The host of the sandboxes, which is this machine.
HERE: Mapping[str, Any] = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}


def hosts(**variables: Mapping[str, Any]) -> dict[str, Any]:
    """An inventory of these hosts, with their variables."""
    return {"all": {"hosts": {name: dict(each) for name, each in variables.items()}}}


def sandbox(state_dir: Path, name: str = "box", host: str = "here", **more: Any) -> dict[str, Any]:
    """The variables of a sandbox in an inventory."""
    return {
        "ansible_connection": CONNECTION,
        "ansible_sandbox_name": name,
        "ansible_sandbox_host": host,
        "ansible_sandbox_state_dir": str(state_dir),
        "ansible_python_interpreter": "/usr/bin/python3",
        **more,
    }


def task(module: str, **args: Any) -> Task:
    """A task that may fail, or find its host unreachable, without ending the play."""
    return {f"ansible.builtin.{module}": args, "ignore_errors": True, "ignore_unreachable": True}


def raw(command: str) -> Task:
    """A task that runs a command without Python."""
    return {"ansible.builtin.raw": command, "ignore_errors": True, "ignore_unreachable": True}


def run(
    *argv: str, sources: Sequence[Mapping[str, Any] | Path], folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of Ansible's with these inventories; a mapping is written to `folder` first."""
    flags = []
    for number, source in enumerate(sources):
        path = source if isinstance(source, Path) else folder / f"{number}.json"
        if not isinstance(source, Path):
            path.write_text(json.dumps(source), encoding="utf-8")
        flags += ["-i", str(path)]
    environment = playing.clean_environment(
        HOME=str(folder),
        ANSIBLE_CONFIG=str(playing.CLONE / "ansible.cfg"),
        ANSIBLE_HOST_KEY_CHECKING="false",
        **dict(env or {}),
    )
    return subprocess.run(
        [playing.program(argv[0]), *flags, *argv[1:]],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )


def play(
    tasks: Sequence[Task],
    *sources: Mapping[str, Any] | Path,
    on: str = "box",
    env: Mapping[str, str] | None = None,
    play_vars: Mapping[str, Any] | None = None,
) -> Play:
    """Run tasks on one host of these inventories; the result of each."""
    with tempfile.TemporaryDirectory(prefix="cst-within-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)
        book, answers = folder / "play.json", folder / "results"
        head = {"hosts": on, "gather_facts": False, "vars": dict(play_vars or {})}
        book.write_text(json.dumps([{**head, "tasks": list(tasks)}]), encoding="utf-8")
        done = run(
            "ansible-playbook",
            str(book),
            sources=sources,
            folder=folder,
            env={
                "ANSIBLE_CALLBACK_PLUGINS": str(playing.CLONE / "tests/integration/callback"),
                "ANSIBLE_CALLBACKS_ENABLED": "results",
                "CLAUDE_SANDBOX_TEST_RESULTS": str(answers),
                **dict(env or {}),
            },
        )
        output = done.stdout + done.stderr
        assert answers.exists(), output
        results = [Result(json.loads(line)) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(results) == len(tasks), output
    return Play(results, output)


def executable(path: Path, text: str) -> Path:
    """A script at that path."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path
