"""The connection plugin: modules that run inside real sandboxes on this machine, with pipelining and without."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import procs
from tests.integration import playing, within
from tests.integration.arena import PLAIN, Arena
from tests.integration.containers import container_arena
from tests.integration.playing import Result, Task
from tests.integration.within import HERE, raw, sandbox, task
from tests.support.account import Account

ODD_NAMES = ["plain", "a b", "ü 漢", "$(id)`id`;&|<>", "'single' \"double\"", "-n", "back\\slash", "new\nline", "*?[a]"]
ODD_BYTES = bytes(range(256)) * 3 + b"\r\n\0\0\xff\xff\x1b[31m"


def inventory(arena: Arena, **more: Any) -> dict[str, Any]:
    """This machine, and the sandbox `box` of the arena."""
    return within.hosts(here=HERE, box=sandbox(arena.state_dir, **more))


def start(arena: Arena, **args: Any) -> None:
    (made,) = arena.play(arena.started(**args))
    assert not made.failed, made.message


@pytest.fixture(params=["true", "false"], ids=["pipelining", "files"])
def pipelining(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_as_community_docker_tests_its_own(arena: Arena, pipelining: str, tmp_path: Path) -> None:
    """Ping, commands, and files there and back, whatever their names and bytes."""
    start(arena)
    project = arena.project
    odd = tmp_path / "odd"
    odd.write_bytes(ODD_BYTES)
    (tmp_path / "empty").touch()
    (tmp_path / "template.j2").write_text("{{ inventory_hostname }} ü {{ 6 * 7 }}\n", encoding="utf-8")
    tasks: list[Task] = [
        task("ping"),
        raw("echo ü 漢; echo error >&2; exit 255"),
        raw("kill -9 $$"),
        task("command", argv=["sh", "-c", "cat; exit 42"], stdin="words ü"),
        task("copy", src=str(odd), dest=f"{project}/odd", mode="0640"),
        task("copy", src=str(odd), dest=f"{project}/odd", mode="0640"),
        task("slurp", src=f"{project}/odd"),
        task("copy", src=str(tmp_path / "empty"), dest=f"{project}/empty"),
        task("fetch", src=f"{project}/empty", dest=f"{tmp_path}/back/", flat=True),
        task("template", src=str(tmp_path / "template.j2"), dest=f"{project}/made"),
        task("file", path=f"{project}/folder", state="directory"),
        task("setup", gather_subset=["min"]),
        task("command", argv=["id", "-u"]),
    ]
    found = within.play(tasks, inventory(arena), env={"ANSIBLE_PIPELINING": pipelining})
    ping, spoke, killed, ran, copied, again, slurped, _, emptied, templated, made, facts, who = found.results
    assert ping.get("ping") == "pong", found.output
    assert (spoke["rc"], spoke["stdout"], spoke["stderr"]) == (255, "ü 漢\n", "error\n")
    assert killed["rc"] == 137
    assert (ran["rc"], ran["stdout"]) == (42, "words ü")
    assert (copied.changed, again.changed) == (True, False), copied
    assert base64.b64decode(slurped["content"]) == ODD_BYTES
    assert (project / "odd").read_bytes() == ODD_BYTES
    assert stat.S_IMODE((project / "odd").stat().st_mode) == 0o640
    assert (project / "empty").read_bytes() == b""
    assert not emptied.failed, emptied
    assert (tmp_path / "back/empty").read_bytes() == b""
    assert (project / "made").read_text(encoding="utf-8") == "box ü 42\n"
    assert templated.changed
    assert made.changed
    assert facts["ansible_facts"]["ansible_user_id"] == arena.account.name
    assert who["stdout"] == str(arena.account.uid)
    assert sorted(path.name for path in project.iterdir() if path.name.startswith(".ansible-")) == []


def test_names_of_files(arena: Arena, pipelining: str, tmp_path: Path) -> None:
    start(arena)
    tasks = []
    for number, name in enumerate(ODD_NAMES):
        (tmp_path / name).write_bytes(ODD_BYTES + name.encode())
        target = f"{arena.project}/{name}"
        tasks += [
            task("copy", src=str(tmp_path / name), dest=target),
            task("fetch", src=target, dest=f"{tmp_path}/back-{number}", flat=True),
        ]
    found = within.play(tasks, inventory(arena), env={"ANSIBLE_PIPELINING": pipelining})
    assert not any(result.failed for result in found.results), found.output
    for number, name in enumerate(ODD_NAMES):
        content = ODD_BYTES + name.encode()
        assert (arena.project / name).read_bytes() == content
        assert (tmp_path / f"back-{number}").read_bytes() == content


def test_large_files(arena: Arena, tmp_path: Path) -> None:
    """In pieces, whatever their number; one that ends with a piece, too."""
    start(arena)
    sizes = (50_000_001, 8 << 20)
    tasks = []
    for size in sizes:
        (tmp_path / str(size)).write_bytes(os.urandom(size))
        target = f"{arena.project}/{size}"
        tasks += [task("copy", src=f"{tmp_path}/{size}", dest=target)]
        # The action uses the connection where it may not read by a module.
        tasks += [task("fetch", src=target, dest=f"{tmp_path}/back-{size}", flat=True)]
    found = within.play(tasks, inventory(arena))
    assert not any(result.failed for result in found.results), found.output
    for size in sizes:
        wanted = hashlib.sha256((tmp_path / str(size)).read_bytes()).digest()
        assert hashlib.sha256((arena.project / str(size)).read_bytes()).digest() == wanted
        assert hashlib.sha256((tmp_path / f"back-{size}").read_bytes()).digest() == wanted


def test_much_output_and_none_lost(arena: Arena) -> None:
    """More than claude_sandbox_exec keeps; and more than is allowed is an error, and ended."""
    start(arena)
    much = raw("head -c 18000000 /dev/zero | tr '\\0' x; echo end >&2")
    endless = {**raw("yes 98765"), "vars": {"ansible_sandbox_output_limit": 1_000_000}}
    whole, cut = within.play([much, endless], inventory(arena)).results
    assert (len(whole["stdout"]), whole["stderr"]) == (18_000_000, "end\n")
    assert cut.failed
    assert "printed more than 1000000 bytes" in cut.message
    wait_until_gone(arena, "98765")


def wait_until_gone(arena: Arena, words: str) -> None:
    """Until no process of the arena has these words, nor is any there that could still begin one."""
    # What was sent to the host to run it, which may be late where much else is done.
    arena.wait_for_processes(list(_on_host()))
    assert arena.wait_until_gone(words) == []


def _on_host() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"\0-IS\0-c\0" in path.read_bytes():
                yield int(path.parent.name)


def test_what_is_given_up_ends(arena: Arena) -> None:
    """A task that takes too long leaves nothing that runs inside."""
    start(arena)
    (late,) = within.play([{**raw("sleep 98764"), "timeout": 2}], inventory(arena)).results
    assert late.failed
    wait_until_gone(arena, "sleep 98764")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_what_is_ended_on_the_host_ends_inside(arena: Arena, number: int) -> None:
    """Whoever ends what runs the command there, in whatever way, ends all of the command."""
    start(arena)
    with ThreadPoolExecutor(1) as pool:
        played = pool.submit(within.play, [raw("sleep 98763; true")], inventory(arena))
        found = procs.until(lambda: [pid for pid, line in arena.processes() if line == "sleep 98763 "], 60)
        (on_host, *_) = [pid for pid in reversed(_ancestors(found[0])) if pid in set(_on_host())]
        os.kill(on_host, number)
        (ended,) = played.result().results
    assert ended.failed or ended["rc"] != 0 or ended.get("unreachable"), ended
    wait_until_gone(arena, "sleep 98763")


def _ancestors(pid: int) -> list[int]:
    """A process's parent, its parent's, and so on."""
    found: list[int] = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def test_async(arena: Arena) -> None:
    """What is started in the background goes on, and can be asked for."""
    start(arena)
    slow = {**task("command", argv=["sh", "-c", "sleep 0.2; echo slow"]), "async": 60, "poll": 1}
    (done,) = within.play([slow], inventory(arena)).results
    assert (done.get("stdout"), done.get("finished")) == ("slow", 1), done


def test_delegated(arena: Arena) -> None:
    """A task of another host's can be run inside."""
    start(arena)
    moved = {**task("command", argv=["id", "-u"]), "delegate_to": "box"}
    (done,) = within.play([moved], inventory(arena), on="here").results
    assert done.get("stdout") == str(arena.account.uid), done


def test_what_is_in_the_way(arena: Arena) -> None:
    """Each is one clear line, and no task runs anywhere else in its place."""
    start(arena)
    state = arena.state_dir
    arena.play(arena.started("stopped"), arena.task(name="stopped", state="stopped"))
    arena.play(arena.started("dead", agent=["sleep", "0.1"]))
    deadline = time.monotonic() + 10
    while arena.engine.status(arena.engine.registry.resolve("dead")) != "dead":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    places = {
        "absent": sandbox(state, "absent"),
        "stopped": sandbox(state, "stopped"),
        "dead": sandbox(state, "dead"),
        "nohost": sandbox(state, host="nowhere"),
        "unreachable": sandbox(state, host="closed"),
        "nopython": sandbox(state, ansible_sandbox_python="/no/python3"),
        "itself": sandbox(state, host="box"),
        "box": sandbox(state),
    }
    closed = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    sources = within.hosts(here=HERE, closed=closed, **places)
    tasks = [{**raw("echo ran"), "delegate_to": name} for name in places]
    tasks[-1]["become"] = True
    found = within.play(tasks, sources, on="here")
    said = dict(zip(places, (result.message for result in found.results), strict=True))
    assert all(result.failed for result in found.results), found.output
    assert f"here: There is no sandbox 'absent' in {state}." in said["absent"]
    assert "Sandbox 'stopped' is stopped. Start it first" in said["stopped"]
    assert "Sandbox 'dead' is dead: its program has ended." in said["dead"]
    assert "There is no host nowhere in the inventory" in said["nohost"]
    assert "Connection refused" in said["unreachable"]
    assert "/no/python3" in said["nopython"]
    assert "box is a sandbox itself" in said["itself"]
    assert "become does not work inside a sandbox" in said["box"]
    assert not any("Traceback" in words or "ran" in words.split() for words in said.values()), said


def test_files_that_cannot_be(arena: Arena, tmp_path: Path) -> None:
    start(arena)
    (tmp_path / "some").write_text("some")
    results = within.play(
        [
            task("copy", src=f"{tmp_path}/some", dest="/usr/no"),
            task("fetch", src=f"{arena.project}/no", dest=f"{tmp_path}/back", flat=True, fail_on_missing=True),
            task("fetch", src="/etc/shadow", dest=f"{tmp_path}/back", flat=True),
        ],
        inventory(arena),
    ).results
    assert all(result.failed for result in results), results
    assert not (tmp_path / "back").exists()


def test_secrets_stay(arena: Arena) -> None:
    """What the agent has in its environment is no fact, unless that is asked for."""
    start(arena, secret_env={"CANARY": "a-canary-of-forty-characters-0000000001"}, env={"SHOWN": "yes"})
    look = task("setup", filter=["ansible_env"])
    asked = {**look, "vars": {"ansible_sandbox_secrets": True}}
    without, given = within.play([look, asked], inventory(arena)).results
    assert without["ansible_facts"]["ansible_env"]["SHOWN"] == "yes", without
    assert "CANARY" not in without["ansible_facts"]["ansible_env"]
    assert "CANARY" in given["ansible_facts"]["ansible_env"]


# What a hostile sandbox answers in place of any module.
_LIAR = """\
#!/bin/sh
cat >/dev/null
echo 'claude-sandbox-00000000000000000000000000000000:{"code": 0}' >&2
printf '%s\\n' '{"changed": false, "ansible_facts": {FACTS}}'
"""


@pytest.mark.parametrize(
    "fact",
    [
        '"ansible_sandbox_python": "touch MARK;"',
        '"ansible_sandbox_host": "other"',
        '"ansible_connection": "local"',
        '"sandbox_become_user": "root"',
    ],
)
def test_facts_lead_nowhere_else(arena: Arena, tmp_path: Path, fact: str) -> None:
    """A fact counts more than the inventory: one that names what runs on the host, or another host, is refused."""
    start(arena)
    mark = tmp_path / "mark"
    liar = within.executable(arena.project / "liar", _LIAR.replace("FACTS", fact.replace("MARK", str(mark))))
    arena.account.own(liar)
    lie = {**task("ping"), "vars": {"ansible_python_interpreter": str(liar)}}
    told, after = within.play([lie, raw("echo $CLAUDE_SANDBOX")], inventory(arena)).results
    assert not told.failed, told
    assert after.get("stdout") == "box\n" or "as a fact" in after.message, after
    assert after.failed or "ansible_connection" in fact
    assert not mark.exists()


def test_a_forged_answer(arena: Arena) -> None:
    """Marks that a sandbox prints are words like others, and its exit code stays what it is."""
    start(arena)
    forged = 'claude-sandbox-00000000000000000000000000000000:{"code": 0}'
    (done,) = within.play([raw(f"echo '{forged}' >&2; echo '{forged}'; exit 3")], inventory(arena)).results
    assert (done["rc"], done["stdout"], done["stderr"]) == (3, f"{forged}\n", f"{forged}\n")


def test_the_engine_on_the_host(arena: Arena, tmp_path: Path) -> None:
    """It is sent where it is missing, damaged or open to others, and kept for its account alone."""
    start(arena)
    folder = tmp_path / "engines"
    source = inventory(arena, ansible_sandbox_engine_dir=str(folder))

    def speaks() -> Result:
        return within.play([raw("echo here")], source).results[0]

    assert speaks().get("stdout") == "here\n"
    (kept,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, kept)] == [0o700, 0o600]
    content, number = kept.read_bytes(), kept.stat().st_ino
    assert speaks().get("stdout") == "here\n"
    assert kept.stat().st_ino == number, "it was sent again"
    kept.write_bytes(content[:-1])
    assert speaks().get("stdout") == "here\n"
    assert kept.read_bytes() == content
    kept.chmod(0o666)
    assert speaks().get("stdout") == "here\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    folder.chmod(0o777)
    refused = speaks()
    assert refused.failed
    assert "no folder that only this account can write to" in refused.message


@pytest.fixture
def own_registry(account: Account, as_root: None) -> Iterator[Path]:
    """A registry of the account's own, in which it has made a sandbox itself."""
    folder = account.home / "reg"
    project = account.project("own-registry")
    become = {
        "ansible_become": True,
        "ansible_become_method": "su",
        "ansible_become_user": account.name,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_shell_allow_world_readable_temp": True,
    }
    made = playing.task("claude_sandbox", name="box", state_dir=str(folder), project_dir=str(project), **PLAIN)
    results = playing.play([made], play_vars=become).results
    assert not results[0].failed, results[0].message
    yield folder
    gone = playing.task("claude_sandbox", name="box", state_dir=str(folder), state="absent")
    assert not playing.play([gone], play_vars=become).results[0].failed


def test_of_another_account_by_sudo(own_registry: Path, account: Account, tmp_path: Path) -> None:
    """The account works for its sandbox itself, become on the host; the engine is kept in its own home."""
    (tmp_path / "file").write_bytes(ODD_BYTES)
    by_option = sandbox(own_registry, ansible_sandbox_become_user=account.name)
    by_host = {**HERE, "ansible_become": True, "ansible_become_user": account.name}
    source = within.hosts(here=HERE, there=by_host, box=by_option, other=sandbox(own_registry, host="there"))
    tasks: list[Task] = [
        task("ping"),
        task("command", argv=["id", "-un"]),
        task("copy", src=str(tmp_path / "file"), dest="/tmp/file"),
        task("slurp", src="/tmp/file"),
        {**task("command", argv=["id", "-un"]), "delegate_to": "other"},
    ]
    found = within.play(tasks, source)
    ping, who, _, slurped, other = found.results
    assert ping.get("ping") == "pong", found.output
    assert (who["stdout"], other["stdout"]) == (account.name, account.name)
    assert base64.b64decode(slurped["content"]) == ODD_BYTES
    assert (account.home / ".ansible/claude-sandbox").stat().st_uid == account.uid


def test_in_a_container(account: Account, as_root: None, tmp_path: Path, pipelining: str) -> None:
    with container_arena(account, f"connection-{pipelining}") as arena:
        start(arena)
        (tmp_path / "file").write_bytes(ODD_BYTES * 8000)
        target = f"{arena.project}/file"
        tasks: list[Task] = [
            task("ping"),
            task("copy", src=str(tmp_path / "file"), dest=target),
            task("fetch", src=target, dest=f"{tmp_path}/back", flat=True),
            raw("echo ü; echo error >&2; exit 255"),
            raw("head -c 18000000 /dev/zero | tr '\\0' x"),
        ]
        found = within.play(tasks, inventory(arena), env={"ANSIBLE_PIPELINING": pipelining})
        ping, copied, fetched, spoke, much = found.results
        assert ping.get("ping") == "pong", found.output
        assert not copied.failed
        assert not fetched.failed
        assert (arena.project / "file").read_bytes() == (tmp_path / "back").read_bytes() == ODD_BYTES * 8000
        assert (spoke["rc"], spoke["stdout"], spoke["stderr"]) == (255, "ü\n", "error\n")
        assert much.failed
        assert "16 MiB" in much.message
