"""Processes, with real ones: who is who, who is alive, how one is ended, and work in a forked child."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import host, procs
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

PATIENCE = 10.0  # seconds, for what takes milliseconds
IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


@contextlib.contextmanager
def running(*argv: str, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, stdout=stdout)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def identified(child: subprocess.Popen[bytes]) -> procs.Process:
    process = procs.identify(child.pid)
    assert process is not None
    return process


def test_oneself_is_alive() -> None:
    me = procs.identify(os.getpid())
    assert me is not None
    assert me.pid == os.getpid()
    assert me.alive()


def test_another_process_with_the_same_pid_is_not_the_same() -> None:
    """Pids come round again: what was meant is known by its start."""
    with running("sleep", "60") as child:
        real = identified(child)
        earlier = procs.Process(real.pid, real.start - 1)
        assert not earlier.alive()
        assert earlier.wait(0)
        earlier.signal(signal.SIGKILL)
        earlier.end(0)
        assert not real.wait(0.1)
        assert real.alive()


def test_one_that_waits_to_be_reaped_is_not_alive() -> None:
    with running("true") as child:
        process = procs.Process(child.pid, 0)
        assert procs.until(lambda: procs.identify(child.pid) is None, PATIENCE)
        assert Path(f"/proc/{child.pid}").exists()
        assert not process.alive()
        assert process.wait(0)


def test_nobody() -> None:
    # Beyond what the kernel gives to a process (PID_MAX_LIMIT).
    nobody = procs.Process(1 << 22, 1)
    assert procs.identify(nobody.pid) is None
    assert not nobody.alive()
    nobody.signal(signal.SIGTERM)
    nobody.end(PATIENCE)
    assert procs.children(nobody.pid) == []
    assert procs.command_name(nobody.pid) is None
    assert procs.innermost_pid(nobody.pid) is None
    assert procs.usages([nobody.pid]) == {nobody.pid: procs.Usage(0.0, 0, 0)}


def test_end_asks_first() -> None:
    with running("sleep", "60") as child:
        identified(child).end(PATIENCE)
        assert child.wait(PATIENCE) == -signal.SIGTERM


def test_end_makes_one_end_that_does_not_listen() -> None:
    with running(sys.executable, "-c", IGNORES_TERM, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        identified(child).end(0.1)
        assert child.wait(PATIENCE) == -signal.SIGKILL


def test_wait_tells_whether_it_ended_in_time() -> None:
    with running("sleep", "60") as child:
        process = identified(child)
        assert not process.wait(0.05)
        child.kill()
        assert process.wait(PATIENCE)


def test_whose_pid_is_a_thread_s_by_now_is_gone() -> None:
    known, done = threading.Event(), threading.Event()

    def run() -> None:
        known.set()
        done.wait(PATIENCE)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert known.wait(PATIENCE)
        assert thread.native_id is not None
        former = procs.Process(thread.native_id, 1)
        former.signal(signal.SIGKILL)
        assert former.wait(0)
    finally:
        done.set()
        thread.join()


def test_children_and_names() -> None:
    with running("sh", "-c", "sleep 60 & wait") as child:
        found = procs.until(lambda: procs.children(child.pid), PATIENCE)
        assert procs.until(lambda: procs.command_name(found[0].pid) == "sleep", PATIENCE)
        found[0].end(PATIENCE)
    assert procs.command_name(os.getpid()) == Path("/proc/self/comm").read_text().strip()
    assert procs.innermost_pid(os.getpid()) == os.getpid()


@pytest.mark.parametrize("name", ["a) R 1 (b", "(", ")", "a b\tc"])
def test_a_name_with_anything_in_it_does_not_mislead(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    with running(str(program), "60") as child:
        assert identified(child).alive()


@pytest.mark.parametrize(
    "argv, found",
    [
        pytest.param(["-S", "/run/x/tmux"], True, id="next-to-each-other"),
        pytest.param(["a", "-S", "/run/x/tmux", "b"], True, id="in-the-middle"),
        pytest.param(["-S", "/run/x/tmux2"], False, id="longer-value"),
        pytest.param(["-S", "/run/x/tmu"], False, id="shorter-value"),
        pytest.param(["--S", "/run/x/tmux"], False, id="longer-option"),
        pytest.param(["-S", "a", "/run/x/tmux"], False, id="apart"),
        pytest.param(["-S/run/x/tmux"], False, id="one-word"),
        pytest.param(["-S /run/x/tmux"], False, id="one-word-with-a-space"),
        pytest.param(["/run/x/tmux", "-S"], False, id="the-other-way-round"),
    ],
)
def test_with_arguments(argv: list[str], found: bool) -> None:
    unique = f"/{os.getpid()}"
    words = [word.replace("/run", unique) for word in argv]
    sleeps = "import time; print(flush=True); time.sleep(60)"
    with running(sys.executable, "-c", sleeps, *words, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        expected = [identified(child)] if found else []
        pairs = [("-auth", f"{unique}/x/xauth"), ("-S", f"{unique}/x/tmux")]
        assert procs.with_arguments(pairs, os.getuid()) == expected
        assert procs.with_arguments(pairs[:1], os.getuid()) == []
        assert procs.with_arguments(pairs, os.getuid() + 1) == []


def test_until_gives_the_first_true_value_else_the_last() -> None:
    values = iter([0, "", "first", "second"])
    assert procs.until(lambda: next(values), PATIENCE) == "first"
    assert procs.until(lambda: 0, 0.01) == 0
    assert procs.until(list, 0) == []


def test_usages_of_several_at_once() -> None:
    with running("sleep", "60") as child:
        used = procs.usages([os.getpid(), child.pid])
    assert used[child.pid].processes == 1
    # Ours has the child's in it.
    assert used[os.getpid()].processes >= 2
    assert used[os.getpid()].memory_bytes > 1 << 20
    assert used[os.getpid()].cpu_seconds > 0


def test_usage_of_a_tree_counts_all_that_descend_from_its_first() -> None:
    """And nobody else: the engine itself is in the same namespace."""
    with running("sh", "-c", "sh -c 'sleep 60 & wait' & sleep 60 & wait") as child:
        assert procs.until(lambda: procs.usages([child.pid])[child.pid].processes == 4, PATIENCE)
        used = procs.usages([child.pid])[child.pid]
        assert used.memory_bytes > 4 * os.sysconf("SC_PAGE_SIZE")
        assert used.cpu_seconds < PATIENCE
        for each in reversed([*procs.children(child.pid), *procs.children(procs.children(child.pid)[0].pid)]):
            each.signal(signal.SIGKILL)


def test_usage_of_a_tree_counts_what_another_thread_has_started() -> None:
    starts = "import subprocess, threading as t; t.Thread(target=subprocess.run, args=(['sleep', '60'],)).start()"
    with running(sys.executable, "-c", starts) as child:
        assert procs.until(lambda: procs.usages([child.pid])[child.pid].processes == 2, PATIENCE)
        # A child of another thread is none of the first one's.
        assert procs.children(child.pid) == []
        with open(f"/proc/{child.pid}/task/{max(os.listdir(f'/proc/{child.pid}/task'), key=int)}/children") as file:
            os.kill(int(file.read()), signal.SIGKILL)


@pytest.mark.parametrize(
    "argv, found",
    [
        pytest.param(["--machine=demo"], True, id="last"),
        pytest.param(["a", "--machine=demo", "b"], True, id="in-the-middle"),
        pytest.param(["--machine=demo2"], False, id="longer"),
        pytest.param(["x--machine=demo"], False, id="with-something-before"),
        pytest.param(["a --machine=demo b"], False, id="in-a-word"),
    ],
)
def test_with_word(argv: list[str], found: bool) -> None:
    word = f"--machine=demo{os.getpid()}-"
    words = [each.replace("--machine=demo", word) for each in argv]
    sleeps = "import time; print(flush=True); time.sleep(60)"
    with running(sys.executable, "-c", sleeps, *words, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert procs.with_word(word, os.getuid()) == ([identified(child)] if found else [])
        assert procs.with_word(word, os.getuid() + 1) == []


# Work in a child.


@pytest.mark.parametrize(
    "value",
    [None, 0, "ü\ud800\n", [1, {"a": [None]}], {"what": "a", "hint": "b", "crash": "c"}, "x" * 1_000_000],
    ids=["none", "zero", "text", "nested", "keys-of-the-answer-itself", "more-than-a-pipe-holds"],
)
def test_fork_gives_the_value(value: object) -> None:
    assert procs.fork(None, lambda: value).result() == value


def test_fork_works_in_another_process() -> None:
    assert procs.fork(None, os.getppid).result() == os.getpid()


def test_fork_raises_the_same_sandbox_error() -> None:
    def fail() -> None:
        raise SandboxError("What ü.", "Do.")

    with pytest.raises(SandboxError) as caught:
        procs.fork(None, fail).result()
    assert (caught.value.what, caught.value.hint) == ("What ü.", "Do.")


def exits() -> None:
    sys.exit(0)


def divides() -> None:
    _ = 1 / 0


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "function, words",
    [
        pytest.param(divides, "ZeroDivisionError", id="exception"),
        pytest.param(exits, "SystemExit", id="exit"),
    ],
)
def test_fork_tells_of_a_crash(function: Callable[[], Any], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        procs.fork(None, function).result()


def test_fork_tells_of_a_child_that_was_killed() -> None:
    """As the kernel does when memory is out: that is no fault of the program's."""
    with pytest.raises(SandboxError, match="signal 9"):
        procs.fork(None, dies).result()


def test_fork_leaves_no_process_and_no_descriptor() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    procs.fork(None, lambda: 1).result()
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_fork_runs_no_cleanup_of_its_parent(tmp_path: Path) -> None:
    """A child that ran them would remove its parent's files, or write its buffers twice."""
    script = """
import atexit, sys
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import procs
atexit.register(print, "cleanup")
print("before")
def fail(): raise KeyboardInterrupt
for function in (list, fail):
    try:
        procs.fork(None, function).result()
    except RuntimeError:
        print("crashed")
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["before", "crashed", "cleanup"]


@as_root
def test_fork_becomes_the_account_for_good() -> None:
    nobody = host.account("nobody")

    def work() -> dict[str, Any]:
        with contextlib.suppress(PermissionError):
            os.setuid(0)
        old = os.umask(0)
        return {
            "uids": os.getresuid(),
            "gids": os.getresgid(),
            "groups": os.getgroups(),
            "umask": old,
            "cwd": os.getcwd(),
            "readable": os.access("/etc/shadow", os.R_OK),
        }

    assert procs.fork(nobody, work).result() == {
        "uids": [nobody.uid] * 3,
        "gids": [nobody.gid] * 3,
        "groups": sorted(nobody.groups),
        "umask": 0o077,
        "cwd": "/",
        "readable": False,
    }
    assert os.geteuid() == 0


def test_account_of_this_process() -> None:
    entry = pwd.getpwuid(os.getuid())
    found = host.account(os.getuid())
    assert (found.name, found.uid, found.gid, found.home) == (entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
    assert host.account(entry.pw_name) == found


def test_an_account_that_does_not_exist_is_told() -> None:
    with pytest.raises(SandboxError, match="There is no account 'no-such-account'"):
        host.account("no-such-account")


# Work side by side.


def numbered(number: int, seconds: float = 0.0) -> Callable[[], int]:
    def work() -> int:
        time.sleep(seconds)
        return number

    return work


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_in_parallel_keeps_the_order(workers: int) -> None:
    jobs = [numbered(number, 0.05 / (number + 1)) for number in range(6)]
    assert list(procs.in_parallel(workers, jobs)) == [0, 1, 2, 3, 4, 5]


def test_in_parallel_of_nothing() -> None:
    assert list(procs.in_parallel(3, [])) == []


def test_in_parallel_puts_an_error_in_its_place() -> None:
    def fail() -> None:
        raise SandboxError("No.", "Do.")

    first, error, last = procs.in_parallel(2, [numbered(1), fail, numbered(3)])
    assert (first, last) == (1, 3)
    assert isinstance(error, SandboxError)
    assert str(error) == "No.\nDo."


def meeting(folder: Path, number: int, wanted: int) -> Callable[[], int]:
    """Work that counts who else is at work, and waits until there are as many as wanted."""

    def work() -> int:
        mine = folder / str(number)
        mine.touch()
        met = procs.until(lambda: count if (count := len(os.listdir(folder))) >= wanted else 0, PATIENCE)
        # Whoever sees that all are there stays until the others have seen it, too.
        time.sleep(0.2 if wanted > 1 else 0.02)
        mine.unlink()
        return int(met)

    return work


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_parallel_as_many_work_at_once_as_may(tmp_path: Path, workers: int) -> None:
    jobs = [meeting(tmp_path, number, wanted=workers) for number in range(workers)]
    assert max(procs.in_parallel(workers, jobs)) == workers


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_parallel_no_more_work_at_once_than_may(tmp_path: Path, workers: int) -> None:
    jobs = [meeting(tmp_path, number, wanted=1) for number in range(3 * workers)]
    assert max(procs.in_parallel(workers, jobs)) <= workers


def test_a_value_that_is_not_of_json_is_told_as_a_crash() -> None:
    with pytest.raises(RuntimeError, match="not JSON serializable"):
        procs.fork(None, lambda: {"a": b"bytes"}).result()
