"""Runs the engine and has something happen to it: a kill at a chosen moment, a rival, a full disk.

A program of its own, for what it does to processes is not to be done to the one that runs the tests:

    python -m tests.integration.mishaps MISHAP ACCOUNT STATE_DIR PROJECT

prints as JSON what was found.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request
from tests.integration.arena import PLAIN, Arena
from tests.support.account import Account

# What changes something outside the process, or begins to. Python tells of each just before it does it.
_MOMENTS = frozenset(
    "os.chmod os.chown os.fork os.link os.mkdir os.remove os.rename os.rmdir os.symlink fcntl.flock subprocess.Popen"
    " shutil.rmtree pty.spawn".split()
)
_RIVALS = 3
_ROUNDS = 8
_PAGE = 4096

Answer = dict[str, Any]


def _request(arena: Arena, **more: Any) -> Request:
    secret = {"TOKEN": "token-for-tests"}
    params = {"project_dir": str(arena.project), **PLAIN, **arena.settings}
    return Request("box", params=params | more.pop("params", {}), secret_env=secret, on_change="restart", **more)


def _absent() -> Request:
    return Request("box", "absent")


def _in_child(work: Callable[[], Any]) -> tuple[int, Callable[[], Answer]]:
    """Run work in a child: its pid, and a function that waits for the answer: value, error, crash, or killed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read_end)
        with open(write_end, "w", encoding="utf-8") as pipe:
            json.dump(_answer(work), pipe)
        os._exit(0)
    os.close(write_end)

    def wait() -> Answer:
        # Who was killed leaves children behind that have the pipe open: its own end is what counts.
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            os.close(read_end)
            return {"killed": os.WTERMSIG(status)}
        with open(read_end, encoding="utf-8") as pipe:
            answer: Answer = json.load(pipe)
        return answer

    return pid, wait


def _answer(work: Callable[[], Any]) -> Answer:
    try:
        return {"value": work()}
    except SandboxError as error:
        return {"error": str(error)}
    except BaseException:  # noqa: BLE001 - the test has to hear of it
        return {"crash": traceback.format_exc()}


def _ensure(arena: Arena, request: Request) -> Answer:
    _, wait = _in_child(lambda: list(arena.engine.ensure(request).actions))
    return wait()


# --- killed -----------------------------------------------------------------------------------------------------------


def _watch(meet: Callable[[bool, str], None]) -> None:
    """Call meet(whether it is this process or one that it forked, what) at each moment from now on."""
    me = os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _MOMENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            words = next((str(argument) for argument in arguments if isinstance(argument, str)), "")
            meet(os.getpid() == me, f"{event} {words.rpartition('/')[2]}")

    sys.addaudithook(hook)


def _moments(arena: Arena, request: Request, own: bool) -> list[str]:
    """The moments that a request has, in the process itself or in those that it forks."""
    read_end, write_end = os.pipe()

    def note(mine: bool, what: str) -> None:
        if mine == own:
            os.write(write_end, f"{what}\n".encode())

    def work() -> list[str]:
        _watch(note)
        return list(arena.engine.ensure(request).actions)

    _, wait = _in_child(work)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        found = pipe.read().splitlines()
    answer = wait()
    assert answer.get("value"), answer
    return found


def _killed_at(arena: Arena, request: Request, own: bool, moment: int) -> Answer:
    """Carry out a request, with a kill just before the moment of that number."""
    left = moment

    def meet(mine: bool, _what: str) -> None:
        nonlocal left
        if mine == own:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def work() -> list[str]:
        _watch(meet)
        return list(arena.engine.ensure(request).actions)

    _, wait = _in_child(work)
    return wait()


def _wait_for_orphans(arena: Arena) -> None:
    """What was forked holds the sandbox until it is through, though nobody waits for it any more."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(arena.folder(), os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.close(descriptor)


def _sweep(
    arena: Arena, request: Request, own: bool, before: Request | None, repairs: list[Request]
) -> Iterator[Answer]:
    """Kill at each moment, then see whether a repair does what it says (each in its turn), and what is left then."""
    # The folders that are made once have moments of their own.
    assert "value" in _ensure(arena, before or request)
    if not before:
        assert "value" in _ensure(arena, _absent())
    moments = _moments(arena, request, own)
    assert "value" in _ensure(arena, _absent())
    for number, what in list(enumerate(moments))[:: arena.stride]:
        if before:
            assert "value" in _ensure(arena, before)
        killed = _killed_at(arena, request, own, number)
        if "value" in killed:
            # It was through before: a file that a sandbox makes while it runs is there or not yet when it is removed.
            assert "value" in _ensure(arena, _absent())
            continue
        _wait_for_orphans(arena)
        record = arena.engine.registry.get("box")
        repair = repairs[number // arena.stride % len(repairs)]
        found = {
            "moment": f"{number}: {what}",
            "repair": repair.state,
            "killed": killed,
            "record": record.problem if record else "",
            "repaired": _ensure(arena, repair),
            "status": [view["status"] for view in arena.engine.views()],
            "gone": _ensure(arena, _absent()),
        }
        arena.wait_until_gone(seconds=2.0)
        yield found | {"left": arena.left_behind()}
        arena.end_processes()
        for left in arena.state_dir.glob("sandboxes/.*"):
            shutil.rmtree(left)


def killed_in_start(arena: Arena) -> list[Answer]:
    """The process that starts a sandbox is killed."""
    repairs = [_request(arena), Request("box", "stopped"), _absent()]
    return list(_sweep(arena, _request(arena), True, None, repairs))


def killed_in_change(arena: Arena) -> list[Answer]:
    """The process that restarts a sandbox with another setting is killed."""
    changed = _request(arena, params={"network": False})
    return list(_sweep(arena, changed, True, _request(arena), [changed]))


def killed_in_destroy(arena: Arena) -> list[Answer]:
    """The process that removes a sandbox is killed."""
    return list(
        _sweep(arena, Request("box", "absent", purge=True), True, _request(arena), [_request(arena), _absent()])
    )


def worker_killed(arena: Arena) -> list[Answer]:
    """What the process has forked to work for the sandbox's account is killed."""
    return list(_sweep(arena, _request(arena), False, None, [_absent()]))


# --- rivals -----------------------------------------------------------------------------------------------------------


def rivals(arena: Arena) -> list[Answer]:
    """Several processes make, and then remove, one sandbox at the same time."""
    return [_round(arena, request) for _ in range(_ROUNDS) for request in (_request(arena), _absent())]


def _round(arena: Arena, request: Request) -> Answer:
    gate, opener = os.pipe()

    def work() -> list[str]:
        engine = arena.engine
        os.close(opener)
        os.read(gate, 1)
        return list(engine.ensure(request).actions)

    waits = [_in_child(work)[1] for _ in range(_RIVALS)]
    # The end of the pipe reaches all of them at once.
    os.close(gate)
    os.close(opener)
    answers = [wait() for wait in waits]
    return {"answers": answers, "status": [view["status"] for view in arena.engine.views()], "servers": _servers(arena)}


def _servers(arena: Arena) -> int:
    """How many sandboxes run, recorded or not."""
    return sum(" start-server " in words for _, words in arena.processes())


# --- a full disk ------------------------------------------------------------------------------------------------------


def full_disk(arena: Arena) -> list[Answer]:
    """With little and ever more room in a registry that is a small tmpfs (as root, in a mount namespace of its own)."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={16 * _PAGE},nr_inodes=200,mode=711", "none", str(arena.state_dir)]
    subprocess.run(mount, check=True)
    # The folders that are made once.
    assert "value" in _ensure(arena, _request(arena))
    assert "value" in _ensure(arena, Request("box", "absent", purge=True))
    found = [_with_room(arena, _with_pages, pages) for pages in range(6)]
    return found + [_with_room(arena, _with_inodes, inodes) for inodes in range(0, 24, 3)]


def _with_room(
    arena: Arena, room: Callable[[Arena, int], contextlib.AbstractContextManager[None]], much: int
) -> Answer:
    found: Answer = {"room": f"{much} of {room.__name__}"}
    with room(arena, much):
        found["started"] = _ensure(arena, _request(arena))
    found["left"] = [] if "value" in found["started"] else _left(arena)
    # With room again, for what is to be found full next is one that runs.
    found["again"] = _ensure(arena, _request(arena))
    spec = arena.folder() / "spec.json"
    old, change = spec.read_bytes(), {"network": False, "env": {"LONG": "x" * _PAGE}}
    with room(arena, much):
        found["changed"] = _ensure(arena, _request(arena, params=change))
        found["kept"] = spec.read_bytes() == old
        found["status"] = [view["status"] for view in arena.engine.views()]
        found["servers"] = _servers(arena)
    with room(arena, 0):
        found["gone"] = _ensure(arena, Request("box", "absent", purge=True))
    found["left_after"] = _left(arena)
    assert "value" in _ensure(arena, Request("box", "absent", purge=True))
    return found


def _left(arena: Arena) -> list[str]:
    """What there is of a sandbox that should not be there; what ends by itself with its pipe gets the time for it."""
    arena.wait_until_gone(seconds=2.0)
    return [*arena.left_behind(), *arena.engine.registry.names()]


@contextlib.contextmanager
def _with_pages(arena: Arena, pages: int) -> Iterator[None]:
    """That many pages and no more are free."""
    filler = arena.state_dir / "filler"
    status = os.statvfs(arena.state_dir)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - pages * _PAGE)))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _with_inodes(arena: Arena, inodes: int) -> Iterator[None]:
    """That many files and folders and no more can be made."""
    status = os.statvfs(arena.state_dir)
    _remount(arena, status.f_files - status.f_ffree + inodes)
    try:
        yield
    finally:
        _remount(arena, 200)


def _remount(arena: Arena, inodes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,nr_inodes={inodes}", str(arena.state_dir)], check=True)


MISHAPS = (killed_in_start, killed_in_change, killed_in_destroy, worker_killed, rivals, full_disk)


def main(name: str, account: str, state_dir: str, project: str, *, kind: type[Arena] = Arena) -> None:
    arena = kind(Account(account, Path(project).parent), Path(state_dir), Path(project))
    (mishap,) = (mishap for mishap in MISHAPS if mishap.__name__ == name)
    json.dump(mishap(arena), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
