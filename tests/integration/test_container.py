"""The backend container, run by root: the same as the others' from outside, and behind a stronger wall."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import playing
from tests.integration.arena import PLAIN, RUNTIME
from tests.integration.containers import ContainerArena, container_arena
from tests.integration.playing import Result, assert_quartet
from tests.integration.test_attach import deadline
from tests.support.account import Account

pytestmark = pytest.mark.usefixtures("as_root")

KEY = "canary-key-0123456789-abcdefghijklmnopqrstuvwxyz"
TOKEN = "canary-token-9876543210-zyxwvutsrqponmlkjihgfedcba"
SECRETS: dict[str, Any] = {"api_key": KEY, "secret_env": {"TOKEN": TOKEN}}


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[ContainerArena]:
    name = re.sub(r"\W+", "-", f"{request.path.stem}-{request.node.name}").strip("-")
    with container_arena(account, name) as made:
        yield made


def test_a_life(arena: ContainerArena) -> None:
    """Made, stopped, started and removed; of a stopped and of a removed one there is nothing on the host."""
    made = assert_quartet(arena.play(*arena.quartet()), ["create", "start"])
    assert made.sandbox["status"] == "running"
    assert [path.split("/")[-1][:4] for path in arena.of_root()] == ["box-"]
    stopped = assert_quartet(arena.play(*arena.quartet(state="stopped")), ["stop"])
    assert (stopped.sandbox["status"], stopped.sandbox["pid"]) == ("stopped", None)
    assert arena.left_behind() == []
    results = arena.play(*arena.quartet(state="started"), *arena.quartet(state="absent"))
    assert assert_quartet(results[:4], ["start"]).sandbox["id"] == made.sandbox["id"]
    assert assert_quartet(results[4:], ["destroy"])["sandbox"] is None
    assert arena.left_behind() == []


def test_the_same_from_outside(arena: ContainerArena) -> None:
    """Every result has the keys that bubblewrap's has; a change is applied or refused alike."""
    other: dict[str, Any] = {"backend": "bubblewrap", "project_dir": str(arena.new_project("other"))}
    both: list[tuple[str, dict[str, Any]]] = [("box", {}), ("wrap", other)]
    results = arena.play(
        *(
            task
            for name, more in both
            for task in (
                arena.started(name, **more),
                arena.inside("sh", "-c", "echo out; exit 3", name=name),
                arena.task("claude_sandbox_attach", name=name, text="echo he''re", keys=["Enter"], wait_for="^here$"),
                arena.task("claude_sandbox_info", name=[name], usage=True),
                arena.started(name, env={"A": "1"}, **more),
                arena.started(name, env={"A": "1"}, on_change="restart", **more),
                arena.started(name, agent=["/no/such/program"], on_change="restart", **more),
                arena.task(name=name, state="absent"),
            )
        ),
    )
    for container, wrap in zip(results[:8], results[8:], strict=True):
        assert _shape(container) == _shape(wrap)
        assert (container.changed, container.failed) == (wrap.changed, wrap.failed)
    assert results[3]["sandboxes"][0]["usage"]["process"]["processes"] >= 2
    assert results[3]["sandboxes"][0]["usage"]["process"]["memory_bytes"] > 1 << 20
    assert "no/such/program" in results[6].message


def _shape(value: Any) -> Any:
    """The keys of a result, and of what is in it."""
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items() if key not in ("invocation", "env", "exception")}
    return None


def test_what_a_command_says(arena: ContainerArena) -> None:
    results = arena.play(
        arena.started(env={"FROM": "agent"}),
        arena.inside("sh", "-c", "echo out; echo err >&2; pwd; echo $FROM $MORE", env={"MORE": "task"}, chdir="/tmp"),
        arena.inside("sh", "-c", "echo last words; exit 42"),
        arena.inside("sh", "-c", "kill -9 $$"),
        arena.inside("sh", "-c", "kill -TERM $$"),
        arena.inside("cat", stdin="one\ntwo ü\n"),
        arena.inside("printf", "%s|", "a b", "$(id)", ";", "", "*", "-n", "ü\n"),
        arena.inside("no-such-program"),
        arena.inside("/etc"),
        arena.inside("true", chdir="/no/such/folder"),
        arena.inside("sh", "-c", "echo begun; sleep 98765 & exec sleep 98765", timeout=0.5),
        arena.inside("sh", "-c", "head -c 18000000 /dev/zero | tr '\\0' x; echo end >&2"),
        arena.inside("sh", "-c", "wc -c; id -u", stdin="x" * 3_000_000),
        arena.inside("sh", "-c", "touch made", creates=f"{arena.project}/made"),
        arena.inside("sh", "-c", "touch made", creates=f"{arena.project}/made"),
        arena.inside("sh", "-c", "sleep 0.1 & echo back"),
    )
    _, spoke, failed, killed, ended, read, literal, missing, folder, nowhere, late, much, big, made, again, *_ = results
    assert (spoke["stdout"], spoke["stderr"]) == ("out\n/tmp\nagent task", "err")
    assert (failed["rc"], failed["stdout"]) == (42, "last words")
    assert (killed["rc"], ended["rc"]) == (137, 143)
    assert read["stdout"] == "one\ntwo ü"
    assert literal["stdout"] == "a b|$(id)|;||*|-n|ü\n|"
    assert (missing["rc"], folder["rc"]) == (127, 126)
    assert "'/no/such/folder' is no directory in it" in nowhere.message
    assert (late["rc"], late["stdout"]) == (124, "begun")
    assert (len(much["stdout"]), much["truncated"], much["stderr"]) == (16 << 20, True, "end")
    assert big["stdout"].split() == ["3000000", str(arena.account.uid)]
    assert (made.changed, again.changed) == (True, False)
    assert [words for _, words in arena.processes() if "98765" in words] == []


def test_as_bound_as_it_is_meant(arena: ContainerArena) -> None:
    """No capability, no way to more, no network where there is none; the same for the agent and beside it."""
    look = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status; tail -n +3 /proc/net/dev | cut -d: -f1; id -G"
    look += "; ls /proc | grep -c '^[0-9]'; unshare -Ur true 2>&1; ls /sys /root; cat /etc/shadow"
    agent = f"({look}) >{arena.project}/seen 2>&1; exec sleep infinity"
    made, beside = arena.play(
        arena.started(network=False, agent=["sh", "-c", agent]),
        arena.inside("sh", "-c", f"while ! grep -q shadow {arena.project}/seen; do sleep 0.05; done; ({look}) 2>&1"),
    )
    assert not made.failed, made.message
    seen = (arena.project / "seen").read_text(encoding="utf-8")
    for words in (seen.split(), beside["stdout"].split()):
        capabilities = [words[at + 1] for at, word in enumerate(words) if word.startswith("Cap")]
        assert capabilities == ["0" * 16] * 5, words
        assert words[words.index("NoNewPrivs:") + 1] == "1"
        assert words[words.index("Seccomp:") + 1] == "2"
        assert "lo" in words
        assert not any(word.startswith(("eth", "ens", "wlan")) for word in words)
        assert str(arena.account.gid) in words
    assert "Permission denied" in seen


def test_the_command_that_a_person_types(arena: ContainerArena) -> None:
    """It works for the account itself, and shows the agent's terminal, which takes the size of theirs."""
    made, _ = arena.play(
        arena.started(),
        arena.task("claude_sandbox_attach", name="box", text="echo for''you", keys=["Enter"], wait_for="^foryou$"),
    )
    words = shlex.split(made.sandbox["attach_command"])
    client = words[words.index("env") :]
    account = arena.account
    script = f"stty rows 40 cols 120; exec {shlex.join(client)}"
    typed = b"stty size >size; exit\n"
    argv = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--init-groups"]
    ours, theirs = os.openpty()
    os.fchown(theirs, account.uid, account.gid)
    terminal = subprocess.Popen(
        [*argv, "setsid", "--ctty", "--wait", "sh", "-c", script],
        env=playing.clean_environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with terminal, deadline(terminal), contextlib.suppress(OSError):
        while b"foryou" not in shown and (piece := os.read(ours, 4096)):
            shown += piece
        os.write(ours, typed)
        while b"ended" not in shown and (piece := os.read(ours, 4096)):
            shown += piece
        os.write(ours, b"\x02")
        terminal.kill()
    os.close(ours)
    assert b"foryou" in shown
    (seen,) = arena.play(arena.task("claude_sandbox_info", name=["box"]))
    assert (seen["sandboxes"][0]["status"], seen["sandboxes"][0]["exit_code"]) == ("dead", 0), shown
    # tmux has a status line of its own.
    assert (arena.project / "size").read_text(encoding="utf-8").split() == ["39", "120"]


def test_how_an_agent_ends(arena: ContainerArena) -> None:
    """Its exit code, or 128 and the signal's number."""
    results = arena.play(
        *(
            task
            for agent in ("exit 7", "kill -9 $$", "kill -TERM $$", "kill -SEGV $$")
            for task in (
                arena.started(agent=["/bin/sh", "-c", f"read answer; {agent}"], on_change="restart"),
                arena.task("claude_sandbox_attach", name="box", keys=["Enter"], wait_for="never shown", timeout=20),
                arena.task("claude_sandbox_info", name=["box"]),
            )
        )
    )
    found = [result["sandboxes"][0] for result in results[2::3]]
    assert [(box["status"], box["exit_code"]) for box in found] == [("dead", code) for code in (7, 137, 143, 139)]
    assert [path for path in arena.of_root() if "nspawn" in path] == []


def test_three_presses_of_a_key_end_it(arena: ContainerArena) -> None:
    """systemd-nspawn's own way out, which it has no setting for: the docs say so."""
    _, typed, info = arena.play(
        arena.started(agent=["sh", "-c", "stty raw; while :; do dd bs=1 count=1 status=none | od -c; done"]),
        arena.task("claude_sandbox_attach", name="box", keys=["C-]", "C-]", "C-]"], wait_for="035"),
        arena.task("claude_sandbox_info", name=["box"]),
    )
    assert not typed.failed, typed.message
    assert info["sandboxes"][0]["status"] == "dead"


def test_secrets_stay_secret(arena: ContainerArena) -> None:
    run = playing.play(
        [
            arena.started(**SECRETS),
            arena.task("claude_sandbox_info", usage=True),
            arena.started("broken", agent=["/no/such/program"], **SECRETS),
            arena.inside("sh", "-c", 'printf %s "$ANTHROPIC_API_KEY$TOKEN" | wc -c'),
        ],
        "-vvvv",
        "--diff",
    )
    assert [result.failed for result in run.results] == [False, False, True, False]
    assert run.results[3]["stdout"] == str(len(KEY + TOKEN))
    assert not _mentions(run.output)
    folders = (arena.state_dir, arena.project, RUNTIME, arena.root_of() / "run", arena.root_of() / "etc")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [str(path) for path in files if _mentions(path.read_bytes().decode("latin-1"))]
    assert found == [str(arena.folder() / "data/secrets.json")]
    pids = [pid for pid, _ in arena.processes()]
    assert len(pids) >= 6
    assert [pid for pid in pids if _mentions(_proc(pid, "cmdline"))] == []
    # The agent itself has them, and the script that got them.
    assert len([pid for pid in pids if _mentions(_proc(pid, "environ"))]) == 1
    agent = arena.engine.view(arena.engine.registry.resolve("box"))["pid"]
    assert isinstance(agent, int)


def _mentions(text: str) -> bool:
    return any(word[-20:] in text or word[:16] in text for word in (KEY, TOKEN))


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")


def test_variables_that_change_a_shell(arena: ContainerArena) -> None:
    """What is passed to the agent does not change how it is started, or what is said of it."""
    missing = ["/no/such/program"]
    posix, traced, made, beside = arena.play(
        arena.started("posix", agent=missing, env={"POSIXLY_CORRECT": "1"}),
        arena.started("traced", agent=missing, env={"BASH_ENV": f"{arena.project}/none", "ENV": "/none", "TMOUT": "1"}),
        arena.started(
            agent=["sh", "-c", 'printf "%s|" "$WORDS" "$PWD" "$CDPATH" >seen; exec sleep infinity'],
            env={"WORDS": " a\n*\n", "CDPATH": "/usr"},
        ),
        arena.inside("sh", "-c", f"while ! [ -s {arena.project}/seen ]; do sleep 0.05; done; cat seen"),
    )
    assert [posix.failed, traced.failed, made.failed] == [True, True, False]
    assert "no/such/program" in posix.message
    assert beside["stdout"] == f" a\n*\n|{arena.project}|/usr|"


# --- user namespace ---------------------------------------------------------------------------------------------------


def _status(pid: int, field: str) -> list[int]:
    line = next(line for line in _proc(pid, "status").splitlines() if line.startswith(f"{field}:"))
    return [int(word) for word in line.split()[1:]]


def test_its_root_is_nobody(arena: ContainerArena) -> None:
    """On by default: no process of it has an id of the host's, and what it writes is the owner's."""
    _, made = arena.play(arena.started(), arena.inside("sh", "-c", "touch made /tmp/note ~/.local/note; id -u"))
    first = arena.pids()["init"]
    base = arena.machine()["base"]
    assert _proc(first, "uid_map").split() == _proc(first, "gid_map").split() == ["0", str(base), "65536"]
    for pid, words in arena.processes():
        inside = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{first}/ns/pid")
        if inside:
            assert base <= Path(f"/proc/{pid}").stat().st_uid < base + 65536, words
            assert {*_status(pid, "Uid"), *_status(pid, "Gid")} <= {base, base + arena.account.uid}, words
    assert made["stdout"] == str(arena.account.uid)
    written = [arena.project / "made", *arena.state_dir.glob("projects/*/tmp/note")]
    written += [*arena.state_dir.glob("projects/*/local/note")]
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in written]
    assert owners == [(arena.account.uid, arena.account.gid)] * 3


def test_two_share_no_id(arena: ContainerArena) -> None:
    other = str(arena.new_project("second"))
    arena.play(arena.started(), arena.started("second", project_dir=other))
    first, second = arena.machine(), arena.machine("second")
    assert abs(first["base"] - second["base"]) >= 65536


def test_without_it(arena: ContainerArena) -> None:
    """Root may leave it out for another account's sandbox, never for its own."""
    off: dict[str, Any] = {"container": {"user_namespace": False}}
    root = arena.beside("of-root")
    root.mkdir()
    made, who, changed, own, roots = arena.play(
        arena.started(**off),
        arena.inside(
            "sh", "-c", "touch made; id -u; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; cat /proc/self/uid_map"
        ),
        arena.started(),
        arena.started("own", user="root", project_dir=str(root), **off),
        arena.started("roots", user="root", project_dir=str(root)),
    )
    assert made.changed, made.message
    words = who["stdout"].split()
    assert words[:5] == [str(arena.account.uid), "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    assert words[5:] == ["0", "0", "4294967295"]
    assert (arena.project / "made").stat().st_uid == arena.account.uid
    assert "container (" in changed.message
    assert own.failed
    assert "user namespace" in own.message
    assert roots.changed, roots.message
    first = arena.pids("roots")["init"]
    assert Path(f"/proc/{first}").stat().st_uid == arena.machine("roots")["base"] != 0
    (inside,) = arena.play(
        arena.inside("sh", "-c", "touch by-root; id -u; grep CapEff /proc/self/status", name="roots")
    )
    assert inside["stdout"].split() == ["0", "CapEff:", "0" * 16]
    assert (root / "by-root").stat().st_uid == 0
    arena.play(arena.task(name="roots", state="absent"))


def test_grants_that_need_the_accounts_own_uid(arena: ContainerArena) -> None:
    """They would be there and work for nobody: an error, in check mode, too."""
    names = ("audio", "dbus", "gpu", "keyring", "ssh_agent")
    results = arena.play(
        *(
            arena.started(grants={**PLAIN["grants"], name: True}, check=number % 2 == 0)
            for number, name in enumerate(names)
        ),
    )
    for number, result in enumerate(results):
        assert result.failed, (names[number], result)
        assert f"grants.{names[number]} has no effect in a container" in result.message
    assert arena.engine.registry.names() == []


def test_whose_project(arena: ContainerArena) -> None:
    """What the account could not write in is an error; what it can write outside, by its own rights, it can inside."""
    kinds = {
        "theirs": (0, 0, 0o755),
        "by-group": (0, arena.account.gid, 0o770),
        "everybodys": (0, 0, 0o777),
        "of-another-group": (arena.account.uid, 0, 0o2770),
    }
    for name, (uid, gid, mode) in kinds.items():
        path = arena.beside(name)
        path.mkdir()
        os.chown(path, uid, gid)
        path.chmod(mode)
    results = arena.play(
        *(
            task
            for name in kinds
            for task in (
                arena.started(name, project_dir=str(arena.beside(name)), user=arena.account.name),
                arena.inside("sh", "-c", "touch made && cat made", name=name),
            )
        )
    )
    _assert_clear(results[0], f"{arena.account.name} cannot read and write project_dir")
    wrong = {}
    for number, name in enumerate(kinds):
        made, wrote = results[2 * number : 2 * number + 2]
        # It starts and is writable, or is refused; never a sandbox in which nothing can be saved.
        if not made.failed and wrote.get("rc") != 0:
            wrong[name] = wrote.get("stderr")
        if not made.failed and wrote.get("rc") == 0:
            assert (arena.beside(name) / "made").stat().st_uid == arena.account.uid
    assert wrong == {}
    assert not results[-2].failed, results[-2].message


def test_files_of_another_group(arena: ContainerArena) -> None:
    """A file that the account owns is its own inside, whatever group it has."""
    for name, gid in (("note", 0), ("mine", arena.account.gid)):
        (arena.project / name).write_text("", encoding="utf-8")
        os.chown(arena.project / name, arena.account.uid, gid)
    _, wrote = arena.play(arena.started(), arena.inside("sh", "-c", "echo a >>mine && echo b >>note && cat note"))
    assert (wrote.get("stdout"), wrote["stderr"]) == ("b", "")


def test_a_file_system_without_mapped_owners(arena: ContainerArena) -> None:
    """Known before anything runs, and said; without a user namespace it works there."""
    old = arena.beside("old")
    old.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", str(old)], check=True)
    try:
        arena.account.own(old)
        (old / "project").mkdir(mode=0o755)
        arena.account.own(old)
        project: dict[str, Any] = {"project_dir": str(old / "project")}
        refused, without, wrote, _ = arena.play(
            arena.started(**project),
            arena.started("without", container={"user_namespace": False}, **project),
            arena.inside("touch", "made", name="without"),
            arena.task(name="without", state="absent"),
        )
        _assert_clear(refused, "maps no owner into a container")
        assert without.changed, without.message
        assert wrote["rc"] == 0
        assert (old / "project/made").stat().st_uid == arena.account.uid
    finally:
        subprocess.run(["umount", str(old)], check=True)


def test_accounts_with_high_numbers(arena: ContainerArena) -> None:
    """Directories give such uids: it works, or is refused in plain words."""
    name = f"{arena.account.name}x"
    subprocess.run(
        ["useradd", "--uid", "70321", "--create-home", "-K", "SUB_UID_COUNT=0", "-K", "UID_MAX=80000", name], check=True
    )
    high = Account(name, arena.project.parent)
    try:
        project = high.project("high")
        made, inside, gone = arena.play(
            arena.started("high", project_dir=str(project)),
            arena.inside("sh", "-c", "touch made", name="high"),
            arena.task(name="high", state="absent"),
        )
        assert not gone.failed
        if made.failed:
            assert "70321" in made.message or "65535" in made.message, made.message
        else:
            assert inside["rc"] == 0
            assert (project / "made").stat().st_uid == 70321
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)


def _assert_clear(result: Result, words: str) -> None:
    assert result.failed
    assert words in result.message, result.message
    assert "Traceback" not in str(result)


# --- mounts -----------------------------------------------------------------------------------------------------------


def test_a_mount_while_it_runs(arena: ContainerArena) -> None:
    """Seen inside at once, without a restart; taking it away needs one; check mode says the same."""
    read, written = arena.new_project("read"), arena.new_project("written")
    (read / "note").write_text("hello", encoding="utf-8")
    arena.account.own(read)
    first = {"source": str(read), "target": "/data/read"}
    second = {"source": str(written), "target": "/data/written", "mode": "rw"}
    made, *rest = arena.play(
        arena.started(),
        *arena.quartet(mounts=[first]),
        *arena.quartet(mounts=[first, second]),
        arena.inside("sh", "-c", "cat /data/read/note; touch /data/written/w; touch /data/read/r"),
        arena.started(mounts=[second]),
        arena.started(mounts=[second], check=True),
        *arena.quartet(mounts=[second], on_change="restart"),
        arena.inside("sh", "-c", "ls /data"),
    )
    one = assert_quartet(rest[:4], ["mount", "update"])
    two = assert_quartet(rest[4:8], ["mount", "update"])
    assert made.sandbox["pid"] == one.sandbox["pid"] == two.sandbox["pid"]
    inside, refused, refused_check = rest[8:11]
    assert inside["stdout"] == "hello"
    assert "Read-only file system" in inside["stderr"]
    assert (written / "w").stat().st_uid == arena.account.uid
    assert not (read / "r").exists()
    for result in (refused, refused_check):
        assert result.failed
        assert "mounts (" in result.message
    gone = assert_quartet(rest[11:15], ["update", "stop", "start"])
    assert gone.sandbox["pid"] != made.sandbox["pid"]
    assert rest[15]["stdout"] == "written"
    # What is mounted inside is not seen on the host.
    assert not Path("/data").exists()


def test_a_mount_in_the_project_while_it_runs(arena: ContainerArena) -> None:
    """Its place is made as a start would make it."""
    data = arena.new_project("data")
    (data / "file").write_text("hello", encoding="utf-8")
    arena.account.own(data)
    mounts = [
        {"source": str(data), "target": f"{arena.project}/deep/folder"},
        {"source": str(data / "file"), "target": f"{arena.project}/file"},
    ]
    _, *four, inside = arena.play(
        arena.started(), *arena.quartet(mounts=mounts), arena.inside("sh", "-c", "cat deep/folder/file file")
    )
    assert_quartet(four, ["mount", "update"])
    assert inside["stdout"] == "hellohello"


def _bad_mounts(arena: ContainerArena) -> dict[str, dict[str, str]]:
    data = arena.new_project("data")
    (data / "file").write_text("", encoding="utf-8")
    arena.account.own(data)
    secret = arena.beside("of-root")
    secret.mkdir(mode=0o700)
    return {
        "no source": {"source": str(data / "none"), "target": "/x"},
        "no right": {"source": str(secret), "target": "/x"},
        "no right to write": {"source": "/usr/share", "target": "/x", "mode": "rw"},
        "no place": {"source": str(data), "target": "/usr/share/no-such-place"},
        "a file on a folder": {"source": str(data / "file"), "target": "/usr/share"},
        "a folder on a file": {"source": str(data), "target": "/etc/hosts"},
        "taken": {"source": str(data), "target": "/tmp"},
        "ours": {"source": str(data), "target": "/run/claude-sandbox"},
        "above ours": {"source": str(data), "target": "/run"},
        "through a link": {"source": str(data), "target": "/bin/x"},
    }


def test_a_mount_that_cannot_be_placed(arena: ContainerArena) -> None:
    """An error; the record is as it was, and what runs has nothing of it."""
    bad = _bad_mounts(arena)
    made, *results = arena.play(arena.started(), *(arena.started(mounts=[mount]) for mount in bad.values()))
    looked, again = arena.play(arena.inside("ls", "/"), arena.started())
    assert {name: result["actions"] for name, result in zip(bad, results, strict=True) if not result.failed} == {}
    for result in results:
        _assert_clear(result, "")
    assert "x" not in looked["stdout"].split()
    assert (again.changed, again.sandbox["pid"]) == (False, made.sandbox["pid"])


def test_one_of_two_mounts_that_cannot_be_placed(arena: ContainerArena) -> None:
    """Neither is there then: what is not recorded is not mounted, however often it is tried."""
    good = {"source": str(arena.new_project("good")), "target": "/good"}
    bad = {"source": good["source"], "target": "/usr/share/no-such-place"}
    _, first, second, looked = arena.play(
        arena.started(),
        arena.started(mounts=[good, bad]),
        arena.started(mounts=[good, bad]),
        arena.inside("sh", "-c", "grep -c ' /good ' /proc/self/mounts; true"),
    )
    assert (first.failed, second.failed) == (True, True)
    assert b"good" not in (arena.folder() / "spec.json").read_bytes()
    assert looked["stdout"] == "0"


def test_places_at_a_start(arena: ContainerArena) -> None:
    """What a start cannot place is an error in plain words, and leaves nothing."""
    data = arena.new_project("data")
    (data / "file").write_text("", encoding="utf-8")
    arena.account.own(data)
    targets = ("/run", "/run/claude-sandbox", "/run/host", "/usr", "/bin", "/usr/share/no-such-place")
    mounts = [{"source": str(data), "target": target, "mode": "rw"} for target in targets]
    mounts.append({"source": str(data / "file"), "target": str(arena.account.home)})
    results = arena.play(*(arena.started(f"box{number}", mounts=[mount]) for number, mount in enumerate(mounts)))
    told = {mount["target"]: result.message for mount, result in zip(mounts, results, strict=True) if result.failed}
    unclear = {target: message for target, message in told.items() if message.count("\n") > 1 or "Traceback" in message}
    assert unclear == {}
    assert [path.name for path in data.iterdir()] == ["file"]
    arena.clear()
    assert arena.left_behind() == []


def test_how_it_is_mounted(arena: ContainerArena) -> None:
    """No file gives rights or is a device, the system is read-only, and nothing mounted inside is seen on the host."""
    arena.play(arena.started())
    lines = [line.split() for line in _proc(arena.pids()["init"], "mountinfo").splitlines()]
    options = {line[4]: set(line[5].split(",")) for line in lines}
    assert {"nosuid", "nodev"} <= options[str(arena.project)]
    assert {"ro", "nosuid", "nodev"} <= options["/usr"]
    shared = {
        word for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines() for word in line.split()
    }
    groups = {word for line in lines for word in line if word.startswith(("shared:", "master:"))}
    assert not {word.replace("master:", "shared:") for word in groups} & shared
