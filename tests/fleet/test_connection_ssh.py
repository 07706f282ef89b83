"""The plugins over real SSH: two booted hosts, and a sandbox on each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Fleet, fleet
from tests.integration import within
from tests.integration.arena import PLAIN
from tests.integration.within import raw, task

_INSTALL = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
# What becomes another account there; nothing is written for it where modules go through a pipe.
_AS_WORKER = {"ansible_become": True, "ansible_become_method": "su", "ansible_become_user": "worker"}


@pytest.fixture(scope="module")
def hosts() -> Iterator[Fleet]:
    """Two hosts with an account that has a sandbox, made by root on the first and by itself on the second."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot hosts")
    with fleet(2) as made:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: _prepare(made, name), made.names))
        yield made


def _prepare(made: Fleet, name: str) -> None:
    done = made.ssh(name, "sh", "-c", f"{_INSTALL} bubblewrap tmux && useradd -m worker", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sources(hosts: Fleet, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The inventory of the hosts, then that of their sandboxes, which are started."""
    folder = tmp_path_factory.mktemp("fleet")
    second = folder / "second.yml"
    variables = {**_AS_WORKER, "ansible_sandbox_become_user": "worker"}
    second.write_text(json.dumps({"all": {"hosts": {"host2": variables}}}), encoding="utf-8")
    source = folder / "my.sandboxes.yml"
    options: dict[str, Any] = {
        "plugin": within.INVENTORY,
        "hosts": ["sandbox_hosts"],
        "compose": {"ansible_python_interpreter": "'/usr/bin/python3'", "ansible_become": "false"},
    }
    source.write_text(json.dumps(options), encoding="utf-8")
    found = [hosts.inventory, second]
    given = {"name": "box", "project_dir": "/home/worker/project", **PLAIN}
    for name in hosts.names:
        assert hosts.ssh(name, "install", "-d", "-o", "worker", "-g", "worker", given["project_dir"]).returncode == 0
    module = ["-m", "claude_code.nix_sandbox.claude_sandbox", "-a", json.dumps(given)]
    done = within.run("ansible", "sandbox_hosts", *module, sources=found, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return [*found, source]


def test_every_sandbox_is_found_and_entered(sources: list[Path], tmp_path: Path) -> None:
    """Root's registry on one host, and the account's own on the other."""
    done = within.run("ansible-inventory", "--list", sources=sources, folder=tmp_path)
    found = json.loads(done.stdout)
    assert found["sandbox_status_running"]["hosts"] == ["box@host1", "box@host2"], done.stderr
    words = ["-m", "ansible.builtin.command", "-a", "id -un"]
    done = within.run("ansible", "sandbox_status_running", *words, sources=sources, folder=tmp_path)
    assert (done.returncode, done.stdout.count("worker")) == (0, 2), done.stdout + done.stderr


@pytest.mark.parametrize("name", ["box@host1", "box@host2"])
@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_streams_codes_and_files(sources: list[Path], tmp_path: Path, name: str, pipelining: str) -> None:
    """An exit code that ssh has for itself, signals, bytes of all kinds, and files in several pieces."""
    content = bytes(range(256)) * 36_000
    (tmp_path / "it's ü").write_bytes(content)
    target = "/home/worker/project/a b'\"$(id) ü"
    tasks = [
        task("ping"),
        raw("echo ü; echo error >&2; exit 255"),
        raw("kill -9 $$"),
        raw("printf 'a\\0\\377b' | od -An -tx1"),
        task("copy", src=str(tmp_path / "it's ü"), dest=target),
        task("fetch", src=target, dest=f"{tmp_path}/back", flat=True),
        task("setup", gather_subset=["min"]),
        {**raw("sleep 98762"), "timeout": 3},
    ]
    found = within.play(tasks, *sources, on=name, env={"ANSIBLE_PIPELINING": pipelining})
    ping, spoke, killed, odd, copied, fetched, facts, late = found.results
    assert ping.get("ping") == "pong", found.output
    assert (spoke["rc"], spoke["stdout"], spoke["stderr"]) == (255, "ü\n", "error\n")
    assert killed["rc"] == 137
    assert odd["stdout"].split() == ["61", "00", "ff", "62"]
    assert not copied.failed, copied
    assert not fetched.failed, fetched
    assert (tmp_path / "back").read_bytes() == content
    assert facts["ansible_facts"]["ansible_user_id"] == "worker"
    assert late.failed
    # Whoever waited is gone, and so is what was waited for.
    until_gone = raw("timeout 20 sh -c 'while pgrep -f \"sleep 9876[2]\"; do sleep 0.1; done'")
    (left,) = within.play([until_gone], *sources, on=name).results
    assert left["rc"] == 0, left


def test_a_host_that_is_gone(sources: list[Path], tmp_path: Path) -> None:
    """It is told in one line, and the other sandbox is there."""
    gone = tmp_path / "gone.yml"
    gone.write_text(json.dumps({"all": {"hosts": {"host1": {"ansible_host": "10.77.0.250"}}}}), encoding="utf-8")
    done = within.run(
        "ansible-inventory",
        "--list",
        sources=[*sources[:-1], gone, sources[-1]],
        folder=tmp_path,
        env={"ANSIBLE_TIMEOUT": "2"},
    )
    assert json.loads(done.stdout)["sandboxes"]["hosts"] == ["box@host2"], done.stderr
    assert "The sandboxes of host1 are not known" in done.stderr
