"""The registry: whose the name is, what is on disk after a crash, and what is made of what cannot be read."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import host, procs, registry, spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.instance import Instance
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.procs import Process
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.registry import Record, Registry

SPEC = spec.parse({"project_dir": "/srv/demo", "env": {"A": "ü"}})
OTHER = spec.parse({"project_dir": "/srv/other"})
ME = host.account(os.geteuid())
INSTANCE = Instance(
    boot_id="boot",
    started_at=1.5,
    folder="/run/x",
    server=Process(10, 100),
    pane=Process(11, 101),
    init=Process(12, 102),
    xvfb=None,
    display=None,
    env={"A": "1"},
    given=("ssh", "gh"),
    skipped={"gpu": "no"},
)


@pytest.fixture
def found(tmp_path: Path) -> Registry:
    return Registry(f"{tmp_path}/state")


def add(found: Registry, name: str, asked: spec.Spec = SPEC) -> Record:
    with found.claim(name, asked, ME) as record:
        return record


def got(found: Registry, name: str) -> Record:
    record = found.get(name)
    assert record is not None
    return record


def rewrite(record: Record, **changes: Any) -> None:
    """Change spec.json behind the registry's back; None takes a key away."""
    path = Path(record.folder, "spec.json")
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# One sandbox.


def test_claimed(found: Registry) -> None:
    before = time.time()
    record = add(found, "demo")
    assert got(found, "demo") == record
    assert (record.name, record.spec, record.instance, record.problem) == ("demo", SPEC, None, "")
    assert before <= record.created_at <= time.time()
    assert record.asked() == SPEC
    assert found.names() == ["demo"]


def test_ids_differ_and_can_be_typed(found: Registry) -> None:
    ids = {add(found, f"demo{number}").id for number in range(5)}
    assert len(ids) == 5
    assert all(spec.check_name(identity) for identity in ids)


def test_a_claimed_name_is_held(found: Registry) -> None:
    with (
        found.claim("demo", SPEC, ME) as record,
        pytest.raises(SandboxError, match="is changing"),
        found.locked(record),
    ):
        pass
    with found.locked(record) as current:
        assert current == record


def test_written_and_read_again(found: Registry) -> None:
    record = add(found, "demo")
    found.write_instance(record, INSTANCE)
    assert got(found, "demo").instance == INSTANCE
    found.write_spec(Record(**{**record.__dict__, "spec": OTHER}))
    changed = got(found, "demo")
    assert (changed.spec, changed.id, changed.created_at) == (OTHER, record.id, record.created_at)
    assert changed.instance == INSTANCE


def test_removed(found: Registry) -> None:
    record = add(found, "demo")
    (Path(record.data) / "log").write_text("more")
    found.remove(record)
    assert found.get("demo") is None
    assert os.listdir(found.folder) == []
    add(found, "demo")


def test_nobody_else_can_look_in(found: Registry) -> None:
    record = add(found, "demo")
    modes = {
        path: stat.S_IMODE(os.stat(path).st_mode)
        for path in (found.state_dir, found.folder, f"{found.state_dir}/projects", record.data)
    }
    passable = 0o711 if os.geteuid() == 0 else 0o700
    assert list(modes.values()) == [passable, passable, passable, 0o700]
    assert stat.S_IMODE(os.stat(f"{record.folder}/spec.json").st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another account")
def test_the_data_is_the_owners(found: Registry) -> None:
    nobody = host.account("nobody")
    with found.claim("demo", SPEC, nobody) as record:
        assert os.stat(record.data).st_uid == nobody.uid
        assert os.stat(record.folder).st_uid == 0
    assert os.stat(found.project_store(SPEC, nobody)).st_uid == nobody.uid


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match="cannot hold the registry"):
        add(Registry(f"{tmp_path}/file"), "demo")


def test_nothing_is_there_before_the_first(found: Registry) -> None:
    assert found.names() == []
    assert found.records() == []
    assert found.get("demo") is None
    assert not os.path.exists(found.state_dir)


# Two at once.


def test_a_taken_name_is_refused_and_left_as_it_is(found: Registry) -> None:
    first = add(found, "demo")
    with pytest.raises(SandboxError, match="Another process made sandbox 'demo'"), found.claim("demo", OTHER, ME):
        pass
    assert got(found, "demo") == first
    assert os.listdir(found.folder) == ["demo"]


def claimed_by(found: Registry, go: Path) -> Callable[[], str]:
    def work() -> str:
        procs.until(go.exists, 5, step=0)
        try:
            with found.claim("demo", SPEC, ME) as record:
                time.sleep(0.05)
                return record.id
        except SandboxError as error:
            return error.what

    return work


def test_of_many_processes_one_gets_the_name(found: Registry, tmp_path: Path) -> None:
    go = tmp_path / "go"
    racers = [procs.fork(None, claimed_by(found, go)) for _ in range(8)]
    go.touch()
    answers = [racer.result() for racer in racers]
    record = got(found, "demo")
    assert answers.count(record.id) == 1
    assert sum("Another process made sandbox 'demo'" in answer for answer in answers) == 7
    assert os.listdir(found.folder) == ["demo"]


@contextlib.contextmanager
def held_elsewhere(record: Record) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the sandbox."""
    script = """
import sys, time
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.registry import Registry
found = Registry(sys.argv[1])
with found.locked(found.get(sys.argv[2])):
    print(flush=True)
    time.sleep(60)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", script, str(Path(record.folder).parents[1]), record.name]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as child:
        try:
            assert child.stdout
            assert child.stdout.readline()
            yield child
        finally:
            child.kill()


def test_one_that_is_held_is_told_at_once_and_free_when_the_holder_dies(found: Registry) -> None:
    record = add(found, "demo")
    with held_elsewhere(record) as child:
        with pytest.raises(SandboxError) as caught, found.locked(record):
            pass
        assert "Another process is changing sandbox 'demo' right now." in caught.value.what
        assert "try again" in caught.value.hint
        child.kill()
        child.wait()
        with found.locked(record) as current:
            assert current == record


def test_one_that_was_removed_meanwhile_is_told(found: Registry) -> None:
    record = add(found, "demo")
    found.remove(record)
    with pytest.raises(SandboxError, match="removed sandbox 'demo'"), found.locked(record):
        pass


def test_one_that_was_replaced_meanwhile_is_told(found: Registry) -> None:
    record = add(found, "demo")
    found.remove(record)
    second = add(found, "demo")
    with pytest.raises(SandboxError, match="removed sandbox 'demo'"), found.locked(record):
        pass
    with found.locked(second):
        pass


def test_what_is_held_is_read_anew(found: Registry) -> None:
    old = add(found, "demo")
    found.write_instance(old, INSTANCE)
    with found.locked(old) as current:
        assert current.instance == INSTANCE


# After a crash.


def crashed(step: str, function: Callable[[], object]) -> None:
    """Run a function in a child that is killed in the place of one system call."""

    def work() -> None:
        setattr(os, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        function()

    with pytest.raises(SandboxError, match="signal 9"):
        procs.fork(None, work).result()


def claim_other(found: Registry) -> None:
    add(found, "other")


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_while_writing_leaves_the_old_record(found: Registry, step: str) -> None:
    record = add(found, "demo")
    changed = Record(**{**record.__dict__, "spec": OTHER})
    crashed(step, lambda: found.write_spec(changed))
    assert got(found, "demo") == record
    found.write_spec(changed)
    assert got(found, "demo").spec == OTHER


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_while_claiming_leaves_the_name_free(found: Registry, step: str) -> None:
    found.prepare()
    crashed(step, lambda: claim_other(found))
    assert os.listdir(found.folder), "the crash came too late to prove anything"
    assert found.names() == []
    assert found.records() == []
    add(found, "other")
    assert found.names() == ["other"]


@pytest.mark.parametrize("step", ["rename", "fsync", "rmdir"])
def test_a_crash_while_removing_leaves_a_whole_sandbox_or_none(found: Registry, step: str) -> None:
    record = add(found, "demo")
    crashed(step, lambda: found.remove(record))
    if step == "rename":
        assert got(found, "demo") == record
        return
    assert found.get("demo") is None
    assert found.names() == []
    add(found, "demo")


def test_a_full_disk_is_told_and_leaves_the_old_record(found: Registry) -> None:
    record = add(found, "demo")
    big = Record(**{**record.__dict__, "spec": spec.parse({"project_dir": "/x", "agent_args": ["x" * 5000]})})

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        found.write_spec(big)

    with pytest.raises(SandboxError, match="cannot be written") as caught:
        procs.fork(None, work).result()
    assert "still stands" in caught.value.hint
    assert got(found, "demo") == record
    assert sorted(os.listdir(record.folder)) == ["data", "spec.json"]


# What cannot be read.


def link_spec(record: Record) -> None:
    """The record by way of a link, as another account could have put it."""
    path = Path(record.folder, "spec.json")
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def fifo_spec(record: Record) -> None:
    os.unlink(f"{record.folder}/spec.json")
    os.mkfifo(f"{record.folder}/spec.json")


def text_of(name: str, text: str) -> Callable[[Record], object]:
    return lambda record: Path(record.folder, name).write_text(text)


CORRUPTIONS: dict[str, tuple[Callable[[Record], object], str]] = {
    "no-spec": (lambda record: os.unlink(f"{record.folder}/spec.json"), "spec.json is missing"),
    "empty": (text_of("spec.json", ""), "not what a record looks like"),
    "cut": (text_of("spec.json", '{"format": 1, "id"'), "not what a record looks like"),
    "list": (text_of("spec.json", "[]"), "not what a record looks like"),
    "huge": (text_of("spec.json", '"' + "x" * (5 << 20) + '"'), "not what a record looks like"),
    "link": (link_spec, "not what a record looks like"),
    "pipe": (fifo_spec, "not what a record looks like"),
    "other-format": (lambda record: rewrite(record, format=2), "its format is 2, and this version reads 1"),
    "no-format": (lambda record: rewrite(record, format=None), "its format is None"),
    "no-id": (lambda record: rewrite(record, id=None), "id is missing"),
    "no-time": (lambda record: rewrite(record, created_at=None), "created_at is missing"),
    "time-is-text": (lambda record: rewrite(record, created_at="then"), "then"),
    "time-of-no-year": (lambda record: rewrite(record, created_at=1e300), "a time in it is none"),
    "time-before-all": (lambda record: rewrite(record, created_at=-1), "a time in it is none"),
    "time-is-a-list": (lambda record: rewrite(record, created_at=[]), "float"),
    "no-fields": (lambda record: rewrite(record, spec=None), "spec is missing"),
    "spec-is-text": (lambda record: rewrite(record, spec="text"), ""),
    "spec-is-a-number": (lambda record: rewrite(record, spec=5), ""),
    "field-of-the-future": (lambda record: rewrite(record, spec={"new": 1}), "There is no field 'new'"),
    "bad-field": (lambda record: rewrite(record, spec={"project_dir": "x"}), "must be an absolute path"),
    "instance-empty": (text_of("instance.json", ""), "not what a record looks like"),
    "instance-without-fields": (text_of("instance.json", "{}"), "boot_id is missing"),
    "instance-with-odd-process": (
        text_of("instance.json", json.dumps({**INSTANCE.to_dict(), "pane": {"pid": "x", "start": 0}})),
        "invalid literal",
    ),
    "instance-process-is-a-number": (text_of("instance.json", json.dumps({**INSTANCE.to_dict(), "init": 5})), ""),
    "instance-time-is-none": (
        text_of("instance.json", json.dumps({**INSTANCE.to_dict(), "started_at": float("inf")})),
        "a time in it is none",
    ),
    "instance-folder-is-no-path": (
        text_of("instance.json", json.dumps({**INSTANCE.to_dict(), "folder": "run"})),
        "its folder is no path",
    ),
    "instance-given-is-a-number": (text_of("instance.json", json.dumps({**INSTANCE.to_dict(), "given": 5})), ""),
}


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_a_record_that_cannot_be_read_is_told_and_kept(found: Registry, how: str) -> None:
    """It neither hides nor takes the others with it."""
    add(found, "good")
    damage, words = CORRUPTIONS[how]
    damage(add(found, "demo"))
    record = got(found, "demo")
    assert record.spec is None
    assert record.problem
    assert words in record.problem
    assert [each.name for each in found.records()] == ["demo", "good"]
    with pytest.raises(SandboxError, match="The record of sandbox 'demo' cannot be read") as caught:
        record.asked()
    assert record.folder in caught.value.hint
    found.remove(record)
    assert found.names() == ["good"]


def test_it_can_be_held(found: Registry) -> None:
    """So that it can be removed under the lock like any other."""
    add(found, "demo")
    os.unlink(f"{found.folder}/demo/spec.json")
    with found.locked(got(found, "demo")) as current:
        assert current.problem


# Names.


@pytest.mark.parametrize("entry", [".new-0123", ".old-0123", ".hidden", ".."], ids=str)
def test_drafts_and_graves_are_not_seen(found: Registry, entry: str) -> None:
    add(found, "demo")
    os.makedirs(f"{found.folder}/{entry}", exist_ok=True)
    assert found.names() == ["demo"]


@pytest.mark.parametrize("entry", ["lost+found", "a b", "-x", "ä", "x" * 64], ids=str)
def test_a_folder_that_is_no_sandbox_is_not_seen(found: Registry, entry: str) -> None:
    """No sandbox can have that name, so no request could ever remove it."""
    add(found, "demo")
    os.mkdir(f"{found.folder}/{entry}")
    assert found.names() == ["demo"]


def test_a_file_among_the_sandboxes_is_none(found: Registry) -> None:
    add(found, "demo")
    Path(found.folder, "README").touch()
    assert [record.name for record in found.records()] == ["demo"]


@pytest.fixture
def three(found: Registry) -> Registry:
    for name, identity in (("abc", "0a1b2c3d4e5f"), ("demo", "0a1b99999999"), ("0a1b9", "ffffffffffff")):
        rewrite(add(found, name), id=identity)
    return found


@pytest.mark.parametrize(
    "ref, name",
    [
        pytest.param("abc", "abc", id="name"),
        pytest.param("0a1b2c3d4e5f", "abc", id="id"),
        pytest.param("0a1b2", "abc", id="beginning-of-an-id"),
        pytest.param("f", "0a1b9", id="one-letter"),
        pytest.param("0a1b9", "0a1b9", id="a-name-before-the-beginning-of-an-id"),
        pytest.param("0a1b99", "demo", id="longer-than-that-name"),
    ],
)
def test_resolve(three: Registry, ref: str, name: str) -> None:
    assert three.resolve(ref).name == name


@pytest.mark.parametrize(
    "ref, words",
    [
        pytest.param("0a1b", "could mean several sandboxes: abc (0a1b2c3d4e5f), demo (0a1b99999999)", id="ambiguous"),
        pytest.param("ab", "There is no sandbox 'ab'", id="beginning-of-a-name"),
        pytest.param("0a1b2c3d4e5f0", "There is no sandbox", id="longer-than-an-id"),
        pytest.param("a1b", "There is no sandbox", id="middle-of-an-id"),
        pytest.param("", "is no name", id="empty"),
        pytest.param("../demo", "is no name", id="path"),
        pytest.param(".", "is no name", id="dot"),
    ],
)
def test_resolve_refuses(three: Registry, ref: str, words: str) -> None:
    with pytest.raises(SandboxError) as caught:
        three.resolve(ref)
    assert words in caught.value.what


def test_the_unreadable_answer_to_their_names_only(three: Registry) -> None:
    os.unlink(f"{three.folder}/abc/spec.json")
    assert three.resolve("abc").problem
    assert three.resolve("0a1b").name == "demo"


# What a project keeps.


def test_a_project_keeps_its_folder(found: Registry) -> None:
    found.prepare()
    store = found.project_store(SPEC, ME)
    assert found.project_store(spec.parse({"project_dir": "/srv/demo", "glx": True}), ME) == store
    assert stat.S_IMODE(os.stat(store).st_mode) == 0o700
    assert found.project_store(OTHER, ME) != store


def test_another_account_keeps_its_own(found: Registry) -> None:
    found.prepare()
    other = host.Account("other", ME.uid, ME.gid, "/home/other", "/bin/sh", ())
    assert found.project_store(SPEC, ME) == found.project_store(SPEC, other), "it is the uid that counts"
    if os.geteuid() == 0:
        assert found.project_store(SPEC, host.account("nobody")) != found.project_store(SPEC, ME)


# Trees.


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[tuple[Path, host.Account | None]]:
    """A folder in which permissions bind, and the account to work in it as; None is this one."""
    if os.geteuid() != 0:
        yield tmp_path, None
        return
    nobody = host.account("nobody")
    # What pytest gives is closed to all other accounts.
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, nobody.uid, nobody.gid)
        yield Path(name), nobody


def test_remove_tree_takes_what_was_made_read_only(unprivileged: tuple[Path, host.Account | None]) -> None:
    top, account = unprivileged

    def work() -> None:
        folder = top / "tree" / "locked"
        folder.mkdir(parents=True)
        (folder / "file").touch()
        folder.chmod(0)
        (top / "tree").chmod(0o500)
        registry.remove_tree(f"{top}/tree")

    procs.fork(account, work).result()
    assert os.listdir(top) == []


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    registry.remove_tree(f"{tmp_path}/tree")
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["file"]


# What was started.


@pytest.mark.parametrize(
    "instance",
    [
        pytest.param(INSTANCE, id="runs"),
        pytest.param(
            Instance(**{**INSTANCE.__dict__, "xvfb": Process(13, 103), "display": 5, "env": {}, "given": ()}),
            id="with-a-display",
        ),
        pytest.param(Instance(**{**INSTANCE.__dict__, "stopped_at": 2.5, "exit_code": 0}), id="ended"),
    ],
)
def test_an_instance_survives_the_round_trip(instance: Instance) -> None:
    assert Instance.parse(json.loads(json.dumps(instance.to_dict()))) == instance
