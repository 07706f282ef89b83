"""The helper that an account may run by sudo: containers for itself, and nothing that it could not do anyway."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration import playing
from tests.integration.arena import PLAIN
from tests.integration.containers import HELPER, ContainerArena, Sudoer, container_arena, sudoer_of
from tests.integration.playing import assert_quartet
from tests.support.account import Account, unprivileged_account

_RENAMEAT2, _AT_FDCWD, _RENAME_EXCHANGE = 316 if os.uname().machine == "x86_64" else 276, -100, 2
_SWAP_SECONDS, _SWAP_STARTS = 15.0, 40


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[ContainerArena]:
    name = re.sub(r"\W+", "-", f"{request.path.stem}-{request.node.name}").strip("-")
    with container_arena(account, name[:80]) as made:
        yield made


@pytest.fixture
def sudoer(arena: ContainerArena, as_root: None) -> Iterator[Sudoer]:
    if shutil.which("sudo") is None:
        pytest.skip("there is no sudo")
    with sudoer_of(arena.account) as made:
        yield made
        made.does(state="absent")


def _owners() -> dict[str, tuple[int, int, int]]:
    """Of all below /etc, and of what else an attack aims at."""
    tops = [Path("/etc"), Path("/root"), Path("/"), Path("/home"), Path("/srv"), Path("/usr")]
    found = {}
    for path in [*tops, *Path("/etc").rglob("*")]:
        # Other tests make and remove accounts meanwhile.
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode)
    return found


def _changed(before: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """What has another owner or mode than before."""
    now = _owners()
    return [path for path, owner in before.items() if now.get(path, owner) != owner]


def _spec(project: Path, **more: Any) -> dict[str, Any]:
    spec = {"project_dir": str(project), **PLAIN, "backend": "container", **more}
    return {"format": 1, "id": "0123456789ab", "created_at": 1.0, "spec": spec}


# --- as it is meant ---------------------------------------------------------------------------------------------------


def test_a_life(arena: ContainerArena, sudoer: Sudoer) -> None:
    """The modules as the account itself, with a registry of its own."""
    become = {"ansible_become": True, "ansible_become_method": "su", "ansible_become_user": arena.account.name}
    python = {"ansible_python_interpreter": "/usr/bin/python3", "ansible_shell_allow_world_readable_temp": True}
    ours: dict[str, Any] = {"state_dir": str(sudoer.state_dir), "name": "box"}
    whole = {**ours, "project_dir": str(arena.project), **PLAIN, "backend": "container"}
    data = arena.new_project("data")
    results = playing.play(
        [
            *playing.quartet("claude_sandbox", **whole),
            *playing.quartet("claude_sandbox", **whole, mounts=[{"source": str(data), "target": "/data"}]),
            playing.task("claude_sandbox_exec", **ours, argv=["sh", "-c", "id -u; touch made; ls -d /data; exit 3"]),
            playing.task("claude_sandbox_exec", **ours, argv=["true"], creates="/etc/shadow"),
            playing.task("claude_sandbox_attach", **ours, text="echo he''re", keys=["Enter"], wait_for="^here$"),
            playing.task("claude_sandbox_info", state_dir=str(sudoer.state_dir), usage=True),
            *playing.quartet("claude_sandbox", **ours, state="stopped"),
            *playing.quartet("claude_sandbox", **ours, state="absent", purge=True),
        ],
        prefix=sudoer.prefix(),
        play_vars={**become, **python},
    ).results
    made = assert_quartet(results[:4], ["create", "start"])
    assert made.sandbox["user"] == arena.account.name
    assert_quartet(results[4:8], ["mount", "update"])
    executed, created, attached, info = results[8:12]
    assert (executed["rc"], executed["stdout"]) == (3, f"{arena.account.uid}\n/data"), executed
    assert created["rc"] == 0
    assert not attached.failed, attached.message
    assert info["sandboxes"][0]["usage"]["process"]["processes"] >= 2
    assert_quartet(results[12:16], ["stop"])
    assert_quartet(results[16:20], ["destroy"])
    assert (arena.project / "made").stat().st_uid == arena.account.uid
    assert arena.left_behind() == []
    assert {path.lstat().st_uid for path in [sudoer.folder, *sudoer.folder.rglob("*")]} == {arena.account.uid}


def test_what_is_for_root_to_give(arena: ContainerArena, sudoer: Sudoer) -> None:
    refused = sudoer.starts(arena.project, container={"user_namespace": False})
    assert "is for root to give" in refused["error"]
    assert sudoer.does(argv=["true"])["error"].startswith("There is no sandbox")
    assert arena.left_behind() == []


def test_an_exec_that_is_killed_from_outside(arena: ContainerArena, sudoer: Sudoer) -> None:
    """With who asked for it goes what was asked for."""
    assert sudoer.starts(arena.project)["actions"] == ["create", "start"]
    argv = [*sudoer.command(), *sudoer.driver(argv=["sleep", "87654"])]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as asking:
        deadline = time.monotonic() + 10
        while not _running(arena, "sleep 87654") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(_running(arena, "sleep 87654")) == 1
        asking.kill()
    arena.wait_for_processes(_running(arena, "sleep 87654"), 3.0)
    assert _running(arena, "sleep 87654") == []


def _running(arena: ContainerArena, words: str) -> list[int]:
    return [pid for pid, line in arena.processes() if line.strip() == words]


def test_killed_helpers(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Root's own part is killed while it starts one: the next start works, and after absent nothing is left."""
    for delay in (0.05, 0.15, 0.25, 0.35):
        argv = [*sudoer.command(), *sudoer.driver(params=sudoer.params(arena.project))]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(delay)
            killed = [pid for pid, words in _all_processes() if str(HELPER) in words and str(sudoer.state_dir) in words]
            for pid in killed:
                subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
        again = sudoer.starts(arena.project)
        assert "error" not in again, (delay, again)
        assert sudoer.does(argv=["true"]).get("code") == 0
        assert sudoer.does(state="absent") == {"actions": ["destroy"]}
        assert arena.left_behind() == [], delay


def _all_processes() -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found.append((int(entry.name), words))
    return found


# --- projects that are not for this account ---------------------------------------------------------------------------


def test_projects_of_others(arena: ContainerArena, sudoer: Sudoer) -> None:
    """By the engine, and by a record that the account wrote itself, of which the helper is told."""
    before = _owners()
    secret = arena.beside("secret")
    secret.mkdir(mode=0o700)
    link = arena.beside("link")
    link.symlink_to("/etc")
    with unprivileged_account() as other:
        theirs = other.project("theirs")
        theirs.chmod(0o700)
        projects = [Path(path) for path in ("/etc", "/root", "/", "/usr", "/dev/shm", "/proc/1/root")]
        for project in (*projects, secret, link, theirs, arena.account.home, Path(f"/proc/{os.getpid()}/cwd")):
            answer = sudoer.starts(project)
            assert "error" in answer, (project, answer)
            assert "Traceback" not in answer["error"], answer
            sudoer.record(_spec(project))
            reply, _ = sudoer.helper("start", content=_start_content(sudoer))
            assert "what" in reply, (project, reply)
            shutil.rmtree(sudoer.state_dir)
            assert [line for line in arena.of_root() if "machines" in line] == []
    link.unlink()
    assert _changed(before) == []
    assert {path.stat().st_uid for path in (secret,)} == {0}


def _start_content(sudoer: Sudoer) -> dict[str, Any]:
    return {
        "folder": f"{sudoer.folder}/launch",
        "pane": {"pid": os.getpid(), "start": 1},
        "display": None,
        "resumes": 0,
    }


def test_a_project_exchanged_for_a_link(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Again and again while it starts: what is mounted is the project, or it does not start."""
    before = _owners()
    (arena.project / "marker").write_text("", encoding="utf-8")
    arena.account.own(arena.project)
    link = arena.beside("swap")
    link.symlink_to("/etc")
    os.chown(link, arena.account.uid, arena.account.gid, follow_symlinks=False)
    swapper = os.fork()
    if not swapper:
        _exchange_for_ever(arena.project, link, os.getppid())
    found: dict[str, int] = {}
    deadline = time.monotonic() + _SWAP_SECONDS
    try:
        while time.monotonic() < deadline and sum(found.values()) < _SWAP_STARTS:
            answer = sudoer.starts(arena.project)
            what = "started"
            if "error" in answer:
                what = "refused"
                assert "Traceback" not in answer["error"], answer
            else:
                looked = sudoer.does(argv=["sh", "-c", f"ls -a '{arena.project}'; touch '{arena.project}/written'"])
                assert looked.get("out", "").split() in ([".", "..", "marker"], [".", "..", "marker", "written"]), (
                    looked
                )
            found[what] = found.get(what, 0) + 1
            sudoer.does(state="absent")
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)
    if arena.project.is_symlink():
        _exchange(arena.project, link)
    link.unlink()
    assert sum(found.values()) >= 5, found
    assert not Path("/etc/written").exists()
    assert _changed(before) == []


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_RENAMEAT2, _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


def _exchange_for_ever(one: Path, other: Path, parent: int) -> None:
    try:
        while os.getppid() == parent:
            _exchange(one, other)
            # Of two that are always exchanged the start would never find the one that it can take.
            time.sleep(0.002)
    finally:
        os._exit(0)


# --- records, and everything else that comes from the account ---------------------------------------------------------


def test_records_that_are_none(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Each is refused with one clear error."""
    good = _spec(arena.project)
    deep = b"[" * 100_000
    contents: dict[str, dict[str, Any] | bytes] = {
        "no JSON": b"{",
        "a list": b"[]",
        "deep": deep,
        "huge": b" " * (5 << 20) + json.dumps(good).encode(),
        "binary": bytes(range(256)),
        "another's": _spec(arena.project, user="root"),
        "nobody's": _spec(arena.project, user="no-such-account"),
        "bubblewrap": {**good, "spec": {"project_dir": str(arena.project), **PLAIN, "backend": "bubblewrap"}},
        "an id with slashes": {**good, "id": "../../../etc/x"},
        "an id that is an option": {**good, "id": "--bind=/"},
        "no user namespace": _spec(arena.project, container={"user_namespace": False}),
        "a shadow": _spec(arena.project, mounts=[{"source": "/etc/shadow", "target": "/x", "mode": "rw"}]),
        "a disk": _spec(arena.project, mounts=[{"source": "/dev/vda", "target": "/x", "mode": "rw"}]),
        "on /proc": _spec(arena.project, mounts=[{"source": str(arena.project), "target": "/proc"}]),
        "on /dev": _spec(arena.project, mounts=[{"source": str(arena.project), "target": "/dev/x"}]),
        "above": _spec(arena.project, mounts=[{"source": str(arena.project), "target": "/a/../../b"}]),
        "an option": _spec(
            arena.project, agent=["--bind=/etc:/etc"], mounts=[{"source": "/etc", "target": "/x", "mode": "rw"}]
        ),
    }
    before = _owners()
    faults = []
    for what, content in contents.items():
        sudoer.record(content)
        for operation in ("start", "stop", "exists", "execute", "mount"):
            asked = {
                **_start_content(sudoer),
                "grace": 0,
                "path": "/etc",
                "added": [{"source": "/etc", "target": "/x", "mode": "rw", "checked": True}],
                "binds": [],
                "invocation": {"argv": ["id"], "env": {}, "cwd": "/", "shell": "/bin/sh", "stdin": "", "timeout": 5},
            }
            reply, _ = sudoer.helper(operation, content=asked)
            if not (_is_clear(reply) or (operation == "stop" and "value" in reply)):
                faults.append((what, operation, reply))
        shutil.rmtree(sudoer.state_dir)
    assert arena.left_behind() == []
    assert _changed(before) == []
    assert faults == []


def _is_clear(reply: Mapping[str, Any]) -> bool:
    """Whether the helper refused, in words that are for people."""
    what = str(reply.get("what", ""))
    return bool(what) and "Traceback" not in what and what.count("\n") <= 1


def test_arguments_and_input_that_are_none(arena: ContainerArena, sudoer: Sudoer) -> None:
    sudoer.record(_spec(arena.project))
    faults = []
    for operation, name in (
        ("start", "../sandboxes/box"),
        ("start", "/etc"),
        ("start", ""),
        ("start", "."),
        ("", "box"),
    ):
        reply, _ = sudoer.helper(operation, name)
        if not _is_clear(reply):
            faults.append((operation, name, reply))
    for words in (["enter", "box"], ["start"], ["start", "a", "b", "c", "d"]):
        done = sudoer.run("sudo", "-n", str(HELPER), *words)
        assert "what" in json.loads(done.stdout)
        assert not done.stderr
    inputs = (b"garbage", b"[]", b"[" * 100_000, b"1" * 10_000, b"\xff\xfe", b" " * (65 << 20), b"null", b'{"a": 1}')
    for number, stdin in enumerate(inputs):
        reply, _ = sudoer.helper("start", content=stdin)
        if not _is_clear(reply):
            faults.append(("start", stdin[:20].decode("latin-1"), reply))
        for operation in ("stop", "execute", "mount", "exists") if number in (0, 7) else ():
            reply, _ = sudoer.helper(operation, content=stdin)
            if not _is_clear(reply):
                faults.append((operation, stdin[:20].decode("latin-1"), reply))
    link = sudoer.folder / "link"
    link.symlink_to("/root")
    for state_dir in (link, Path("/root"), Path("/proc/1/root/root"), Path("relative"), Path("/dev/zero")):
        reply, _ = sudoer.helper(state_dir=state_dir)
        if not _is_clear(reply):
            faults.append(("start", str(state_dir), reply))
    assert faults == []


def test_numbers_that_are_none(arena: ContainerArena, sudoer: Sudoer) -> None:
    """A wait that never ends would be a process of root's that the account cannot end."""
    assert "error" not in sudoer.starts(
        arena.project, agent=["sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"]
    )
    faults = []
    for grace in (b"NaN", b'"x"', b"null", b"-1"):
        try:
            reply, _ = sudoer.helper("stop", content=b'{"grace": ' + grace + b"}", seconds=8)
        except subprocess.TimeoutExpired:
            faults.append((grace, "no answer"))
            continue
        if "value" not in reply and not _is_clear(reply):
            faults.append((grace, reply["what"][:80]))
        sudoer.does(state="started")
    assert faults == []


def test_the_environment_of_the_account(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Nothing of it reaches what runs as root."""
    traps = sudoer.folder / "traps"
    traps.mkdir(mode=0o755)
    program = f"#!/bin/sh\nid -u >>{sudoer.folder}/ran\nexit 1\n"
    for name in ("systemd-nspawn", "sh", "bash", "getent", "python3", "tmux", "mount"):
        (traps / name).write_text(program, encoding="utf-8")
        (traps / name).chmod(0o755)
    (traps / "sitecustomize.py").write_text(f"open('{sudoer.folder}/ran', 'a').write('python')\n", encoding="utf-8")
    (traps / "claude_sandbox.py").write_text(f"open('{sudoer.folder}/ran', 'a').write('engine')\n", encoding="utf-8")
    arena.account.own(sudoer.folder)
    sudoer.record(_spec(arena.project))
    hostile = {"PATH": f"{traps}:/usr/bin:/bin", "PYTHONPATH": str(traps), "PYTHONSTARTUP": f"{traps}/sitecustomize.py"}
    hostile |= {"BASH_ENV": f"{traps}/bash", "ENV": f"{traps}/sh", "LD_PRELOAD": f"{traps}/none.so", "IFS": "/"}
    hostile |= {"SUDO_UID": "0", "XDG_RUNTIME_DIR": "/root", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "x", "HOME": "/root"}
    for operation in ("start", "stop", "exists"):
        done = sudoer.run(
            "/usr/bin/sudo", "-n", str(HELPER), operation, str(sudoer.state_dir), "box", stdin=b"{}", env=hostile
        )
        assert b"Traceback" not in done.stderr
    shutil.rmtree(sudoer.state_dir)
    started = sudoer.answer(
        sudoer.run(*sudoer.driver(params=sudoer.params(arena.project)), env={**hostile, "LD_PRELOAD": ""})
    )
    ran = sudoer.folder / "ran"
    assert "0" not in (ran.read_text(encoding="utf-8").split() if ran.exists() else []), started


def test_who_runs_it(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Only by sudo, and from an account that is not root."""
    sudoer.record(_spec(arena.project))
    faults = []
    for uid in (None, "0", "", "-1", "00", "0x0", " 0", "root", "²", "٠", "4294967295"):
        environment = {"PATH": "/usr/bin:/bin"} | ({} if uid is None else {"SUDO_UID": uid})
        done = subprocess.run(
            [*sudoer.prefix(), str(HELPER), "start", str(sudoer.state_dir), "box"],
            env=environment,
            input=b"{}",
            capture_output=True,
            check=False,
        )
        reply = json.loads(done.stdout)
        if not any(words in reply.get("what", "") for words in ("is run by sudo", "There is no account")):
            faults.append((uid, reply))
    direct = sudoer.run(str(HELPER), "stop", str(sudoer.state_dir), "box")
    assert "is run by sudo" in json.loads(direct.stdout)["what"]
    assert faults == []


def _bind(source: Path, target: str) -> dict[str, Any]:
    return {"source": str(source), "target": target, "mode": "ro"}


def test_containers_of_others(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Neither their registry nor the name of their machine lets anybody at them."""
    arena.play(arena.started("mine"))
    machine = arena.engine.registry.resolve("mine")
    with unprivileged_account() as other, sudoer_of(other) as rival:
        rival.record({**_spec(other.project("rival")), "id": machine.id}, "mine")
        everything = {
            "stop": {"grace": 0},
            "exists": {"path": "/etc"},
            "execute": {
                "invocation": {"argv": ["id"], "env": {}, "cwd": "/", "shell": "/bin/sh", "stdin": "", "timeout": 5}
            },
            "mount": {
                "added": [{"source": str(other.home), "target": "/x", "mode": "ro", "checked": True}],
                "binds": [],
            },
        }
        for operation, content in everything.items():
            reply, _ = rival.helper(operation, "mine", content)
            assert "belongs to another account" in reply.get("what", ""), (operation, reply)
            reply, _ = rival.helper(operation, "mine", content, state_dir=arena.state_dir)
            assert "what" in reply, (operation, reply)
        taken = rival.does(name="mine", state="started", params=None)
        assert "error" in taken, taken
    assert arena.engine.execute("mine", ["true"]).code == 0


def test_a_mount_where_root_writes(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Nothing is made, or given to another, by root in a folder of the account's: it could put a link in the way."""
    old = arena.beside("old")
    old.mkdir()
    # Without mapped owners what root makes there would be made.
    script = 'mount -t ramfs none "$1" && mkdir -m 777 "$1/open" && chmod 777 "$1/open" && chown "$2:$2" "$1/open"'
    subprocess.run([*sudoer.prefix(), "sh", "-c", script, "sh", str(old), str(arena.account.uid)], check=True)
    for target in ("/run/claude-sandbox", "/run", "/run/host", "/run/systemd"):
        answer = sudoer.starts(arena.project, mounts=[{"source": f"{old}/open", "target": target, "mode": "rw"}])
        made = sudoer.run("ls", "-ln", f"{old}/open").stdout.decode()
        sudoer.does(state="absent")
        assert made == "total 0\n", (target, answer, made)


# --- a tree of programs of the account's own --------------------------------------------------------------------------

_PROGRAM = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
  char text[4096];
  int in = open("/proc/self/status", O_RDONLY), size = read(in, text, sizeof text - 1);
  text[size < 0 ? 0 : size] = 0;
  mkdir("/ran-as-root", 0777);
  char path[64];
  snprintf(path, sizeof path, "/ran-as-root/%s", strrchr(words[0], '/') ? strrchr(words[0], '/') + 1 : words[0]);
  int out = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0666);
  write(out, text, strlen(text));
  close(out);
  if (strstr(words[0], "getent")) printf("NAME:x:UID:GID::/:/bin/sh\\n");
  else sleep(8);
  return 0;
}
"""


def _tree(arena: ContainerArena, *, whole: bool) -> Path:
    """A tree of the account's own; whole with a Python that has more encodings than others have."""
    tree = arena.beside("tree")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    for folder in ("usr/lib", "usr/lib64"):
        (tree / folder).mkdir()
    programs = ("bash", "sh", "getent", "id", "sleep", "ls", "cat", "stat", "mkdir")
    for name in programs:
        shutil.copy(f"/usr/bin/{name}", tree / "usr/bin" / name)
        listed = subprocess.run(["ldd", f"/usr/bin/{name}"], capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"(/\S+) \(0x", listed):
            target = tree / os.path.realpath(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            named = tree / "usr" / path.lstrip("/").removeprefix("usr/")
            named.parent.mkdir(parents=True, exist_ok=True)
            if not named.exists():
                shutil.copy(path, named)
    if whole:
        engine = tree / "usr/local/lib/claude-sandbox/engine/claude_sandbox"
        engine.mkdir(parents=True)
        for module in (playing.CLONE / "plugins/module_utils/claude_sandbox").glob("*.py"):
            (engine / module.name).write_text("# -*- coding: of_the_account -*-\n", encoding="ascii")
        for version in Path("/usr/lib").glob("python3.*/encodings"):
            encodings = tree / str(version).lstrip("/")
            encodings.mkdir(parents=True)
            (encodings / "of_the_account.py").write_text("import os\nos.mkdir('/ran-as-root')\n", encoding="ascii")
    arena.account.own(tree)
    return tree


def test_code_of_a_tree_and_the_words_for_an_error(arena: ContainerArena, sudoer: Sudoer) -> None:
    """Whatever goes wrong among the container's mounts, root takes no program from there."""
    tree = _tree(arena, whole=True)
    started = sudoer.starts(arena.project, rootfs=str(tree))
    assert "error" not in started, started
    assert sudoer.does(argv=["true"])["code"] in (0, 127)
    wrong = ("/data/\ud800", "/data/" + "x" * 5000, "/usr/none", "/tmp/\ud800/x", f"{arena.project}/\udcff")
    replies = [
        sudoer.helper("mount", content={"added": [_bind(arena.project, target)], "binds": []})[0] for target in wrong
    ]
    (init,) = [pid for pid, words in arena.processes() if words.startswith("(sd-stubinit)")] or [0]
    ran = Path(f"/proc/{init}/root/ran-as-root")
    assert init
    assert not ran.exists(), f"root ran the account's code: owner {ran.stat().st_uid}, {replies}"
    assert [reply for reply in replies if "Traceback" in reply.get("what", "")] == []


def test_programs_of_a_tree_without_a_user_namespace(arena: ContainerArena, as_root: None) -> None:
    """Root may leave that out, and name a tree that somebody else can write: then, too, nothing there runs as root."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler")
    tree = _with_own_getent(arena)
    (made,) = arena.play(arena.started(rootfs=str(tree), container={"user_namespace": False}))
    if not made.failed:
        ran = arena.root_of() / "ran-as-root"
        assert not ran.exists() or ran.stat().st_uid != 0, (ran / "getent").read_text(encoding="utf-8")


def test_what_is_seen_from_inside(arena: ContainerArena, as_root: None) -> None:
    """Whether something exists is asked with the account's rights: not those of root's group, nor of a capability."""
    tree = _tree(arena, whole=False)
    for name, mode in (("by-group", 0o750), ("by-root", 0o700)):
        folder = tree / "usr" / name
        folder.mkdir(mode=mode)
        (folder / "file").touch()
    made, *results = arena.play(
        arena.started(rootfs=str(tree)),
        *(arena.inside("true", creates=f"/usr/{name}/file") for name in ("by-group", "by-root")),
        *(arena.inside("sh", "-c", f"cat /usr/{name}/file") for name in ("by-group", "by-root")),
    )
    assert not made.failed, made.message
    assert [result["rc"] != 0 for result in results[2:]] == [True, True]
    assert [result.changed for result in results[:2]] == [True, True]


def _with_own_getent(arena: ContainerArena) -> Path:
    tree = _tree(arena, whole=False)
    text = _PROGRAM.replace("NAME", arena.account.name)
    text = text.replace("UID", str(arena.account.uid)).replace("GID", str(arena.account.gid))
    (tree / "program.c").write_text(text, encoding="ascii")
    options = ["-w", "-static", "-include", "sys/stat.h"]
    subprocess.run(["gcc", *options, "-o", str(tree / "program"), str(tree / "program.c")], check=True)
    shutil.copy(tree / "program", tree / "usr/bin/getent")
    arena.account.own(tree)
    return tree


def test_programs_of_a_tree(arena: ContainerArena, sudoer: Sudoer) -> None:
    """The ones that systemd-nspawn itself runs, too, have no id of the host's and no capability of it."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler")
    tree = _with_own_getent(arena)
    started = sudoer.starts(arena.project, rootfs=str(tree))
    assert "error" not in started, started
    pids = [pid for pid, words in arena.processes() if words.startswith("(sd-stubinit)")]
    (seen,) = [path.read_text(encoding="utf-8") for path in Path(f"/proc/{pids[0]}/root/ran-as-root").iterdir()]
    status = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert (Path(f"/proc/{pids[0]}/root/ran-as-root")).stat().st_uid >= 0x80000
    assert status["NoNewPrivs"] == "1"
    # It asks who the account is before all is given up, and is root of the container then: of that alone.
    assert int(status["Uid"].split()[0]) == 0
