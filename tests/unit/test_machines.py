"""What root makes of what an account asks for: orders are taken to be hostile, and records belong to accounts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    host,
    machines,
    mounts,
    procs,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.machines import Mounted, Order
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps containers")
needs_bash = pytest.mark.skipif(not os.path.exists("/usr/bin/bash"), reason="this machine has no /usr/bin/bash")
ANN = host.Account("ann", 1000, 1000, "/home/ann", "/bin/bash", (1000,))
ROOT = host.Account("root", 0, 0, "/root", "/bin/bash", (0,))
NAME = "demo-0123456789ab"
SECRET = "sk-made-up-0123456789"
ORDER = Order(  # noqa: S604 - the path of a shell
    machine=NAME,
    label="/home/ann/registry/sandboxes/demo",
    hostname="demo",
    network=True,
    user_namespace=True,
    mounts=(Mounted("/usr", "/usr", False, False), Mounted("/srv/hidden project", "/srv/hidden project", True, True)),
    links=(("/bin", "usr/bin"),),
    devices=("/dev/dri",),
    files={"/etc/passwd": b"\0\xff passwd"},
    env={"API_KEY": SECRET, "EMPTY": "", "LINES_": "two\nlines"},
    shell="/usr/bin/bash",
    argv=("/usr/bin/claude", "--flag", "; rm"),
    cwd="/srv/project",
    pane=0,
    limits={},
)
PATIENCE = 10.0


def content(**more: Any) -> dict[str, Any]:
    """An order as it arrives."""
    found: dict[str, Any] = json.loads(json.dumps(ORDER.to_json()))
    return found | more


# What is asked for.


def test_an_order_survives_the_round_trip() -> None:
    assert Order.parse(content()) == ORDER
    other = dataclasses.replace(ORDER, network=False, user_namespace=False, mounts=(), files={}, devices=())
    assert Order.parse(json.loads(json.dumps(other.to_json()))) == other


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Order)])
def test_an_order_without_one_of_its_parts_is_refused(field: str) -> None:
    with pytest.raises(KeyError, match=field):
        Order.parse({key: value for key, value in content().items() if key != field})


def mounted(**more: Any) -> dict[str, Any]:
    return {"source": "/source", "target": "/srv/a", "writable": False, "own": True, **more}


NO_PATHS: dict[str, Any] = {
    "empty": "",
    "root": "/",
    "relative": "srv/a",
    "dot": "/srv/./a",
    "parent": "/srv/../etc",
    "only-parent": "/..",
    "parent-last": "/srv/..",
    "two-slashes": "/srv//a",
    "two-slashes-first": "//srv/a",
    "three-slashes-first": "///srv/a",
    "last-slash": "/srv/a/",
    "nul": "/srv/a\0b",
    "proc": "/proc",
    "below-proc": "/proc/self/mem",
    "sys": "/sys",
    "below-sys": "/sys/fs/cgroup",
    "dev": "/dev",
    "below-dev": "/dev/shm/a",
    "surrogate": "/srv/\ud800",
    "number": 1,
    "none": None,
    "list": ["/srv/a"],
    "mapping": {"/srv/a": 1},
}
# Taken for no path where something is mounted, as systemd-nspawn or we ourselves need them.
RESERVED = (
    "/run",
    "/run/claude-sandbox",
    "/run/claude-sandbox/environment",
    "/run/host",
    "/run/host/a/b",
    "/run/systemd",
)
NO_TEXTS: dict[str, Any] = {
    "nul": "a\0b",
    "number": 1,
    "none": None,
    "list": ["a"],
    "bool": True,
    "mapping": {},
    # It is in no encoding of what is written, and would be an error only among the container's mounts.
    "surrogate": "a\ud800b",
    "surrogate-of-a-byte": "a\udcffb",
}
NO_MACHINES: dict[str, Any] = {
    **NO_TEXTS,
    "empty": "",
    "no-id": "demo",
    "short-id": "demo-0123456789a",
    "long-id": "demo-0123456789abc",
    "id-of-other-letters": "demo-0123456789aB",
    "only-id": "-0123456789ab",
    "slash": "../demo-0123456789ab",
    "slash-within": "a/b-0123456789ab",
    "dot": "a.b-0123456789ab",
    "like-an-option": "--bind-0123456789ab",
    "underscore-first": "_a-0123456789ab",
    "underscore-last": "a_-0123456789ab",
    "too-long": f"{'a' * 51}-0123456789ab",
    "newline": "demo-0123456789ab\n",
    "space": "a b-0123456789ab",
    "other-letters": "ä-0123456789ab",
    "other-digits": "demo-٠123456789ab",
}
NO_DEVICES: dict[str, Any] = {
    **NO_TEXTS,
    "memory": "/dev/mem",
    "disk": "/dev/vda",
    "all": "/dev",
    "below": "/dev/dri/card0",
    "slash": "/dev/dri/",
    "parent": "/dev/dri/../mem",
    "option": "/dev/dri:/dev/mem",
    "file": "/etc/shadow",
    "relative": "dev/dri",
}


@pytest.mark.parametrize(
    "more",
    [
        *(pytest.param({"machine": value}, id=f"machine-{name}") for name, value in NO_MACHINES.items()),
        *(
            pytest.param({"mounts": [mounted(), mounted(target=value)]}, id=f"target-{name}")
            for name, value in NO_PATHS.items()
        ),
        *(pytest.param({"mounts": [mounted(target=path)]}, id=f"reserved-{path}") for path in RESERVED),
        *(pytest.param({"mounts": [mounted(source=value)]}, id=f"source-{name}") for name, value in NO_TEXTS.items()),
        *(pytest.param({"links": [[value, "usr/bin"]]}, id=f"link-{name}") for name, value in NO_PATHS.items()),
        *(
            pytest.param({"files": {value: ""}}, id=f"file-{name}")
            for name, value in NO_PATHS.items()
            if not isinstance(value, list | dict)
        ),
        *(pytest.param({"shell": value}, id=f"shell-{name}") for name, value in NO_PATHS.items()),
        *(pytest.param({"cwd": value}, id=f"cwd-{name}") for name, value in NO_PATHS.items()),
        *(pytest.param({"devices": [value]}, id=f"device-{name}") for name, value in NO_DEVICES.items()),
        *(
            pytest.param(more, id=f"{field}-{name}")
            for name, value in NO_TEXTS.items()
            for field, more in {
                "label": {"label": value},
                "hostname": {"hostname": value},
                "link-target": {"links": [["/bin", value]]},
                "env": {"env": {"A": value}},
                "argv": {"argv": ["/bin/true", value]},
            }.items()
        ),
        pytest.param({"env": {"A\0B": "1"}}, id="env-name-nul"),
        pytest.param({"env": {"A\ud800": "1"}}, id="env-name-surrogate"),
        pytest.param({"mounts": [{"target": "/srv/a", "writable": False, "own": True}]}, id="mount-without-source"),
        pytest.param({"files": {"/etc/a": 1}}, id="file-number"),
        pytest.param({"files": {"/etc/a": "a"}}, id="file-of-no-such-coding"),
        pytest.param({"mounts": None}, id="mounts-none"),
        pytest.param({"mounts": ["/srv/a"]}, id="mounts-of-text"),
        pytest.param({"mounts": {"/srv/a": mounted()}}, id="mounts-mapping"),
        pytest.param(
            {"mounts": [{"source": "/source", "target": "/srv/a", "writable": False}]}, id="mount-without-own"
        ),
        pytest.param(
            {"mounts": [{"source": "/source", "target": "/srv/a", "own": False}]}, id="mount-without-writable"
        ),
        pytest.param({"links": ["/bin"]}, id="links-of-text"),
        pytest.param({"links": [["/bin"]]}, id="link-of-one"),
        pytest.param({"links": [["/bin", "a", "b"]]}, id="link-of-three"),
        pytest.param({"links": 5}, id="links-number"),
        pytest.param({"devices": None}, id="devices-none"),
        pytest.param({"devices": "/dev/dri"}, id="devices-text"),
        pytest.param({"argv": None}, id="argv-none"),
    ],
)
def test_a_hostile_order_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Order.parse(content(**more))


@pytest.mark.parametrize("path", ["/run/a", "/run/hosts", "/run/claude-sandbox-x", "/run/systemd-x", "/srv/run/host"])
def test_what_is_not_reserved_is_mounted_on(path: str) -> None:
    assert not machines.reserved(path)
    assert Order.parse(content(mounts=[mounted(target=path)])).mounts[0].target == path


@pytest.mark.parametrize("path", ["/process", "/system/a", "/device", "/srv/proc", "/srv/a b'\n", "/a..b", "/srv/..."])
def test_a_path_that_merely_looks_like_one_of_those_is_not_refused(path: str) -> None:
    assert Order.parse(content(mounts=[mounted(target=path)])).mounts == (Mounted("/source", path, False, True),)


@pytest.mark.parametrize("value", [0, 1, "true", "yes", None, [], {"a": 1}])
def test_nothing_but_true_and_false_gives_more(value: Any) -> None:
    """Whatever else is said, there is no network, and there is a user namespace."""
    order = Order.parse(content(network=value, user_namespace=value))
    assert (order.network, order.user_namespace) == (False, True)


@pytest.mark.parametrize("name", ["a", "A9", "a" * 50, "x---y"])
def test_names_of_machines_that_are_taken(name: str) -> None:
    assert Order.parse(content(machine=f"{name}-0123456789ab")).machine == f"{name}-0123456789ab"


@pytest.mark.parametrize(
    "name", ["a", "demo", "A-b_c", "a-", "a_-_", "x" * 63, f"{'x' * 49}-y", f"{'x' * 48}__{'y' * 9}"]
)
def test_every_sandbox_has_a_name_for_its_machine(name: str) -> None:
    found = machines.name_of(name, "0123456789ab")
    assert Order.parse(content(machine=found)).machine == found
    assert found.endswith("-0123456789ab")
    # What the kernel takes for a host's name.
    assert len(found) <= 64
    assert machines.name_of(name, "0123456789ac") != found


# Ranges of ids.


def machine(**more: Any) -> machines.Machine:
    values: dict[str, Any] = {
        "name": NAME,
        "uid": ANN.uid,
        "label": "/registry/demo",
        "base": 0x80000,
        "boot_id": host.boot_id(),
        "supervisor": Process(1 << 22, 1),
    }
    return machines.Machine(**{**values, **more})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which root remembers, and no account's ranges but those of the test."""
    monkeypatch.setattr(machines, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(machines, "_MACHINES", str(tmp_path / "run" / "machines"))
    monkeypatch.setattr(machines, "_ROOTS", str(tmp_path / "run" / "root"))
    monkeypatch.setattr(machines, "mapped_ranges", list)
    (tmp_path / "run" / "machines").mkdir(parents=True)
    old = os.umask(0o022)
    yield tmp_path / "run"
    os.umask(old)


def slot(number: int) -> int:
    return machines._FIRST_BASE + number * machines._RANGE


SLOTS = (machines._LAST_BASE - machines._FIRST_BASE) // machines._RANGE + 1


def named(number: int) -> str:
    """The name of a machine that is given that slot where nobody has it."""
    return f"other-{number:012x}"


@pytest.mark.parametrize("number", [0, 1, SLOTS - 1])
def test_a_range_follows_from_the_name(folder: Path, number: int) -> None:
    """So that it is the same at the next start, where nobody has it meanwhile."""
    assert machines._free_base(named(number)) == slot(number)
    assert machines._free_base(named(number + SLOTS)) == slot(number)


def test_every_range_lies_where_systemd_looks_for_them() -> None:
    assert slot(0) == 524288
    assert slot(SLOTS - 1) + machines._RANGE - 1 <= 1879048191
    assert all(slot(number) % 65536 == 0 for number in (0, 1, SLOTS - 1))


def test_a_range_of_another_machine_is_not_taken_while_that_runs(folder: Path) -> None:
    us = procs.identify(os.getpid())
    assert us is not None
    for number in (1, 2):
        machines._write(machine(name=named(number + SLOTS), base=slot(number), supervisor=us))
    assert machines._free_base(named(1)) == slot(3)
    # One that has ended, and one's own earlier one, stand in nobody's way.
    machines._write(machine(name=named(3 + SLOTS), base=slot(3)))
    machines._write(machine(name=named(4), base=slot(4), supervisor=us))
    assert machines._free_base(named(3)) == slot(3)
    assert machines._free_base(named(4)) == slot(4)


def test_the_search_for_a_range_goes_round(folder: Path) -> None:
    us = procs.identify(os.getpid())
    assert us is not None
    for number in (0, 1):
        machines._write(machine(name=named(number + SLOTS), base=slot(number), supervisor=us))
    machines._write(machine(name="none-00000000000f", base=None))
    assert machines._free_base(named(0)) == slot(2)
    # After the last comes the first.
    machines._write(machine(name=named(2 * SLOTS - 1), base=slot(SLOTS - 1), supervisor=us))
    assert machines._free_base(named(SLOTS - 1)) == slot(2)


@pytest.mark.parametrize(
    "first, size, taken",
    [
        pytest.param(slot(5), 65536, True, id="the-same"),
        pytest.param(slot(5) + 65535, 1, True, id="its-last-id"),
        pytest.param(slot(5) - 10, 11, True, id="its-first-id"),
        pytest.param(slot(5) + 100, 10, True, id="within"),
        pytest.param(slot(4), 3 * 65536, True, id="around"),
        pytest.param(slot(5) - 10, 10, False, id="right-before"),
        pytest.param(slot(6), 65536, False, id="right-after"),
    ],
)
def test_a_range_that_accounts_may_map_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: int, size: int, taken: bool
) -> None:
    monkeypatch.setattr(machines, "mapped_ranges", lambda: [(first, size)])
    assert (machines._free_base(named(5)) != slot(5)) is taken


def test_a_range_that_begins_with_an_account_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_account_at", lambda uid: uid in (slot(5), slot(6)))
    assert machines._free_base(named(5)) == slot(7)


def test_no_range_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "mapped_ranges", lambda: [(0, 1 << 32)])
    with pytest.raises(SandboxError, match="No range of ids is free"):
        machines._free_base(NAME)


def test_mapped_ranges_of_a_file_with_anything_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"ann:100000:65536\n\n# note\nbob:1:x\nbob:-1:5\nbob:1\n:200000:10\nb:1:2:3\n\xff:300000:1\n"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/subuid").write_bytes(text)
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *more, **words: real(f"{tmp_path}{path}", *more, **words))
    assert host.mapped_ranges() == [(100000, 65536), (200000, 10), (300000, 1)]


# What is remembered.


WITH_DESCRIPTORS = ("interact", "add_mounts")


def test_a_record_survives_the_round_trip(folder: Path) -> None:
    for each in (machine(), machine(base=None, init=Process(5, 6), own=(1, 2))):
        machines._write(each)
        assert machines._read(NAME) == each
    assert stat.S_IMODE((folder / "machines" / f"{NAME}.json").stat().st_mode) == 0o600
    assert machines._names() == [NAME]
    assert os.listdir(folder / "machines") == [f"{NAME}.json"]
    assert machines._read("nobody-0123456789ab") is None


@pytest.mark.parametrize("draft", ["", "{", "x" * 100_000], ids=["empty", "half", "long"])
def test_a_record_is_the_old_or_the_new_one(folder: Path, draft: str) -> None:
    """Also where root was killed while it wrote: what it left is no record, and in nobody's way."""
    machines._write(machine())
    inode = (folder / "machines" / f"{NAME}.json").stat().st_ino
    (folder / "machines" / f"{NAME}.new").write_text(draft)
    assert machines._read(NAME) == machine()
    assert machines._names() == [NAME]
    with open(folder / "machines" / f"{NAME}.json", "rb") as reader:
        machines._write(machine(init=Process(5, 6)))
        assert json.loads(reader.read())["init"] is None
    assert machines._read(NAME) == machine(init=Process(5, 6))
    assert (folder / "machines" / f"{NAME}.json").stat().st_ino != inode
    # What ends it takes a draft along.
    (folder / "machines" / f"{NAME}.new").write_text(draft)
    machines._write(machine(boot_id="another"))
    (folder / "machines" / f"{NAME}.new").write_text(draft)
    machines.stop({"machine": NAME, "grace": 0}, ANN)
    assert os.listdir(folder / "machines") == []


@pytest.mark.parametrize("grace", [-1, -0.001, 30.001, 31, 1e400, float("nan"), "nan", "inf", "-inf", "a minute", ""])
def test_nobody_has_root_wait_for_long(folder: Path, grace: Any) -> None:
    machines._write(machine(boot_id="another"))
    with pytest.raises(ValueError, match=r"no number of seconds|could not convert"):
        machines.stop({"machine": NAME, "grace": grace}, ANN)
    assert machines._names() == [NAME]


@pytest.mark.parametrize("grace", [0, 0.5, 30, "30.0"])
def test_a_grace_that_is_given(folder: Path, grace: Any) -> None:
    machines._write(machine(boot_id="another"))
    machines.stop({"machine": NAME, "grace": grace}, ANN)
    assert machines._names() == []


@pytest.mark.parametrize("operation", ["stop", "execute", "exists", *WITH_DESCRIPTORS])
def test_a_machine_of_another_account_is_refused(folder: Path, operation: str) -> None:
    """Also where it runs: this very process is its first."""
    us = procs.identify(os.getpid())
    assert us is not None
    machines._write(machine(uid=ANN.uid + 1, supervisor=us, init=us))
    asked = {"machine": NAME, "grace": 0, "path": "/", "mounts": [], "invocation": {}}
    more: tuple[list[int], ...] = ([],) if operation in WITH_DESCRIPTORS else ()
    with pytest.raises(SandboxError, match="belongs to another account"):
        getattr(machines, operation)(asked, *more, ANN)
    assert machines._read(NAME) is not None


@pytest.mark.parametrize("operation", ["stop", "execute", "exists", *WITH_DESCRIPTORS])
@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../demo-0123456789ab", "", None, 5, f"{NAME}\0"])
def test_no_record_is_read_but_by_a_name(folder: Path, operation: str, name: Any) -> None:
    asked = {"machine": name, "grace": 0, "path": "/", "mounts": [], "invocation": {}}
    more: tuple[list[int], ...] = ([],) if operation in WITH_DESCRIPTORS else ()
    with pytest.raises(ValueError, match="no name of a machine"):
        getattr(machines, operation)(asked, *more, ANN)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="nothing-runs"),
        pytest.param({"boot_id": "another"}, id="another-boot"),
        pytest.param({"init": Process(1 << 22, 1)}, id="it-ended"),
    ],
)
def test_one_that_does_not_run_is_told(folder: Path, more: dict[str, Any]) -> None:
    us = procs.identify(os.getpid())
    assert us is not None
    supervisor = Process(1 << 22, 1) if "init" in more else us
    machines._write(machine(supervisor=supervisor, **more))
    with pytest.raises(SandboxError, match="does not run"):
        machines.exists({"machine": NAME, "path": "/"}, ANN)


def test_what_never_was_or_ended_is_stopped_without_a_word(folder: Path) -> None:
    machines.stop({"machine": NAME, "grace": 0}, ANN)
    machines._write(machine(boot_id="another", supervisor=procs.identify(os.getpid()) or Process(1, 1)))
    machines.stop({"machine": NAME, "grace": 0}, ANN)
    assert machines._names() == []


def test_stop_ends_all_that_was_started(folder: Path) -> None:
    """Nothing of it is left, also where its first process never came up."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as child:
        supervisor = procs.identify(child.pid)
        assert supervisor is not None
        sleeping = procs.until(lambda: procs.children(child.pid), PATIENCE)
        machines._write(machine(supervisor=supervisor))
        machines.stop({"machine": NAME, "grace": 0}, ANN)
        child.wait(PATIENCE)
    assert sleeping[0].wait(PATIENCE)
    assert machines._names() == []


def test_only_what_has_the_label_is_stopped_by_it(folder: Path) -> None:
    machines._write(machine(name=named(1), label="/registry/a", boot_id="another"))
    machines._write(machine(name=named(2), label="/registry/b", boot_id="another"))
    machines.stop_labelled("/registry/a")
    assert machines._names() == [named(2)]


@as_root
def test_a_machine_is_claimed_once(folder: Path) -> None:
    first = machines._claim(ORDER, ANN)
    assert (first.uid, first.name, first.label) == (ANN.uid, NAME, ORDER.label)
    assert machines._read(NAME) == first
    with pytest.raises(SandboxError, match="runs already"):
        machines._claim(ORDER, ANN)
    with pytest.raises(SandboxError, match="belongs to another account"):
        machines._claim(ORDER, dataclasses.replace(ANN, uid=1001))
    # After it ended, there is room for the next one.
    machines._write(first.run_by(Process(1 << 22, 1)))
    again = machines._claim(ORDER, ANN)
    assert dataclasses.replace(again, base=first.base) == first
    machines._write(first.run_by(Process(1 << 22, 1)))
    assert machines._claim(dataclasses.replace(ORDER, user_namespace=False), ANN).base is None


@as_root
@pytest.mark.parametrize("which", ["run", "run/machines", "run/root"])
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_a_folder_that_others_could_write_in_is_not_used(folder: Path, which: str, how: str) -> None:
    (folder / "root").mkdir()
    path = folder.parent / which
    if how == "owner":
        os.chown(path, 65534, 65534)
    elif how == "mode":
        path.chmod(0o777)
    else:
        path.rename(folder.parent / "moved")
        path.symlink_to(folder.parent / "moved")
    with pytest.raises(SandboxError, match="belongs to another account"):
        machines._claim(ORDER, ANN)


@as_root
def test_the_folders_are_made_for_root_alone(folder: Path) -> None:
    (folder / "machines").rmdir()
    folder.rmdir()
    machines._claim(ORDER, ANN)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"run": 0o711, "machines": 0o700, "root": 0o700}


# Before anything is made.


def descriptors_of(*paths: str | Path) -> list[int]:
    return [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths]


@pytest.mark.parametrize("count", [0, 2, 3, 5, 6])
def test_as_many_descriptors_as_mounts_and_two(count: int) -> None:
    with pytest.raises(ValueError, match="not as many descriptors as mounts"):
        machines.start(content(), [0] * count, ANN, trusted=True)


@pytest.mark.parametrize(
    "owner, trusted", [(ANN, False), (ROOT, False), (ROOT, True)], ids=["asked", "root", "trusted"]
)
def test_without_a_user_namespace_only_by_root_and_not_for_root(owner: host.Account, trusted: bool) -> None:
    with pytest.raises(SandboxError, match="is for root to give, and never to root's sandboxes"):
        machines.start(content(user_namespace=False), [0] * 4, owner, trusted)


def test_what_is_no_terminal_is_refused() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(ValueError, match="no terminal of the account's"):
        machines.start(content(), [null.fileno()] * 4, ANN, trusted=False)


@pytest.fixture
def terminal() -> Iterator[int]:
    ours, theirs = os.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a start says whose order was found to be good: before anything is made it looks for its program."""

    def need(_host: host.Host, program: str) -> str:
        raise SandboxError(f"reached {program}")

    monkeypatch.setattr(host.Host, "need", need)
    return "reached systemd-nspawn"


@pytest.mark.parametrize("kind", ["pipe", "fifo", "file", "folder", "device", "socket", "terminal"])
def test_root_writes_to_a_pipe_alone(tmp_path: Path, terminal: int, reached: str, kind: str) -> None:
    """What root writes to anything else could do what the account may not."""
    me = host.account(os.geteuid())
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    with contextlib.ExitStack() as held:
        if kind == "socket":
            other = held.enter_context(socket.socket()).fileno()
        elif kind == "terminal":
            other = terminal
        elif kind == "pipe":
            reader, other = os.pipe()
            held.callback(os.close, reader)
            held.callback(os.close, other)
        else:
            path = {"folder": tmp_path, "device": Path("/dev/null")}.get(kind, tmp_path / kind)
            other = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            held.callback(os.close, other)
        if kind in ("pipe", "fifo"):
            with pytest.raises(SandboxError, match=reached):
                machines.start(content(mounts=[]), [terminal, other], me, trusted=False)
        else:
            with pytest.raises(ValueError, match="this is no pipe"):
                machines.start(content(mounts=[]), [terminal, other], me, trusted=False)


@as_root
@pytest.mark.parametrize(
    "uid, gid, user_namespace, allowed",
    [
        pytest.param(65535, 65535, True, True, id="the-last"),
        pytest.param(65536, 1000, True, False, id="uid"),
        pytest.param(1000, 65536, True, False, id="gid"),
        pytest.param(1 << 31, 1 << 31, True, False, id="far"),
        pytest.param(65536, 65536, False, True, id="shared"),
    ],
)
def test_an_id_that_a_container_has_not_is_told(
    terminal: int, reached: str, uid: int, gid: int, user_namespace: bool, allowed: bool
) -> None:
    """It would be one of the next container's."""
    owner = host.Account("far", uid, gid, "/home/far", "/bin/bash", (gid,))
    os.chown(terminal, uid, -1)
    reader, writer = os.pipe()
    try:
        expected = reached if allowed else "The account far has an id above 65535"
        order = content(mounts=[], user_namespace=user_namespace)
        with pytest.raises(SandboxError, match=expected):
            machines.start(order, [terminal, writer], owner, trusted=True)
    finally:
        os.close(reader)
        os.close(writer)


@as_root
@pytest.mark.parametrize(
    "uid, mode, own, allowed",
    [
        pytest.param(0, 0o755, False, True, id="roots"),
        pytest.param(ANN.uid, 0o755, False, False, id="of-an-account"),
        pytest.param(0, 0o775, False, False, id="written-by-a-group"),
        pytest.param(0, 0o757, False, False, id="written-by-all"),
        pytest.param(0, 0o1777, False, False, id="written-by-all-sticky"),
        pytest.param(ANN.uid, 0o777, True, True, id="no-programs"),
    ],
)
def test_programs_that_run_as_the_hosts_root_are_roots(
    tmp_path: Path, terminal: int, reached: str, uid: int, mode: int, own: bool, allowed: bool
) -> None:
    path = tmp_path / "tools"
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, 0)
    nobody = host.account("nobody")
    os.chown(terminal, nobody.uid, -1)
    reader, writer = os.pipe()
    descriptors = [terminal, writer, *descriptors_of("/usr", path)]
    wanted = [mounted(source="/usr", own=False), mounted(source="/its tools", target="/srv/b", own=own)]
    message = "'/its tools' holds programs of a container that shares the host's ids"
    try:
        with pytest.raises(SandboxError, match=reached if allowed else message):
            machines.start(content(mounts=wanted, user_namespace=False), descriptors, nobody, trusted=True)
        # With ids of its own its root is not the host's.
        with pytest.raises(SandboxError, match=reached):
            machines.start(content(mounts=wanted), descriptors, nobody, trusted=False)
    finally:
        for descriptor in (reader, *descriptors[1:]):
            os.close(descriptor)


@as_root
def test_a_terminal_of_another_account_is_refused() -> None:
    ours, theirs = os.openpty()
    try:
        machines._check_terminal(theirs, ROOT)
        with pytest.raises(ValueError, match="no terminal of the account's"):
            machines._check_terminal(theirs, ANN)
        os.chown(theirs, ANN.uid, -1)
        machines._check_terminal(theirs, ANN)
    finally:
        os.close(ours)
        os.close(theirs)


@as_root
@pytest.mark.parametrize(
    "mode, folder, writable, allowed",
    [
        pytest.param(0o604, False, False, True, id="readable"),
        pytest.param(0o604, False, True, False, id="not-writable"),
        pytest.param(0o606, False, True, True, id="writable"),
        pytest.param(0o602, False, True, False, id="not-readable"),
        pytest.param(0o640, False, False, False, id="of-a-group"),
        pytest.param(0o705, True, False, True, id="folder"),
        pytest.param(0o704, True, False, False, id="folder-that-cannot-be-passed"),
        pytest.param(0o701, True, False, False, id="folder-that-cannot-be-listed"),
        pytest.param(0o705, True, True, False, id="folder-not-writable"),
        pytest.param(0o707, True, True, True, id="folder-writable"),
    ],
)
def test_only_what_the_account_itself_could_use_is_mounted(
    tmp_path: Path, mode: int, folder: bool, writable: bool, allowed: bool
) -> None:
    path = tmp_path / "thing"
    path.mkdir() if folder else path.touch()
    path.chmod(mode)
    nobody = host.account("nobody")
    wanted = [Mounted("/usr", "/usr", False, False), Mounted("/source", "/srv/a", writable, True)]
    descriptors = descriptors_of("/usr", path)
    try:
        if allowed:
            machines._check_rights(wanted, descriptors, nobody)
        else:
            with pytest.raises(SandboxError, match="nobody itself could not use '/source'"):
                machines._check_rights(wanted, descriptors, nobody)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("points_to", ["/usr", "nowhere"])
def test_a_link_is_not_mounted(tmp_path: Path, points_to: str) -> None:
    (tmp_path / "link").symlink_to(points_to)
    descriptor = os.open(tmp_path / "link", os.O_PATH | os.O_NOFOLLOW)
    me = host.account(os.geteuid())
    try:
        with pytest.raises(SandboxError, match="could not use"):
            machines._check_rights([Mounted("/source", "/srv/a", False, True)], [descriptor], me)
    finally:
        os.close(descriptor)


def test_the_command_shows_nothing_of_what_is_inside() -> None:
    """Whoever lists processes sees the program and where it works, no variable, no file and no other path."""
    words = machines._nspawn_argv("/usr/bin/systemd-nspawn", ORDER, machine(), ANN)
    assert words[0] == "/usr/bin/systemd-nspawn"
    assert words[-4:] == ["/srv/project", *ORDER.argv]
    before = words[: words.index("--")]
    text = "\0".join([*before, *words[len(before) : -4]]).replace(machines._SCRIPT, "")
    for value in (SECRET, "two\nlines", "API_KEY", "hidden", "passwd", ORDER.label, ANN.home, ORDER.cwd, "rm"):
        assert value not in text
    assert [word for word in before if word.startswith("--setenv")] == ["--setenv=SYSTEMD_LOG_LEVEL=err"]
    assert [word for word in before if word.startswith("--bind")] == ["--bind=/dev/dri"]
    # What comes from outside stands behind an = or the end of the options.
    assert all(word.startswith("--") for word in before[1:])


@pytest.mark.parametrize(
    "more, owner, base, there, not_there",
    [
        pytest.param({}, ANN, 0x80000, {"--private-users=524288:65536", "--user=ann"}, {"--private-network"}, id="all"),
        pytest.param({"network": False}, ANN, 0x80000, {"--private-network"}, set(), id="no-network"),
        pytest.param({}, ROOT, 0x80000, {"--private-users=524288:65536"}, {"--user=root"}, id="root"),
        pytest.param({"devices": ()}, ANN, None, {"--user=ann"}, {"--bind=/dev/dri"}, id="no-devices"),
        pytest.param({"hostname": ""}, ANN, 0x80000, set(), {"--hostname="}, id="no-hostname"),
    ],
)
def test_options(
    more: Mapping[str, Any], owner: host.Account, base: int | None, there: set[str], not_there: set[str]
) -> None:
    words = set(machines._nspawn_argv("nspawn", dataclasses.replace(ORDER, **more), machine(base=base), owner))
    always = {"--drop-capability=all", "--no-new-privileges=yes", "--settings=no", f"--machine={NAME}"}
    assert always | there <= words
    assert not not_there & words
    assert any(word.startswith("--private-users=") for word in words) is (base is not None)


# The inside, before and while it runs.


def in_a_tree(path: Path, function: Any) -> Any:
    """A function's value in a process with mounts of its own: path is a tmpfs, and so is the folder `theirs` in it."""

    def work() -> Any:
        mounts.detach_this_process()
        os.umask(0)
        mounts.temporary(str(path), mode="755")
        (path / "theirs").mkdir()
        mounts.temporary(str(path / "theirs"), mode="777")
        (path / "theirs/there").mkdir()
        (path / "link").symlink_to("theirs")
        (path / "file").touch()
        root = os.open(path, os.O_PATH | os.O_DIRECTORY)
        return function(machines._Places(root, [os.fstat(root).st_dev], 0x80000, ANN))

    return procs.fork(None, work).result()


@as_root
def test_places_are_made_where_they_are_missing(tmp_path: Path) -> None:
    def work(places: machines._Places) -> Any:
        for path, is_folder in {"/a/b/c": True, "/a/d/file": False, "/home/ann/x/y": True, "/": True}.items():
            os.close(places.open(path, is_folder))
        made = {}
        for path in ("a", "a/b", "a/b/c", "a/d", "a/d/file", "home", "home/ann", "home/ann/x", "home/ann/x/y"):
            status = (tmp_path / path).lstat()
            made[path] = (status.st_uid, status.st_gid, stat.filemode(status.st_mode))
        return made

    roots, anns = [0x80000, 0x80000, "drwxr-xr-x"], [0x80000 + 1000, 0x80000 + 1000, "drwxr-xr-x"]
    assert in_a_tree(tmp_path, work) == {
        **dict.fromkeys(("a", "a/b", "a/b/c", "a/d", "home"), roots),
        "a/d/file": [0x80000, 0x80000, "-rw-r--r--"],
        **dict.fromkeys(("home/ann", "home/ann/x", "home/ann/x/y"), anns),
    }


@as_root
@pytest.mark.parametrize(
    "path, what",
    [
        pytest.param("/theirs/new", "FileNotFoundError", id="in-what-is-theirs"),
        pytest.param("/theirs/there/new", "FileNotFoundError", id="deeper-in-what-is-theirs"),
        pytest.param("/theirs/new/deeper", "FileNotFoundError", id="two-at-once"),
        pytest.param("/link/new", "OSError", id="by-a-link"),
        pytest.param("/link", "OSError", id="a-link"),
        pytest.param("/link/there", "OSError", id="what-is-there-by-a-link"),
        pytest.param("/file/new", "NotADirectoryError", id="in-a-file"),
    ],
)
def test_nothing_is_made_in_what_is_not_its_own(tmp_path: Path, path: str, what: str) -> None:
    """What is mounted is the account's: root makes nothing there, and follows no link to somewhere else."""

    def work(places: machines._Places) -> Any:
        try:
            os.close(places.open(path, folder=True))
        except OSError as error:
            return [
                type(error).__name__,
                sorted(os.listdir(tmp_path / "theirs")),
                os.listdir(tmp_path / "theirs/there"),
            ]
        return "made"

    assert in_a_tree(tmp_path, work) == [what, ["there"], []]


@as_root
def test_what_is_there_is_mounted_on_wherever_it_is(tmp_path: Path) -> None:
    def work(places: machines._Places) -> Any:
        descriptor = places.open("/theirs/there", folder=True)
        return os.fstat(descriptor).st_ino == (tmp_path / "theirs/there").stat().st_ino

    assert in_a_tree(tmp_path, work) is True


@as_root
def test_the_parent_of_a_file_is_one_of_its_own(tmp_path: Path) -> None:
    """Copies with secrets in them are never put in a folder of the account's."""

    def work(places: machines._Places) -> Any:
        with pytest.raises(FileNotFoundError, match="nothing to mount on"), places.parent("/theirs/secret"):
            pass
        with places.parent("/etc/passwd") as parent:
            return os.fstat(parent).st_ino == (tmp_path / "etc").stat().st_ino

    assert in_a_tree(tmp_path, work) is True


def among(function: Callable[[], None]) -> int:
    us = procs.identify(os.getpid())
    assert us is not None
    return machines._among_mounts(us, function)


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "error, number",
    [
        pytest.param(OSError(errno.EXDEV, "words"), errno.EXDEV, id="with-a-number"),
        pytest.param(FileNotFoundError(errno.ENOENT, "words", "/a"), errno.ENOENT, id="of-a-kind"),
        pytest.param(OSError("words"), errno.EPROTO, id="without-a-number"),
        pytest.param(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), errno.EPROTO, id="encoding"),
        pytest.param(SandboxError("What."), errno.EPROTO, id="ours"),
        pytest.param(SystemExit(0), errno.EPROTO, id="exit"),
        pytest.param(KeyboardInterrupt(), errno.EPROTO, id="interrupt"),
        pytest.param(ZeroDivisionError(), errno.EPROTO, id="any"),
    ],
)
def test_of_an_error_among_the_mounts_there_is_a_number_only(
    capfd: pytest.CaptureFixture[str], error: BaseException, number: int
) -> None:
    """Wording one loads code, and what is there is not the host's."""
    assert among(raising(error)) == number
    assert capfd.readouterr() == ("", "")


def test_among_the_mounts_no_code_is_loaded() -> None:
    def function() -> None:
        if sys.path or sys.meta_path or sys.path_hooks or sys.path_importer_cache:
            raise OSError(errno.EXDEV, "there are places")

    before = list(sys.path)
    assert among(function) == 0
    assert sys.path == before


def test_what_ended_is_not_entered() -> None:
    """And nothing is done where this process is instead."""
    assert machines._among_mounts(Process(1 << 22, 1), raising(OSError(errno.EXDEV, "ran"))) == errno.ENOENT


@pytest.fixture
def inside(tmp_path: Path, folder: Path) -> Iterator[Path]:
    """A machine whose place to mount in is a tmpfs in the mounts of its first process alone, as is `theirs` in it."""
    place = tmp_path / "place"
    place.mkdir()
    ready, ready_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mounts.detach_this_process()
            mounts.temporary(str(place), mode="755")
            (place / "theirs").mkdir()
            mounts.temporary(str(place / "theirs"), mode="777")
            (place / "link").symlink_to("theirs")
            os.write(ready_end, str(place.stat().st_dev).encode())
            signal.pause()
        finally:
            os._exit(0)
    init = procs.identify(child)
    assert init is not None
    machines._write(machine(supervisor=init, init=init, own=(int(os.read(ready, 100)),), base=None))
    yield place
    init.signal(signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(ready_end)


def added(inside: Path, *targets: str) -> list[str]:
    """Mount one folder on all of these; which of them are mounted then, seen from inside."""
    record = machines._read(NAME)
    assert record is not None
    assert record.init is not None
    source = inside.parent / "source"
    source.mkdir(exist_ok=True)
    (source / "meant").touch()
    for path in (source, inside.parent):
        path.chmod(0o755)
    wanted = [mounted(source=str(source), target=f"{inside}/{target}") for target in targets]
    descriptors = descriptors_of(*[source] * len(targets))
    owner = host.account(os.geteuid())
    us = dataclasses.replace(record, uid=owner.uid)
    machines._write(us)
    try:
        machines.add_mounts({"machine": NAME, "mounts": wanted}, descriptors, owner)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    root = f"/proc/{record.init.pid}/root{inside}"
    return [target for target in targets if os.path.exists(f"{root}/{target}/meant")]


@as_root
def test_more_is_mounted_in_one_that_runs(inside: Path) -> None:
    assert added(inside, "a", "b/c") == ["a", "b/c"]
    assert list(inside.iterdir()) == []


@as_root
@pytest.mark.parametrize(
    "target, why",
    [
        pytest.param("theirs/new", errno.ENOENT, id="in-what-is-theirs"),
        pytest.param("link/new", errno.ELOOP, id="by-a-link"),
        pytest.param("link", errno.ELOOP, id="on-a-link"),
    ],
)
def test_all_that_is_asked_for_is_mounted_or_nothing(inside: Path, target: str, why: int) -> None:
    record = machines._read(NAME)
    assert record is not None
    assert record.init is not None
    with pytest.raises(SandboxError, match=f"cannot be mounted on .*: {os.strerror(why)}"):
        added(inside, "a", target)
    assert os.listdir(f"/proc/{record.init.pid}/root{inside}/a") == []
    assert os.listdir(f"/proc/{record.init.pid}/root{inside}/theirs") == []


@as_root
def test_what_is_reserved_is_not_mounted_on_later_either(inside: Path) -> None:
    for target in RESERVED:
        asked = {"machine": NAME, "mounts": [mounted(target=target)]}
        with pytest.raises(ValueError, match="nothing can be mounted on"):
            machines.add_mounts(asked, [0], ANN)


# Which process is what.


@pytest.fixture
def words_of(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Makes a process with these words for its argv, which does nothing: it waits at a pipe that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    children = []

    def make(*words: str) -> int:
        children.append(subprocess.Popen(words, executable="/bin/echo", stdout=writer))
        return children[-1].pid

    yield make
    for child in children:
        child.kill()
        child.wait()
    os.close(reader)
    os.close(writer)


SCRIPT = machines._SCRIPT


@pytest.mark.parametrize(
    "words, ours",
    [
        pytest.param(("/usr/bin/bash", "-c", SCRIPT, "/run/claude-sandbox", "wait"), True, id="script"),
        pytest.param(("/usr/bin/bash", "-p", "-c", SCRIPT, "/run/claude-sandbox", "run"), True, id="its-child"),
        pytest.param(("anything", "-c", SCRIPT), True, id="any-name"),
        pytest.param(("systemd-nspawn", "--quiet", "--", "/usr/bin/bash", "-c", SCRIPT), False, id="nspawn"),
        pytest.param(("/usr/bin/bash", "-x", "-c", SCRIPT), False, id="another-option"),
        pytest.param(("/usr/bin/bash", "-c", "-p", SCRIPT), False, id="another-order"),
        pytest.param(("/usr/bin/bash", "-c", f"{SCRIPT} "), False, id="nearly"),
        pytest.param(("/usr/bin/bash", "-c", f" {SCRIPT}"), False, id="nearly-before"),
        pytest.param(("/usr/bin/bash", SCRIPT), False, id="no-option"),
        pytest.param((SCRIPT, "-c"), False, id="as-its-name"),
        pytest.param(("-c", SCRIPT), False, id="no-name"),
        pytest.param(("/usr/bin/claude", "--prompt", SCRIPT, "-c", SCRIPT), False, id="further-on"),
    ],
)
def test_the_script_is_known_by_its_first_words(words_of: Callable[..., int], words: list[str], ours: bool) -> None:
    pid = words_of(*words)
    # A process has no argv for a moment while it becomes another program.
    assert procs.until(lambda: machines._is_ours(pid) is not None, PATIENCE)
    assert machines._is_ours(pid) is ours


def test_what_is_gone_is_neither_ours_nor_not() -> None:
    assert machines._is_ours(1 << 22) is None
    with subprocess.Popen(["true"]) as child:
        ended = procs.identify(child.pid)
        assert ended is None or ended.wait(PATIENCE)
        assert machines._is_ours(child.pid) is None


@pytest.mark.parametrize(
    "tree, found",
    [
        pytest.param({0: [1], 1: [2], 2: [3]}, (2, 3), id="as-it-is"),
        pytest.param({0: [1], 1: [9, 2], 2: [8, 3]}, (2, 3), id="beside-others"),
        pytest.param({0: [1], 1: [2], 2: []}, None, id="without-its-program"),
        pytest.param({0: [1], 1: [2], 2: [8]}, None, id="another-program"),
        pytest.param({0: [2], 2: [3]}, None, id="not-so-deep"),
        pytest.param({0: [1], 1: [9], 9: [2], 2: [3]}, None, id="deeper"),
        # What an agent could make: a pid namespace in its own, and the script in that.
        pytest.param({0: [1], 1: [2], 2: [8], 8: [4], 4: [3]}, None, id="made-by-the-agent"),
        pytest.param({0: [1], 1: [4], 4: [3]}, None, id="a-namespace-too-deep"),
        pytest.param({0: [1], 1: [9], 9: [3]}, None, id="no-namespace"),
    ],
)
def test_the_first_process_is_the_grandchild_of_what_started_it(
    monkeypatch: pytest.MonkeyPatch, tree: dict[int, list[int]], found: tuple[int, int] | None
) -> None:
    """Here 2 is the first of a pid namespace, 4 the first of one in that, and 3 the script."""
    us = procs.identify(os.getpid())
    assert us is not None
    base = 1 << 22
    depths = {2: (1, 2), 3: (2, 2), 4: (1, 3)}
    monkeypatch.setattr(
        procs,
        "children",
        lambda pid: [Process(base + each, 1) for each in tree.get(pid - base if pid > base else 0, [])],
    )
    monkeypatch.setattr(procs, "innermost_pid", lambda pid: depths.get(pid - base, (7, 1))[0])
    monkeypatch.setattr(procs, "depth", lambda pid: depths.get(pid - base, (7, 1))[1])
    monkeypatch.setattr(machines, "_is_ours", lambda pid: pid == base + 3)
    expected = False if found is None else tuple(Process(base + each, 1) for each in found)
    assert machines._payload(us) == expected
    # Without what started it all is over, whatever there is.
    assert machines._payload(Process(base, 1)) is True


# The program that takes the environment.


@dataclasses.dataclass(frozen=True)
class Ran:
    code: int
    out: bytes
    failed: bool


def script(argv: tuple[str, ...], env: Mapping[str, str], cwd: str = "/") -> Ran:
    """What the script in a container makes of a program and its environment."""
    with tempfile.TemporaryDirectory() as start:
        os.mkfifo(f"{start}/environment")
        words = ["/usr/bin/bash", "-c", machines._SCRIPT, start, "wait", "/usr/bin/bash", cwd, *argv]
        foreign = {"OF_NSPAWN": "1", "container": "systemd-nspawn"}
        with subprocess.Popen(words, env=foreign, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            Path(start, "environment").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in env.items()))
            out = child.communicate(timeout=PATIENCE)[0]
        return Ran(child.returncode, out, Path(start, "failed").exists())


@needs_bash
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="none"),
        pytest.param({"A": "1", "EMPTY": "", "_b2": "a=b"}, id="some"),
        pytest.param({"A": " two\n\nlines \t\\ $(id) `id` \"'* ü\x01\n"}, id="any-character"),
        pytest.param({"PATH": "/nowhere", "LC_ALL": "C.UTF-8", "TERM": "x", "name": "1", "HOSTNAME": "h"}, id="known"),
        pytest.param({"LONG": "x" * 100_000, "AFTER": "1"}, id="longer-than-a-pipe"),
        pytest.param({"A; id": "1", "B[$(id)]": "1", "-p": "1", "-f": "1", "C": "1"}, id="no-names"),
    ],
)
def test_the_program_gets_its_environment_and_nothing_of_another(env: dict[str, str]) -> None:
    ran = script(("/usr/bin/env", "-0"), env)
    got = dict(pair.split("=", 1) for pair in ran.out.decode().split("\0") if pair)
    of_bash = {"PWD", "OLDPWD", "SHLVL"}
    assert {key: value for key, value in got.items() if key not in of_bash} == {
        key: value for key, value in env.items() if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key)
    }
    assert (ran.code, ran.failed) == (0, False)


@needs_bash
@pytest.mark.parametrize(
    "argv, code, failed",
    [
        pytest.param(("/usr/bin/bash", "-c", "exit 7"), 7, False, id="exit"),
        pytest.param(("/usr/bin/bash", "-c", "kill -TERM $$"), 143, False, id="signal"),
        pytest.param(("/usr/bin/bash", "-c", "kill -KILL $$"), 137, False, id="kill"),
        pytest.param(("/nowhere/program",), 126, True, id="no-such-program"),
        pytest.param(("no-such-program",), 126, True, id="no-such-name"),
        pytest.param(("/etc/passwd",), 126, True, id="cannot-be-executed"),
        pytest.param(("-c", "exit 5"), 126, True, id="like-an-option"),
    ],
)
def test_how_the_program_ended_is_told(argv: tuple[str, ...], code: int, failed: bool) -> None:
    ran = script(argv, {"PATH": "/usr/bin:/bin"})
    assert (ran.code, ran.failed) == (code, failed)


@needs_bash
def test_the_program_begins_where_it_works(tmp_path: Path) -> None:
    odd = tmp_path / "- a b'"
    odd.mkdir()
    words = ("/usr/bin/bash", "-c", 'printf "%s\n" "$PWD" "$@"', "sh", "a b", "", "--", "*")
    assert script(words, {}, str(odd)).out.decode().split("\n") == [str(odd), "a b", "", "--", "*", ""]
    assert script(("/usr/bin/true",), {}, str(tmp_path / "gone")) == Ran(126, b"", True)


def test_who_got_the_pid_of_a_supervisor_later_is_left_alone() -> None:
    """What root remembers may be of a process that is gone: its pid is then anybody's."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as other:
        (child,) = procs.until(lambda: procs.children(other.pid), 10)
        try:
            machines._end(machine(supervisor=Process(other.pid, 1)), 0)
            assert child.alive()
            assert other.poll() is None
        finally:
            child.signal(9)
            other.kill()
