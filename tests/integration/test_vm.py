"""The backend vm through the modules: what is alike for all backends, what only a machine has, and how one ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import vm
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.inside import Wait
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request
from tests.integration import mishaps, playing
from tests.integration.arena import PLAIN, arena_of_kind
from tests.integration.playing import Result, assert_quartet
from tests.integration.virtual import GUEST, SMALL, VirtualArena, obstacle
from tests.support.account import Account, unprivileged_account

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))

KEY = "canary-key-0123456789-abcdefghijklmnopqrstuvwxyz"
TOKEN = "canary-token-9876543210-zyxwvutsrqponmlkjihgfedcba"
ODD = "odd, a=b 'c' \"d\" \\e %f $g ü"
GEOMETRY = (800, 600)
SCREEN: dict[str, Any] = {"grants": {**PLAIN["grants"], "display": True}}


@pytest.fixture
def arena(account: Account, request: pytest.FixtureRequest) -> Iterator[VirtualArena]:
    with arena_of_kind(VirtualArena, account, f"vm-{request.node.name}") as made:
        yield made


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[VirtualArena, Result]]:
    """One that runs, for all that only look at it, and what its start returned. Its account has nothing else."""
    with unprivileged_account() as account, arena_of_kind(VirtualArena, account, "vm-shared") as made:
        (result,) = made.play(
            made.started(
                network=False,
                vm={"memory": 320, "cpus": 1},
                geometry="{}x{}".format(*GEOMETRY),
                env={"FROM": "agent"},
                api_key=KEY,
                secret_env={"TOKEN": TOKEN},
                mounts=_mounts(made),
                **SCREEN,
            )
        )
        assert not result.failed, result
        yield made, result


def _mounts(arena: VirtualArena) -> list[dict[str, str]]:
    """Folders and files of odd names, each to be written and only to be read, and one that is not there."""
    folder = arena.new_project(ODD)
    for name in ("rw", "ro", f"{ODD}.rw", f"{ODD}.ro"):
        path = folder / name
        if path.name.startswith("odd"):
            path.write_text(f"{path.name}\n", encoding="utf-8")
        else:
            path.mkdir()
            (path / "file").write_text(f"{path.name}\n", encoding="utf-8")
    arena.account.own(folder)
    found = [
        {"source": str(folder / name), "target": f"/opt/{ODD}/{name}", "mode": name.rpartition(".")[2]}
        for name in ("rw", "ro", f"{ODD}.rw", f"{ODD}.ro")
    ]
    return [*found, {"source": str(folder / "gone"), "target": "/opt/gone", "mode": "ro"}]


# --- one that runs ----------------------------------------------------------------------------------------------------


def test_what_is_returned(machine: tuple[VirtualArena, Result]) -> None:
    """The same fields as any other backend's, with those that only a machine has filled."""
    arena, result = machine
    sandbox = result.sandbox
    (other,) = arena.play(arena.started("other", backend="bubblewrap", vm=None))
    assert sorted(other.sandbox) == sorted(sandbox)
    assert set(other) == set(result) - {"warnings"}
    assert (sandbox["backend"], sandbox["status"], sandbox["reason"]) == ("vm", "running", None)
    assert sandbox["vm"] == {"accel": "auto", "memory": 320, "cpus": 1, "guest": str(GUEST)}
    assert sandbox["given"] == ["display"]
    assert list(sandbox["skipped"]) == [f"mount {arena.project.parent}/{ODD}/gone"]
    assert Path(sandbox["qemu_qmp_socket"]).is_socket()
    assert (other.sandbox["qemu_qmp_socket"], other.sandbox["accelerator"]) == (None, None)
    assert sandbox["attach_command"].endswith(f"{sandbox['tmux_socket']} attach -t main")
    assert Path(f"/proc/{sandbox['pid']}").stat().st_uid == arena.account.uid
    arena.engine.ensure(Request("other", "absent"))


def test_the_accelerator_that_works_is_taken(machine: tuple[VirtualArena, Result]) -> None:
    """Where that is not KVM, a warning says why."""
    _, result = machine
    slow = [text for text in result["warnings"] if "runs without KVM, and slowly: " in text]
    assert (result.sandbox["accelerator"], len(slow)) in (("kvm", 0), ("tcg", 1))


def test_kvm_that_does_not_work(machine: tuple[VirtualArena, Result]) -> None:
    arena, result = machine
    if result.sandbox["accelerator"] == "kvm":
        pytest.skip("KVM works here")
    args: dict[str, Any] = {"name": "fast", "vm": {**SMALL, "accel": "kvm"}}
    for refused in arena.play(arena.started(check=True, **args), arena.started(**args)):
        assert refused.failed
        assert refused.message.startswith("KVM does not work: "), refused.message
        assert any(hint in refused.message for hint in ("As root: ", "Use accel: tcg")), refused.message
    assert arena.engine.registry.names() == ["box"]


def test_exec(machine: tuple[VirtualArena, Result]) -> None:
    arena, _ = machine
    results = arena.play(
        arena.inside("sh", "-c", "echo out; echo err >&2; pwd; echo $FROM $MORE", env={"MORE": "task"}, chdir="/tmp"),
        arena.inside("sh", "-c", "echo last words; exit 42"),
        arena.inside("sh", "-c", "pwd; cat; kill -9 $$", stdin="one\ntwo ü\n"),
        arena.inside("printf", "%s|", "a b", "$(id)", ";", "", "*", "-n", "ü\n"),
        arena.inside("no-such-program"),
        arena.inside("true", chdir="/no/such/folder"),
        arena.inside("touch", "ran", check=True),
        arena.inside("touch", "ran", creates="/usr/bin/env"),
        arena.inside("touch", "ran", removes="/tmp/nothing"),
    )
    spoke, failed, killed, literal, missing, lost, check, there, not_there = results
    assert (spoke["rc"], spoke.changed, spoke.failed) == (0, True, False)
    assert (spoke["stdout"], spoke["stderr"]) == ("out\n/tmp\nagent task", "err")
    assert (failed["rc"], failed.failed, failed["stdout"]) == (42, True, "last words")
    assert (killed["rc"], killed.failed) == (137, True)
    assert killed["stdout"] == f"{arena.project}\none\ntwo ü"
    assert literal["stdout"] == "a b|$(id)|;||*|-n|ü\n|"
    assert missing["rc"] == 127
    assert "no-such-program" in missing["stderr"]
    assert "'/no/such/folder' is no directory in it" in lost.message
    assert (check.changed, there.changed, not_there.changed) == (True, False, False)
    assert not (arena.project / "ran").exists()
    assert not any("Traceback" in str(result) for result in results)
    assert {arena.engine.execute("box", [path]).code for path in ("/etc/hostname/no", "/etc")} <= {126, 127}
    with pytest.raises(SandboxError, match="'/root' is no directory in it"):
        arena.engine.execute("box", ["true"], cwd="/root")


def test_bytes_that_are_no_text(machine: tuple[VirtualArena, Result]) -> None:
    """In and out as they are, with each stream for itself, and a code of its own."""
    arena, _ = machine
    content = bytes(range(256)) * 1024
    script = "cat >/tmp/blob; cat /tmp/blob; cat /tmp/blob >&2; exit 3"
    done = arena.engine.execute("box", ["sh", "-c", script], stdin=content)
    assert (done.code, done.stdout == content, done.stderr == content) == (3, True, True)
    assert not done.truncated


def test_streams_by_their_names(machine: tuple[VirtualArena, Result]) -> None:
    """A command opens its own streams again, as many scripts do."""
    arena, _ = machine
    done = arena.engine.execute("box", ["sh", "-c", "cat /dev/stdin >/dev/stdout; echo err >/dev/stderr"], stdin=b"in")
    assert (done.stdout, done.stderr) == (b"in", b"err\n")


def test_too_long(machine: tuple[VirtualArena, Result]) -> None:
    """It is killed with all that it has started."""
    arena, _ = machine
    done, left = arena.play(
        arena.inside("sh", "-c", "sleep 98765 & exec sleep 98765", timeout=0.5),
        arena.inside("sh", "-c", "sleep 1; cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx '9876[5]'"),
    )
    assert (done.failed, done["rc"]) == (True, 124)
    assert done.message == "The command did not end within 0.5 seconds, and was killed."
    assert (left["rc"], left["stdout"]) == (1, "0")


def test_what_is_inside(machine: tuple[VirtualArena, Result]) -> None:
    """A kernel and a hostname of its own, the memory and processors asked for, the owner without any privilege."""
    arena, _ = machine
    look = "uname -n; nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; id -u; id -g; id -G; pwd; cat /proc/1/comm; "
    look += "awk '/CapEff|CapBnd|NoNewPrivs/ {print $2}' /proc/self/status; ls -d /root /etc/shadow /usr; uname -v"
    words = arena.engine.execute("box", ["sh", "-c", look]).stdout.decode().split("\n")
    name, cpus, memory, uid, gid, groups, folder, first, *rest = words
    assert (name, cpus, first) == ("box", "1", "init")
    assert 320 * 0.7 * 1024 < int(memory) <= 320 * 1024
    assert (uid, gid, groups) == (str(arena.account.uid), str(arena.account.gid), str(arena.account.gid))
    assert folder == str(arena.project)
    assert rest[:4] == ["0" * 16, "0" * 16, "1", "/usr"]
    assert rest[4] != os.uname().version or os.uname().version.startswith("#1 SMP PREEMPT_DYNAMIC Debian")


def test_no_network_at_all(machine: tuple[VirtualArena, Result]) -> None:
    """No device, not even one that the guest's own root could bring up, nor one of QEMU's to be found on its bus."""
    arena, _ = machine
    look = "ls /sys/class/net; cat /sys/bus/pci/devices/*/class | grep -c ^0x02; ls /sys/bus/virtio/drivers"
    done = arena.engine.execute("box", ["sh", "-c", look])
    assert done.stdout.decode().split()[:2] == ["lo", "0"], done
    words = ["bash", "-c", "exec 3<>/dev/tcp/10.0.2.2/22"]
    assert b"Network is unreachable" in arena.engine.execute("box", words).stderr
    added = arena.as_guests_root("ip link add d type dummy; ip link set lo up; ls /sys/class/net; echo $EUID")
    assert added.stdout.decode().split()[-1] == "0"
    assert set(added.stdout.decode().split()[:-1]) <= {"lo", "d"}
    outside = {os.readlink(f"/proc/{pid}/ns/net") for pid in (os.getpid(), arena.qemu())}
    assert len(outside) == 2, "QEMU itself has the host's network"


def test_programs_can_only_be_read(machine: tuple[VirtualArena, Result]) -> None:
    """By the agent, and by a root of the guest's that mounts what it likes."""
    arena, _ = machine
    done = arena.engine.execute("box", ["sh", "-c", "touch /usr/bin/new; touch /usr/new; echo >/etc/hosts"])
    assert done.code != 0
    script = "mount -o remount,rw /usr; touch /usr/new-of-root; rm /usr/bin/qemu-img; echo ended"
    assert b"ended" in arena.as_guests_root(script).stdout
    assert not Path("/usr/new-of-root").exists()
    assert arena.engine.execute("box", ["test", "-e", "/usr/new-of-root"]).code == 1


def test_mounts(machine: tuple[VirtualArena, Result]) -> None:
    """Folders and single files, to be read or written, with names that mean something to shells, QEMU and fstab."""
    arena, result = machine
    inside, outside = f"/opt/{ODD}", arena.project.parent / ODD
    script = 'cd "$0" || exit; for path in rw/file ro/file "$1.rw" "$1.ro"; do cat "$path"; echo more >>"$path"; done; '
    script += "echo new >rw/new; echo new >ro/new; rm ro/file; ls -1 . rw ro"
    done = arena.engine.execute("box", ["bash", "-c", script, inside, ODD])
    assert done.stdout.decode().split("\n")[:4] == ["rw", "ro", f"{ODD}.rw", f"{ODD}.ro"], done
    assert done.stderr.count(b"Read-only file system") == 4, done.stderr
    assert (outside / "rw/file").read_text(encoding="utf-8") == "rw\nmore\n"
    assert (outside / f"{ODD}.rw").read_text(encoding="utf-8") == f"{ODD}.rw\nmore\n"
    assert (outside / "rw/new").read_text(encoding="utf-8") == "new\n"
    assert [path.name for path in (outside / "ro").iterdir()] == ["file"]
    assert (outside / "ro/file").read_text(encoding="utf-8") == "ro\n"
    assert (outside / f"{ODD}.ro").read_text(encoding="utf-8") == f"{ODD}.ro\n"
    assert arena.engine.exists("box", inside)
    assert not arena.engine.exists("box", "/opt/gone")
    assert any(str(outside / "gone") in text for text in result["warnings"])


def test_files_are_the_same_on_both_sides(machine: tuple[VirtualArena, Result]) -> None:
    """Owner, mode, links, content and size, made inside or outside; what another account closed stays closed."""
    arena, _ = machine
    project = arena.project
    blob = hashlib.sha256(b"blob").digest() * 40000
    (project / "from-outside").write_bytes(blob)
    (project / "from-outside").chmod(0o640)
    (project / "closed").write_text("root's", encoding="utf-8")
    (project / "closed").chmod(0o600)
    os.chown(project / "from-outside", arena.account.uid, arena.account.gid)
    script = """\
    stat -c '%u %g %a %s' from-outside; sha256sum <from-outside; cat closed; echo x >closed
    umask 022; mkdir made; cp from-outside made/file; ln made/file made/hard; ln -s file made/soft
    chmod 750 made; printf '#!/bin/sh\\necho ran' >made/script; chmod 755 made/script; made/script
    mv made/file made/moved; chown 0:0 made/moved; truncate -s 5 made/hard; stat -c '%u %a %h' made/moved"""
    done = arena.engine.execute("box", ["sh", "-c", script])
    stat, digest, ran, moved = done.stdout.decode().split("\n")[:4]
    assert stat == f"{arena.account.uid} {arena.account.gid} 640 {len(blob)}", done
    assert digest.split()[0] == hashlib.sha256(blob).hexdigest()
    assert (ran, moved) == ("ran", f"{arena.account.uid} 640 2")
    assert done.stderr.count(b"Permission denied") == 2, done.stderr
    assert b"Operation not permitted" in done.stderr
    assert (project / "closed").read_text(encoding="utf-8") == "root's"
    found = {path.name: path.lstat() for path in [project / "made", *(project / "made").iterdir()]}
    assert {each.st_uid for each in found.values()} == {arena.account.uid}
    modes = {name: oct(each.st_mode & 0o7777) for name, each in found.items()}
    assert modes == {"made": "0o750", "moved": "0o640", "hard": "0o640", "soft": "0o777", "script": "0o755"}
    assert os.readlink(project / "made/soft") == "file"
    assert (project / "made/moved").read_bytes() == blob[:5]
    # Changed on the other side after it was read here.
    (project / "from-outside").write_bytes(b"changed outside")
    assert arena.engine.execute("box", ["cat", "from-outside"]).stdout == b"changed outside"


def test_typing(machine: tuple[VirtualArena, Result]) -> None:
    """The agent's terminal is the machine's console: it is typed into, and read."""
    arena, result = machine
    said, size, late = arena.play(
        arena.task("claude_sandbox_attach", name="box", text="echo hel''lo ü", keys=["Enter"], wait_for="^hello ü$"),
        arena.task("claude_sandbox_attach", name="box", text="stty size; tty", keys=["Enter"], wait_for="^/dev/"),
        arena.task("claude_sandbox_attach", name="box", wait_for="never shown", timeout=0.3),
    )
    assert not said.failed, said
    assert (said.changed, said["attach_command"]) == (True, result.sandbox["attach_command"])
    assert "48 160" in size["screen"].splitlines(), size["screen"]
    assert late.message == "Waited for the agent of sandbox 'box', but it did not come in time."
    assert "hello ü" in arena.log()


def test_the_screen(machine: tuple[VirtualArena, Result]) -> None:
    """A picture of the size asked for, in which something is seen once a program has drawn."""
    arena, _ = machine
    end = time.monotonic() + 60
    picture = b""
    # What is on it while the X server is yet to come up is the console's.
    while _size(picture) != GEOMETRY and time.monotonic() < end:
        picture = arena.engine.frame("box")
        time.sleep(0.2)
    assert _size(picture) == GEOMETRY
    assert picture.endswith(b"IEND\xaeB`\x82")
    assert not list((arena.launch() / "vm").glob("screen-*"))


def _size(picture: bytes) -> tuple[int, int]:
    if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return (0, 0)
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def test_secrets_stay_secret(machine: tuple[VirtualArena, Result]) -> None:
    """In no argv and no file but the one that keeps them for the next start; inside they are."""
    arena, result = machine
    found = []
    for folder in (arena.state_dir, arena.project.parent, arena.launch().parent):
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        found += [str(path) for path in files if _mentions(path.read_bytes())]
    assert found == [str(arena.folder() / "data/secrets.json")]
    assert Path(found[0]).stat().st_mode & 0o777 == 0o600
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            assert not _mentions(Path(f"/proc/{pid}/cmdline").read_bytes()), pid
    for pid, words in arena.processes():
        with contextlib.suppress(OSError):
            assert not _mentions(Path(f"/proc/{pid}/environ").read_bytes()), words
    assert not _mentions(json.dumps(result).encode())
    done = arena.engine.execute("box", ["sh", "-c", 'printf %s "$ANTHROPIC_API_KEY$TOKEN"'])
    assert done.stdout.decode() == KEY + TOKEN


def _mentions(content: bytes) -> bool:
    return any(word.encode() in content or word[-20:].encode() in content for word in (KEY, TOKEN))


def test_no_path_is_in_the_argv_of_qemu(machine: tuple[VirtualArena, Result]) -> None:
    arena, _ = machine
    words = Path(f"/proc/{arena.qemu()}/cmdline").read_bytes()
    assert b"qemu-system" in words
    assert os.fsencode(arena.project) not in words
    assert ODD.encode() not in words


# --- a life -----------------------------------------------------------------------------------------------------------


def test_a_life(arena: VirtualArena) -> None:
    """Check mode tells of it, a run does it, another one finds it done and starts nothing; then it ends as it began."""
    made = assert_quartet(arena.play(*arena.quartet()), ["create", "start"])
    pids = arena.pids()
    running = dict(arena.processes())
    restart_check, same, restarted, typed = arena.play(
        arena.started(state="restarted", check=True),
        arena.started(),
        arena.started(state="restarted"),
        arena.inside("sh", "-c", "touch restarted; ls /sys/class/net"),
    )
    assert restart_check["actions"] == restarted["actions"] == ["stop", "start"]
    assert (same.changed, same.sandbox) == (False, made.sandbox)
    assert restart_check.sandbox["pid"] == made.sandbox["pid"] == pids["init"]
    assert restarted.sandbox["pid"] != made.sandbox["pid"]
    assert not set(running) & set(dict(arena.processes()))
    assert typed["stdout"].split() == ["eth0", "lo"]
    assert (arena.project / "restarted").is_file()
    ends = arena.play(*arena.quartet(state="stopped"), *arena.quartet(state="absent"))
    stopped = assert_quartet(ends[:4], ["stop"])
    assert (stopped.sandbox["status"], stopped.sandbox["qemu_qmp_socket"]) == ("stopped", None)
    assert assert_quartet(ends[4:], ["destroy"])["sandbox"] is None
    # At once, with nothing waited for: absent means that all of it is gone.
    assert arena.left_behind() == []


def test_a_second_run_starts_nothing(machine: tuple[VirtualArena, Result]) -> None:
    """Neither as a check nor for real."""
    arena, _ = machine
    before = dict(arena.processes())
    record = (arena.folder() / "instance.json").read_bytes()
    results = arena.play(arena.task(name="box"), arena.task(name="box", check=True))
    assert [(result.changed, result["actions"]) for result in results] == [(False, [])] * 2
    assert dict(arena.processes()) == before
    assert (arena.folder() / "instance.json").read_bytes() == record


def test_what_is_refused(arena: VirtualArena) -> None:
    """By a line or two, in check mode as for real, before anything is made."""
    empty = arena.new_project("no-guest")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vm": {"memory": 255}}, "vm.memory is 255; it must be a number from 256 to 1048576."),
        ({"vm": {"memory": 1048577}}, "vm.memory is 1048577; "),
        ({"vm": {"cpus": 0}}, "vm.cpus is 0; it must be a number from 1 to 255."),
        ({"vm": {"cpus": 256}}, "vm.cpus is 256; "),
        ({"vm": {"guest": "guest"}}, "vm.guest must be an absolute path"),
        ({"vm": {"guest": str(empty)}}, f"'{empty}' has no kernel and initrd for a guest.\nMake them (make guest, "),
        ({"vm": {"guest": "/no/such"}}, "'/no/such' has no kernel and initrd for a guest."),
        ({"glx": True, **SCREEN}, "glx has no effect in a virtual machine"),
        ({"container": {"user_namespace": False}}, "container is for the backend container, and has no effect with vm"),
        ({"backend": "bubblewrap"}, "vm is for the backend vm, and has no effect with bubblewrap."),
        ({"toolchain": "rootfs", "rootfs": str(empty)}, f"There is no tree of programs at '{empty}'"),
        *(
            ({"grants": {**PLAIN["grants"], name: True}}, f"grants.{name} cannot be given to a virtual machine")
            for name in ("audio", "gpu", "dbus", "keyring", "ssh_agent", "nix")
        ),
    ]
    listed = [
        {"name": f"bad{number}", "project_dir": str(arena.project), **PLAIN, **VirtualArena.settings, **params}
        for number, (params, _) in enumerate(cases)
    ]
    *lists, accel, option = arena.play(
        *(arena.task("claude_sandboxes", check=check, sandboxes=listed) for check in (True, False)),
        arena.started(vm={"accel": "xen"}),
        arena.started(vm={"disk": 1}),
    )
    assert "accel must be one of: auto, kvm, tcg, got: xen" in accel.message
    assert "Unsupported parameters" in option.message
    for result in lists:
        assert result.failed
        errors = [item.get("error", "none") for item in result["sandboxes"]]
        wrong = [(error, words) for error, (_, words) in zip(errors, cases, strict=True) if words not in error]
        assert wrong == []
        assert not any(error.count("\n") > 1 or "Traceback" in error for error in errors)
    assert arena.engine.registry.names() == []
    assert arena.left_behind() == []


# --- ends -------------------------------------------------------------------------------------------------------------

ENDS = {
    "exits": "read answer; exit 7",
    "eats": "read answer; exec dd if=/dev/zero of=/dev/null count=1 bs=$(awk '/MemT/ {print $2 - 4e3}' /proc/meminfo)k",
    "panics": "exec sleep 1d",
    "killed": "exec sleep 1d",
    "unseen": "exec sleep 1d",
}


def test_ends(arena: VirtualArena) -> None:
    """However one ends it is dead, says why, keeps its log, and goes without a trace; those beside it run on."""
    wanted = [
        {"name": name, **_asked(arena), "agent": ["/bin/sh", "-c", f"echo last words; {words}"]}
        for name, words in ENDS.items()
    ]
    (made,) = arena.play(arena.task("claude_sandboxes", sandboxes=wanted))
    assert not made.failed, made
    _end_them(arena)
    views = _when_dead(arena, ["panics", "killed", "unseen"])
    # They waited to be asked, and are others than those.
    for name in ("exits", "eats"):
        assert arena.engine.execute(name, ["uname", "-n"]).stdout.decode().strip() == name
        arena.engine.converse(name, None, ["Enter"], Wait())
    views = _when_dead(arena, [*ENDS])
    found = {name: (view["status"], view["exit_code"], view["reason"]) for name, view in views.items()}
    assert found.pop("unseen")[:2] == ("dead", None)
    eaten = found.pop("eats")
    assert found == {
        "exits": ("dead", 7, None),
        "panics": ("dead", None, "The guest's kernel panicked: sysrq triggered crash."),
        "killed": ("dead", None, "QEMU ended by signal 9."),
    }
    assert eaten[0] == "dead"
    assert eaten[2].startswith("The guest ran out of memory: it killed "), eaten
    assert "(dd) total-vm:" in eaten[2]
    assert [name for name in ENDS if "last words" not in arena.log(name)] == []
    stopped, again, gone = arena.play(
        arena.task(name="exits", state="stopped"),
        arena.task(name="killed"),
        arena.task("claude_sandboxes", sandboxes=[], prune=True),
    )
    assert (stopped.sandbox["status"], stopped.sandbox["exit_code"]) == ("stopped", 7)
    assert (again["actions"], again.sandbox["status"]) == (["start"], "running")
    assert not gone.failed
    assert arena.engine.registry.names() == []
    assert arena.left_behind() == []


def _asked(arena: VirtualArena) -> dict[str, Any]:
    return {"project_dir": str(arena.project), **PLAIN, **arena.settings, "network": False}


def _end_them(arena: VirtualArena) -> None:
    with contextlib.suppress(SandboxError):
        arena.as_guests_root("echo c >/proc/sysrq-trigger", "panics")
    os.kill(arena.qemu("killed"), signal.SIGKILL)
    os.kill(arena.pids("unseen")["server"], signal.SIGKILL)


def _when_dead(arena: VirtualArena, names: list[str], seconds: float = 60) -> dict[str, dict[str, Any]]:
    """All sandboxes as they are shown, once those have ended."""
    end = time.monotonic() + seconds
    while True:
        views = {view["name"]: view for view in arena.engine.views()}
        if all(views[name]["status"] == "dead" for name in names) or time.monotonic() > end:
            return views
        time.sleep(0.1)


def test_guests_that_do_not_come_up(arena: VirtualArena) -> None:
    """The start fails, in no more time than another takes, with what QEMU or the kernel has to say."""
    folders = {name: _guest(arena, name) for name in ("garbage", "truncated")}
    (folders["garbage"] / "kernel").write_bytes(b"no kernel at all\n" * 5000)
    os.truncate(folders["truncated"] / "initrd", 300_000)
    garbage, truncated, info = arena.play(
        *(arena.started(vm={**SMALL, "guest": str(folder)}) for folder in folders.values()),
        arena.task("claude_sandbox_info"),
    )
    assert garbage.message.startswith("QEMU ended with the exit code 1: qemu"), garbage.message
    assert truncated.message.startswith("The guest's kernel panicked: "), truncated.message
    for result in (garbage, truncated):
        assert (result.failed, result.changed) == (True, False)
        assert result["seconds"] < vm._BOOT_SECONDS / 2
        assert result.message.count("\n") <= 1
        assert len(result.message) < 800
    assert info["sandboxes"] == []
    arena.wait_until_gone(seconds=2.0)
    assert arena.left_behind() == []


def _guest(arena: VirtualArena, name: str) -> Path:
    folder = arena.new_project(name)
    for path in ("kernel", "initrd"):
        shutil.copyfile(GUEST / path, folder / path)
    return folder


def test_a_guest_that_hangs(arena: VirtualArena, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end."""
    monkeypatch.setattr(vm, "_BOOT_SECONDS", 4.0)
    monkeypatch.setattr(vm, "_KERNEL_WORDS_EMULATED", f"{vm._KERNEL_WORDS_EMULATED} rdinit=/bin/busybox -- sleep 1d")
    spec = _asked(arena) | {"vm": {**SMALL, "accel": "tcg"}}
    with pytest.raises(SandboxError, match="The guest has not come up within 4 seconds") as caught:
        arena.engine.ensure(Request("box", params=spec))
    assert str(caught.value).count("\n") <= 1
    assert arena.engine.registry.names() == []
    # What was ended gives back its memory first.
    arena.wait_until_gone(seconds=2.0)
    assert arena.left_behind() == []


def test_an_agent_that_cannot_begin(arena: VirtualArena) -> None:
    (refused,) = arena.play(arena.started(agent=["/no/such/agent"]))
    assert refused.message.startswith("The agent's program '/no/such/agent' could not be executed in the sandbox.")
    assert arena.engine.registry.names() == []
    assert arena.left_behind() == []


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["the-module", "and-its-workers"])
def test_killed_while_it_starts(arena: VirtualArena, whole: bool) -> None:
    """The next run has one that runs, and one only; absent leaves nothing of either."""
    module = _module(arena)
    try:
        _until(lambda: any("qemu-system" in words for _, words in arena.processes()))
        os.killpg(module.pid, signal.SIGKILL) if whole else module.kill()
    finally:
        module.wait()
    mishaps._wait_for_orphans(arena)
    again, works, gone = arena.play(
        arena.started(network=False), arena.inside("true"), arena.task(name="box", state="absent")
    )
    assert again.sandbox["status"] == "running", again
    assert (works.failed, gone.failed) == (False, False)
    assert arena.left_behind() == []


def _module(arena: VirtualArena) -> subprocess.Popen[bytes]:
    """The module on its way, as Ansible runs it, leading a group of its own."""
    arguments = {"ANSIBLE_MODULE_ARGS": {"name": "box", "state_dir": str(arena.state_dir), **_asked(arena)}}
    name = "ansible_collections.claude_code.nix_sandbox.plugins.modules.claude_sandbox"
    module = subprocess.Popen(
        [sys.executable, "-m", name],
        env=playing.clean_environment(PYTHONPATH=str(playing.CLONE / ".collections")),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    assert module.stdin is not None
    module.stdin.write(json.dumps(arguments).encode())
    module.stdin.close()
    return module


def _until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
