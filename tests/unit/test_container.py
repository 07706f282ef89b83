"""The backend container, as far as it works without one: what it refuses, what it asks root for, what it reads."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import (
    host,
    machines,
    privileged,
    procs,
    spec,
    toolchain,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import base, container
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import (
    Completed,
    Invocation,
)
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.grants import Bind
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.instance import Instance
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.machines import Mounted
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process

ANN = host.Account("ann", 1000, 1000, "/home/ann", "/bin/bash", (1000,))
TOOLS = toolchain.Toolchain("host", (Bind("/usr", "/usr"),), (("/bin", "usr/bin"),), "/usr/bin", "/usr/bin/bash")
ID = "0123456789ab"
RECORD = "/state/sandboxes/demo"
SECRET = "sk-made-up-0123456789"
PATIENCE = 10.0


def asked(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": "/srv/demo", "backend": "container", **params})


def job(folder: Path | str = "/run/demo/launch", **more: Any) -> base.Job:
    values: dict[str, Any] = {
        "name": "demo",
        "id": ID,
        "record": RECORD,
        "spec": asked(),
        "owner": ANN,
        "argv": ("/usr/bin/claude", "--flag"),
        "toolchain": TOOLS,
        "binds": TOOLS.binds,
        "env": {"HOME": ANN.home, "API_KEY": SECRET},
        "files": {"/etc/passwd": b"\0\xff"},
        "folder": str(folder),
    }
    return base.Job(**{**values, **more})


# What cannot work.


@pytest.fixture
def equipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., host.Host]:
    """Makes a host that has these programs, and the one that sudo runs or not."""

    def make(uid: int, *programs: str, installed: bool = True) -> host.Host:
        present = {name: f"/usr/bin/{name}" for name in programs}
        monkeypatch.setattr(host.Host, "find", lambda _, program: present.get(program))
        monkeypatch.setattr(privileged, "HELPER", str(tmp_path / "program"))
        if installed:
            (tmp_path / "program").touch()
        return host.Host({}, uid)

    return make


Equipped = Callable[..., host.Host]


def found(machine: host.Host, **params: Any) -> list[str]:
    problems = container.problems(machine, asked(**params))
    assert all(each.what.endswith(".") and each.hint and f"{each.what}{each.hint}".isprintable() for each in problems)
    return [problem.what for problem in problems]


def test_nothing_is_missing(equipped: Equipped) -> None:
    # Root needs neither sudo nor what sudo runs.
    assert found(equipped(0, "systemd-nspawn", installed=False)) == []
    assert found(equipped(1 << 30, "systemd-nspawn", "sudo")) == []


def test_a_missing_program_is_told_with_its_package(equipped: Equipped) -> None:
    machine = equipped(0)
    assert container.problems(machine, asked()) == [host.missing("systemd-nspawn")]
    assert found(equipped(1 << 30, "systemd-nspawn")) == ["sudo is not installed on this host."]


def test_an_account_without_the_way_to_root_is_told(equipped: Equipped) -> None:
    machine = equipped(1 << 30, "systemd-nspawn", "sudo", installed=False)
    (problem,) = container.problems(machine, asked())
    assert problem.what == f"{1 << 30} is not root, and there is no {privileged.HELPER}."
    assert "Run this as root" in problem.hint


@pytest.mark.parametrize("grant", list(spec.GRANT_DEFAULTS))
def test_what_works_for_nobody_but_the_account_itself_is_refused(equipped: Equipped, grant: str) -> None:
    machine = equipped(0, "systemd-nspawn")
    refused = grant in {"x11", "wayland", "audio", "dbus", "gpu", "keyring", "ssh_agent"}
    given = {"display": grant != "x11", grant: True}
    problems = found(machine, grants=given)
    assert (problems != []) is refused
    assert all(f"grants.{grant} has no effect" in what for what in problems)
    # Where its ids are the host's it works, and what is not given does no harm.
    assert found(machine, grants=given, container={"user_namespace": False}) == []
    assert found(machine, grants={grant: False}) == []


@pytest.mark.parametrize("name", ["UID", "BASH_VERSION", "IFS", "_", "OPTIND"])
def test_variables_that_the_shell_takes_from_nobody_are_refused(equipped: Equipped, name: str) -> None:
    assert found(equipped(0, "systemd-nspawn"), env={name: "1", "A": "1"}) == [
        f"env: {name} cannot be set in a container."
    ]


@pytest.mark.parametrize(
    "params, shared", [({}, True), ({"container": {}}, True), ({"container": {"user_namespace": False}}, False)]
)
def test_ids_of_its_own_unless_told_otherwise(params: dict[str, Any], shared: bool) -> None:
    assert container.user_namespace(asked(**params)) is shared


@pytest.mark.parametrize(
    "target, refused",
    [
        *((target, True) for target in ("/run/claude-sandbox", "/run/claude-sandbox/environment", "/run/host/a")),
        *((target, True) for target in ("/run", "/run/host", "/run/systemd", "/run/systemd/nspawn")),
        *((target, False) for target in ("/run/a", "/run/hostname", "/run/systemd-x", "/srv/run", "/runs")),
    ],
)
def test_what_a_container_itself_needs_is_not_mounted_on(equipped: Equipped, target: str, refused: bool) -> None:
    problems = found(equipped(0, "systemd-nspawn"), mounts=[{"source": "/srv/data", "target": target}])
    assert problems == ([f"mounts: '{target}' is what a container itself needs."] if refused else [])


# What runs in the pane.


def test_the_pane_shows_nothing_and_reads_nothing() -> None:
    command = container.command(host.Host({}, 1000), asked(), ["/usr/bin/claude", SECRET], 5)
    assert command.argv[:2] == ("/bin/sh", "-c")
    assert len(command.argv) == 3
    assert "claude" not in command.argv[2]
    assert (command.inputs, command.outputs, command.gates) == ((), {5: "status"}, {4: "pane"})
    assert container.contents(job()) == {}


@pytest.mark.parametrize(
    "text, code", [("0\n", 0), ("143\n", 143), ("", 137), ("\n", 137)], ids=["success", "signal", "lost", "empty"]
)
def test_the_pane_ends_with_the_code_that_it_is_told(tmp_path: Path, text: str, code: int) -> None:
    """And writes it down itself: whoever tells it may be root, who writes to nothing else of ours."""
    command = container.command(host.Host({}, 1000), asked(), [], 0)
    (gate,), (status,) = command.gates, command.outputs
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    words = ["/bin/sh", "-c", f"{{ {command.argv[2]}\n}} {gate}<&0 {status}>&1"]
    done = subprocess.run(words, stdin=reader, stdout=subprocess.PIPE, check=False)
    os.close(reader)
    assert done.returncode == code
    # What was not told is not written down either.
    (tmp_path / "status").write_bytes(done.stdout)
    assert container.exit_code(str(tmp_path)) == (code if text.strip() else None)


@pytest.mark.parametrize(
    "content, code",
    [
        pytest.param(b"0\n", 0, id="success"),
        pytest.param(b"143\n", 143, id="signal"),
        pytest.param(b"7", 7, id="without-its-end"),
        pytest.param(b"", None, id="runs"),
        pytest.param(b"\n", None, id="empty-line"),
        pytest.param(b"-1\n", None, id="negative"),
        pytest.param(b"1.5\n", None, id="no-whole-number"),
        pytest.param(b"one\n", None, id="words"),
        pytest.param(b"1\n2\n", None, id="two-lines"),
        pytest.param(b"\xff\xfe\0", None, id="garbage"),
        pytest.param("١".encode(), None, id="other-digits"),
        pytest.param("²".encode(), None, id="no-digit"),
        pytest.param(b"\0" * 1000, None, id="zeros"),
        pytest.param(b"x" * 1_000_000, None, id="long"),
        pytest.param(None, None, id="no-file"),
    ],
)
def test_exit_code(tmp_path: Path, content: bytes | None, code: int | None) -> None:
    if content is not None:
        (tmp_path / "status").write_bytes(content)
    assert container.exit_code(str(tmp_path)) == code


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
def test_no_exit_code_is_read_from_what_is_no_file(tmp_path: Path, make: Callable[[str], object]) -> None:
    """Nor waited for."""
    make(str(tmp_path / "status"))
    assert container.exit_code(str(tmp_path)) is None


# What is mounted.


def identity(path: Path | str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def opened(bind: Bind) -> tuple[int, int]:
    descriptor = container._opened(bind)
    try:
        assert not os.get_inheritable(descriptor)
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino
    finally:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/b/link").symlink_to("file")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("path", ["a", "a/b", "a/b/file"])
def test_what_is_opened_is_what_is_there(tree: Path, path: str, checked: bool) -> None:
    assert opened(Bind(f"{tree}/{path}", "/srv/a", "ro", checked=checked)) == identity(tree / path)


@pytest.mark.parametrize("path", ["link", "link/b", "link/b/file", "a/b/link", "a/dangling", "a/b/link/more"])
def test_where_no_link_may_be_on_the_way_none_is_followed(tree: Path, path: str) -> None:
    """A path of the project's, or of the account's home, that its owner's programs could have exchanged."""
    with pytest.raises(SandboxError) as caught:
        container._opened(Bind(f"{tree}/{path}", "/srv/a", "rw", checked=True))
    assert f"{tree}/{path}" in caught.value.what


def test_of_the_hosts_own_a_link_is_followed(tree: Path) -> None:
    assert opened(Bind(f"{tree}/link/b/link", "/srv/a")) == identity(tree / "a/b/file")


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("path", ["gone", "gone/file", "a/b/file/more"])
def test_what_is_not_there_is_told(tree: Path, path: str, checked: bool) -> None:
    with pytest.raises(SandboxError, match="cannot be mounted"):
        container._opened(Bind(f"{tree}/{path}", "/srv/a", "ro", checked=checked))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert opened(Bind(f"{tmp_path}/pipe", "/srv/a", "ro", checked=True)) == identity(tmp_path / "pipe")


OTHERS = ANN.uid + 1


@pytest.mark.parametrize(
    "uid, gid, mode, allowed",
    [
        pytest.param(ANN.uid, OTHERS, 0o700, True, id="its-own"),
        pytest.param(ANN.uid, OTHERS, 0o577, False, id="its-own-read-only"),
        pytest.param(OTHERS, ANN.gid, 0o720, True, id="of-its-group"),
        pytest.param(OTHERS, ANN.gid, 0o757, False, id="of-its-group-read-only"),
        pytest.param(OTHERS, OTHERS, 0o702, True, id="of-everybody"),
        pytest.param(OTHERS, OTHERS, 0o775, False, id="of-others"),
    ],
)
def test_what_could_not_be_written_inside_is_told(tree: Path, uid: int, gid: int, mode: int, allowed: bool) -> None:
    """Of the account's groups only its own one is there."""
    owner = dataclasses.replace(ANN, groups=(ANN.gid, OTHERS))
    status = os.stat_result((stat.S_IFDIR | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))
    bind = Bind(f"{tree}/a", "/srv/demo", "rw", checked=True)
    if not allowed:
        with pytest.raises(SandboxError, match="does not belong to ann") as caught:
            container._check_owner(owner, asked(), bind, status)
        assert "Change its owner to ann" in caught.value.hint
    else:
        container._check_owner(owner, asked(), bind, status)
    # Where nothing is to be written, or the ids are the host's, there is nothing to be told.
    container._check_owner(owner, asked(), dataclasses.replace(bind, mode="ro"), status)
    container._check_owner(owner, asked(container={"user_namespace": False}), bind, status)


# Places to mount on.


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("project", "data", "deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def made(project: Path, source: str, target: str, *more: Bind) -> list[str]:
    """What is in the project after a place was made for a mount that stands in it at `target`."""
    bind = Bind(f"{project}/{source}", target, "rw")
    container._make_mount_point(bind, [Bind(f"{project}/project", "/srv/demo", "rw"), *more, bind])
    return sorted(path.relative_to(project / "project").as_posix() for path in (project / "project").rglob("*"))


def test_a_place_for_a_folder_and_for_a_file(project: Path) -> None:
    assert made(project, "data", "/srv/demo/a/b") == ["a", "a/b"]
    assert made(project, "file", "/srv/demo/a/c") == ["a", "a/b", "a/c"]
    assert (project / "project/a/b").is_dir()
    assert (project / "project/a/c").read_bytes() == b""


@pytest.mark.parametrize("target", ["/srv/other", "/srv/demo-2", "/srv", "/srv/demo"])
def test_no_place_is_made_for_what_stands_elsewhere(project: Path, target: str) -> None:
    assert made(project, "data", target) == []


def test_the_place_is_in_the_nearest_mount(project: Path) -> None:
    nearer = Bind(f"{project}/deep", "/srv/demo/a", "rw")
    assert made(project, "data", "/srv/demo/a/b", nearer) == []
    assert (project / "deep/b").is_dir()


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling"])
def test_what_is_there_stays(project: Path, kind: str) -> None:
    place = project / "project/place"
    makers: dict[str, Callable[[], object]] = {
        "folder": place.mkdir,
        "file": lambda: place.write_text("kept"),
        "link": lambda: place.symlink_to(project / "data"),
        "dangling": lambda: place.symlink_to(project / "elsewhere"),
    }
    makers[kind]()
    before = os.lstat(place)
    assert made(project, "file", "/srv/demo/place") == ["place"]
    assert (os.lstat(place).st_ino, os.lstat(place).st_mode) == (before.st_ino, before.st_mode)
    assert not (project / "elsewhere").exists()


def test_where_none_can_be_made_root_will_say_so(project: Path) -> None:
    (project / "project/file").touch()
    assert made(project, "data", "/srv/demo/file/deeper") == ["file"]


# What root is asked for.


def running(name: str = "demo") -> base.Running:
    process = Process(1 << 22, 1)
    instance = Instance("boot", 0.0, "/run/demo", process, process, process, None, None, {}, (), {})
    return base.Running(name, ID, RECORD, asked(), ANN, instance)


class Root:
    """Takes down what it is asked for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.opened: list[tuple[int, int]] = []

    def ask(self, operation: str, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        self.operations.append((operation, dict(content)))
        self.opened = [(os.fstat(each).st_dev, os.fstat(each).st_ino) for each in descriptors]
        return self.answer


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Root:
    """Root at the other end of this process' socket."""
    asked_for = Root(None)
    monkeypatch.setattr(privileged, "connected", lambda: True)
    monkeypatch.setattr(privileged, "ask", asked_for.ask)
    return asked_for


MACHINE = machines.name_of("demo", ID)
NOWHERE = host.Host({}, 1000)


def test_a_command_is_asked_for(root: Root) -> None:
    done = Completed(3, b"\xff", b"", truncated=True)
    root.answer = done.to_json()
    invocation = Invocation(("a",), {"KEY": SECRET}, "/", "/usr/bin/bash", b"\0\xff", 5.0)
    assert container.execute(NOWHERE, running(), invocation) == done
    (operation, content), *rest = root.operations
    assert (operation, content["machine"], rest) == ("execute", MACHINE, [])
    assert Invocation.from_json(content["invocation"]) == invocation


def test_a_path_and_the_end_are_asked_for(root: Root) -> None:
    root.answer = True
    assert container.exists(NOWHERE, running(), "/a\n") is True
    container.end(NOWHERE, running(), 2.5)
    assert root.operations == [
        ("exists", {"machine": MACHINE, "path": "/a\n"}),
        ("stop", {"machine": MACHINE, "grace": 2.5}),
    ]


def test_what_was_started_and_is_not_known_is_ended_by_its_name(root: Root) -> None:
    """A start that was interrupted left no processes on record."""
    container.end(NOWHERE, dataclasses.replace(running(), instance=None), 0)
    assert root.operations == [("stop", {"machine": MACHINE, "grace": 0})]
    with pytest.raises(SandboxError, match="'demo' is not running"):
        container.agent_pid(dataclasses.replace(running(), instance=None))


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_without_root_it_is_asked_by_sudo(monkeypatch: pytest.MonkeyPatch, timeout: float | None) -> None:
    calls: list[Any] = []

    def by_sudo(*words: Any) -> Any:
        calls.append(words)
        return Completed(0, b"", b"").to_json()

    monkeypatch.setattr(privileged, "by_sudo", by_sudo)
    monkeypatch.setattr(host.Host, "find", lambda _, program: f"/usr/bin/{program}")
    invocation = Invocation(("a",), {}, "/", "/usr/bin/bash", timeout=timeout)
    container.execute(NOWHERE, running(), invocation)
    # The name of the machine is not the account's to say.
    assert calls == [("/usr/bin/sudo", "execute", RECORD, {"invocation": invocation.to_json()}, timeout)]


def test_handlers_are_those_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each works for the account that is served, whatever the request says, and only root's own is trusted."""
    calls: dict[str, Any] = {}

    def taking(name: str) -> Callable[..., None]:
        return lambda *arguments: calls.__setitem__(name, arguments)

    for name in ("start", "stop", "execute", "interact", "exists", "add_mounts"):
        monkeypatch.setattr(machines, name, taking(name))
    content = {"owner": "root", "trusted": True}
    for trusted in (True, False):
        handlers = container.handlers(ANN, trusted)
        assert set(handlers) == {"start", "stop", "execute", "enter", "exists", "mount"}
        for handler in handlers.values():
            handler(content, [5])
        assert calls == {
            "start": (content, [5], ANN, trusted),
            "stop": (content, ANN),
            "execute": (content, ANN),
            "exists": (content, ANN),
            "interact": (content, [5], ANN),
            "add_mounts": (content, [5], ANN),
        }


@dataclasses.dataclass(frozen=True)
class Pane:
    process: Process
    folder: Path
    terminal: int


@pytest.fixture
def pane(tmp_path: Path) -> Any:
    """The command of the pane, in a terminal, at its pipe."""
    folder = tmp_path / "launch"
    folder.mkdir()
    os.mkfifo(folder / "pane")
    command = container.command(NOWHERE, asked(), [], 0)
    (number,) = command.gates
    ours, theirs = os.openpty()
    # Opened for both, so that nobody is waited for.
    script = f'exec {number}<>"$0/pane"; exec "$@"'
    words = ["/bin/sh", "-c", script, str(folder), *command.argv]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as child:
        process = procs.identify(child.pid)
        assert process is not None
        yield Pane(process, folder, theirs)
        child.kill()
    os.close(ours)
    os.close(theirs)


def test_a_start_is_asked_for(root: Root, pane: Pane, tree: Path) -> None:
    root.answer = {"pid": 77, "start": 88}
    before = os.listdir("/proc/self/fd")
    binds = (
        Bind(f"{tree}/a/b", "/srv/demo/deep", "ro", checked=True),
        *TOOLS.binds,
        Bind("/dev/dri", "/dev/dri", "dev"),
        Bind("/sys", "/sys/dev", "ro"),
        Bind(f"{tree}/a", "/srv/demo", "rw", checked=True),
    )
    me = dataclasses.replace(ANN, uid=os.geteuid(), gid=os.getegid())
    asked_for = job(pane.folder, binds=binds, name="demo--", spec=asked(network=False), owner=me)
    assert container.settle(NOWHERE, asked_for, pane.process, lambda: None) == Process(77, 88)
    ((operation, content),) = root.operations
    assert operation == "start"
    order = machines.Order.parse(content)
    assert order.mounts == (
        Mounted("/usr", "/usr", writable=False, own=False),
        Mounted(f"{tree}/a", "/srv/demo", writable=True, own=True),
        Mounted(f"{tree}/a/b", "/srv/demo/deep", writable=False, own=True),
    )
    assert root.opened == [
        identity(os.ttyname(pane.terminal)),
        identity(pane.folder / "pane"),
        identity("/usr"),
        identity(tree / "a"),
        identity(tree / "a/b"),
    ]
    assert order == machines.Order(  # noqa: S604 - the path of a shell
        machine=machines.name_of("demo--", ID),
        label=RECORD,
        hostname="demo",
        network=False,
        user_namespace=True,
        pane=pane.process.pid,
        limits=asked_for.spec.limits,
        mounts=order.mounts,
        links=TOOLS.links,
        devices=("/dev/dri",),
        files={"/etc/passwd": b"\0\xff"},
        env={"HOME": ANN.home, "API_KEY": SECRET},
        shell="/usr/bin/bash",
        argv=("/usr/bin/claude", "--flag"),
        cwd="/srv/demo",
    )
    assert os.listdir("/proc/self/fd") == before
    assert (tree / "a/deep").is_dir()


@pytest.mark.parametrize("kind", ["link", "gone"])
def test_a_pipe_that_was_exchanged_is_not_opened(
    root: Root, pane: Pane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Root writes to it: only to what the pane itself waits at, and never by a link."""
    os.mkfifo(tmp_path / "target")
    assert procs.until(lambda: container._waits(str(pane.folder), pane.process), PATIENCE)
    monkeypatch.setattr(container, "_waits", lambda *_: True)
    (pane.folder / "pane").unlink()
    if kind == "link":
        (pane.folder / "pane").symlink_to(tmp_path / "target")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SandboxError, match="ended while the sandbox started"):
        container.settle(NOWHERE, job(pane.folder), pane.process, lambda: None)
    assert root.operations == []
    assert os.listdir("/proc/self/fd") == before


def test_more_mounts_are_asked_for_at_once(root: Root, tree: Path) -> None:
    before = os.listdir("/proc/self/fd")
    me = dataclasses.replace(ANN, uid=os.geteuid(), gid=os.getegid())
    project = Bind(f"{tree}/a", "/srv/demo", "rw", checked=True)
    added = [Bind(f"{tree}/a/b", "/srv/demo/new", "rw", checked=True), Bind(f"{tree}/a/b/file", "/srv/f", "ro")]
    container.add_mounts(NOWHERE, dataclasses.replace(running(), owner=me), added, [project, *added])
    wanted = [Mounted(f"{tree}/a/b", "/srv/demo/new", True, True), Mounted(f"{tree}/a/b/file", "/srv/f", False, True)]
    assert root.operations == [("mount", {"machine": MACHINE, "mounts": [each.__dict__ for each in wanted]})]
    assert root.opened == [identity(tree / "a/b"), identity(tree / "a/b/file")]
    assert os.listdir("/proc/self/fd") == before
    # Where it stands in another mount, only the account may make its place.
    assert (tree / "a/new").is_dir()


def test_no_more_is_mounted_where_one_cannot_be(root: Root, tree: Path) -> None:
    before = os.listdir("/proc/self/fd")
    added = [Bind(f"{tree}/a", "/srv/a", "ro", checked=True), Bind(f"{tree}/gone", "/srv/b", "ro", checked=True)]
    with pytest.raises(SandboxError, match="cannot be mounted"):
        container.add_mounts(NOWHERE, running(), added, added)
    assert root.operations == []
    assert os.listdir("/proc/self/fd") == before


def test_what_the_account_could_not_write_is_not_mounted_later_either(root: Root, tree: Path) -> None:
    bind = Bind(f"{tree}/a", "/srv/a", "rw", checked=True)
    other = dataclasses.replace(ANN, uid=os.geteuid() + 1, gid=os.getegid() + 1)
    (tree / "a").chmod(0o755)
    with pytest.raises(SandboxError, match="does not belong to ann"):
        container.add_mounts(NOWHERE, dataclasses.replace(running(), owner=other), [bind], [bind])
    assert root.operations == []


@pytest.fixture
def by_sudo(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked by sudo, where this process has no root to ask."""
    calls: list[Any] = []

    def take(*words: Any) -> Any:
        calls.append(words)
        return 7

    monkeypatch.setattr(privileged, "by_sudo", take)
    monkeypatch.setattr(host.Host, "find", lambda _, program: f"/usr/bin/{program}")
    return calls


def test_more_mounts_by_sudo(by_sudo: list[Any], tree: Path) -> None:
    """Nothing is opened or made yet: whom sudo starts does so as the account."""
    added, binds = [Bind(f"{tree}/a", "/srv/demo/a", "rw")], [Bind(f"{tree}/a/b", "/srv/demo", "rw")]
    container.add_mounts(NOWHERE, running(), added, [*binds, *added])
    content = {"added": [added[0].__dict__], "binds": [each.__dict__ for each in (*binds, *added)]}
    assert by_sudo == [("/usr/bin/sudo", "mount", RECORD, content, 60.0)]
    assert sorted(os.listdir(tree / "a/b")) == ["file", "link"]


def test_a_terminal_is_passed_on(root: Root) -> None:
    invocation = Invocation(("a",), {"KEY": SECRET}, "/", "/usr/bin/bash")
    ours, theirs = os.openpty()
    try:
        root.answer = 7
        assert container.interact(NOWHERE, running(), invocation, theirs) == 7
        assert root.operations == [("enter", {"machine": MACHINE, "invocation": invocation.to_json()})]
        assert root.opened == [identity(os.ttyname(theirs))]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_by_sudo_is_named(by_sudo: list[Any]) -> None:
    """For sudo passes on no descriptor."""
    invocation = Invocation(("a",), {"KEY": SECRET}, "/", "/usr/bin/bash")
    ours, theirs = os.openpty()
    try:
        assert container.interact(NOWHERE, running(), invocation, theirs) == 7
        content = {"invocation": invocation.to_json(), "terminal": os.ttyname(theirs)}
        assert by_sudo == [("/usr/bin/sudo", "enter", RECORD, content, None)]
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("how", ["ended", "elsewhere"])
def test_a_pane_that_does_not_wait_is_told(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(container, "_START_SECONDS", 0.2)
    with subprocess.Popen(["sleep", "60"]) as child:
        process = procs.identify(child.pid)
        assert process is not None
        if how == "ended":
            child.kill()
            child.wait()
        with pytest.raises(SandboxError, match=r"did not come up|ended while the sandbox started"):
            container.settle(NOWHERE, job(tmp_path), process, lambda: None)
        child.kill()
    assert root.operations == []


def test_use_is_counted_from_its_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    me = procs.identify(os.getpid())
    assert me is not None
    instance = dataclasses.replace(running().instance, init=me)  # type: ignore[type-var]
    live = dataclasses.replace(running(), instance=instance)
    with subprocess.Popen(["sleep", "60"]) as child:
        used = container.usage(live)
        child.kill()
    assert used.processes == 2
    assert used.memory_bytes > 1 << 20
