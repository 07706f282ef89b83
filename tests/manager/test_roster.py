"""The sandboxes as the registry has them: never older than what stands there, whoever wrote it and how."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_sandbox.errors import SandboxError
from claude_sandbox.host import Host, boot_id
from claude_sandbox.instance import Instance
from claude_sandbox.procs import identify
from claude_sandbox.registry import Record
from claude_sandbox.sandboxes import Sandboxes
from claude_sandbox.spec import Spec
from manager_app.problems import ProblemError
from manager_app.roster import Roster


class Kept:
    """A registry, and a roster over it."""

    def __init__(self, folder: Path) -> None:
        self.host = Host.this()
        self.engine = Sandboxes(self.host, str(folder / "state"))
        self.registry = self.engine.registry
        self.roster = Roster(self.engine)

    def make(self, name: str, project_dir: str = "/srv/project") -> Record:
        spec = Spec(project_dir=project_dir, user=self.host.account.name)
        with self.registry.claim(name, spec, self.host.account) as record:
            return record

    def change(self, record: Record, project_dir: str) -> None:
        self.registry.write_spec(dataclasses.replace(record, spec=Spec(project_dir, user=self.host.account.name)))

    def shown(self) -> dict[str, object]:
        return {str(entry.view["name"]): entry.view.get("project_dir") for entry in self.roster.all()}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as made:
        yield made
        made.kill()


def test_no_registry_yet(kept: Kept) -> None:
    assert kept.roster.all() == []
    with pytest.raises(ProblemError):
        kept.roster.get("box")
    kept.make("box")
    assert kept.shown() == {"box": "/srv/project"}


def test_what_is_shown_is_what_the_engine_shows(kept: Kept) -> None:
    for name in ("b", "a", "c"):
        kept.make(name)
    entries = kept.roster.all()
    assert [entry.view for entry in entries] == kept.engine.views()
    assert [json.loads(entry.text) for entry in entries] == kept.engine.views()


def test_what_has_not_changed_is_not_read_again(kept: Kept) -> None:
    record = kept.make("box")
    folder = Path(record.folder)
    # Older than what two writes within one tick of the clock could leave.
    os.utime(folder, (1, 1))
    first = kept.roster.get("box")
    assert kept.roster.get("box") is first
    assert kept.roster.all()[0] is first


def test_two_writes_within_one_tick_of_the_clock(kept: Kept) -> None:
    record = kept.make("box")
    for number in range(300):
        kept.change(record, f"/srv/{number}")
        assert kept.roster.get("box").view["project_dir"] == f"/srv/{number}"
        assert kept.shown() == {"box": f"/srv/{number}"}


def test_a_folder_with_its_old_times(kept: Kept) -> None:
    """As two writes within one tick leave it, where the clock is coarse."""
    record = kept.make("box")
    status = os.stat(record.folder)
    kept.roster.all()
    kept.change(record, "/srv/other")
    os.utime(record.folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.shown() == {"box": "/srv/other"}


def test_while_it_is_written(kept: Kept) -> None:
    """Whoever has written sees it at once; nobody ever sees what was before what he saw."""
    record = kept.make("box", "/srv/0")
    written = [0]
    over = threading.Event()
    wrong: list[str] = []

    def look() -> None:
        while not over.is_set():
            least = written[0]
            seen = str(kept.roster.get("box").view["project_dir"])
            if int(seen.removeprefix("/srv/")) < least:
                wrong.append(seen)

    lookers = [threading.Thread(target=look) for _number in range(3)]
    for looker in lookers:
        looker.start()
    for number in range(1, 400):
        kept.change(record, f"/srv/{number}")
        written[0] = number
    over.set()
    for looker in lookers:
        looker.join()
    assert wrong == []


def test_removed_and_made_anew_under_the_same_name(kept: Kept) -> None:
    for number in range(50):
        record = kept.make("box", f"/srv/{number}")
        entry = kept.roster.get("box")
        assert (entry.record.id, entry.view["project_dir"]) == (record.id, f"/srv/{number}")
        assert kept.roster.get(record.id).record.id == record.id
        kept.registry.remove(record)
        if number % 2:
            assert kept.roster.all() == []
            with pytest.raises(ProblemError):
                kept.roster.get("box")


def test_renamed_away_and_back(kept: Kept) -> None:
    kept.make("a", "/srv/a")
    kept.make("b", "/srv/b")
    folder = Path(kept.registry.folder)
    assert kept.shown() == {"a": "/srv/a", "b": "/srv/b"}
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")
    assert kept.shown() == {"a": "/srv/b", "b": "/srv/a"}


def test_the_whole_registry_is_replaced(kept: Kept, tmp_path: Path) -> None:
    kept.make("box", "/srv/one")
    assert kept.shown() == {"box": "/srv/one"}
    (tmp_path / "state").rename(tmp_path / "before")
    assert kept.shown() == {}
    kept.make("box", "/srv/two")
    assert kept.shown() == {"box": "/srv/two"}
    (tmp_path / "state").rename(tmp_path / "second")
    (tmp_path / "before").rename(tmp_path / "state")
    assert kept.shown() == {"box": "/srv/one"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b"\xff", b'{"format":1}', b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_shown_as_such_until_it_is_mended(kept: Kept, content: bytes) -> None:
    record = kept.make("box")
    kept.make("other")
    path = Path(record.folder) / "spec.json"
    whole = path.read_bytes()
    # Another file, as the engine writes it, and then the same one, as an editor may.
    path.unlink()
    path.write_bytes(content)
    assert kept.roster.get("box").status == "unreadable"
    assert [entry.status for entry in kept.roster.all()] == ["unreadable", "stopped"]
    os.utime(record.folder, (1, 1))
    assert kept.roster.get("box").view["problem"]
    path.write_bytes(whole)
    assert kept.roster.get("box").status == "stopped"
    assert [entry.status for entry in kept.roster.all()] == ["stopped", "stopped"]


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "fifo"])
def test_a_record_that_is_no_file(kept: Kept, kind: str) -> None:
    path = Path(kept.make("box").folder) / "spec.json"
    path.rename(path.with_name("moved"))
    if kind == "link":
        path.symlink_to("moved")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    assert kept.roster.get("box").status == "unreadable"


def test_what_is_no_sandbox(kept: Kept) -> None:
    kept.make("box")
    folder = Path(kept.registry.folder)
    (folder / ".new-0123").mkdir()
    (folder / "a b").mkdir()
    (folder / "-x").mkdir()
    (folder / "file").write_text("")
    assert kept.shown() == {"box": "/srv/project"}
    for name in ("file", ".new-0123", "a b", "-x", "", ".", "..", "../sandboxes/box", "box\n", "box\0", "x" * 5000):
        with pytest.raises(ProblemError) as caught:
            kept.roster.get(name)
        assert caught.value.status == 404, name


def test_a_registry_that_may_not_be_read(kept: Kept) -> None:
    Path(kept.registry.state_dir).mkdir()
    Path(kept.registry.folder).write_text("")
    with pytest.raises(SandboxError, match="cannot be read"):
        kept.roster.all()


def test_ids_and_their_beginnings(kept: Kept) -> None:
    first = kept.make("first")
    second = kept.make("second")
    for record, identity in ((first, "abcd11111111"), (second, "abcd22222222")):
        kept.registry.write_spec(dataclasses.replace(record, id=identity))
    assert kept.roster.get("abcd1").record.name == "first"
    assert kept.roster.get("abcd22222222").record.name == "second"
    with pytest.raises(ProblemError) as caught:
        kept.roster.get("abcd")
    assert caught.value.status == 409
    assert "first (abcd11111111), second (abcd22222222)" in caught.value.what
    with pytest.raises(ProblemError):
        kept.roster.get("bcd1")
    # A name comes before the beginning of an id.
    kept.make("abcd", "/srv/named")
    assert kept.roster.get("abcd").view["project_dir"] == "/srv/named"


def test_one_that_cannot_be_read_is_no_beginning_of_anything(kept: Kept) -> None:
    Path(kept.make("torn").folder, "spec.json").write_text("")
    with pytest.raises(ProblemError) as caught:
        kept.roster.get("a1b2")
    assert caught.value.status == 404


def test_one_that_ends_by_itself(kept: Kept, process: subprocess.Popen[bytes]) -> None:
    record = kept.make("box")
    # Nothing is written to the registry when a program ends.
    alive = identify(process.pid)
    assert alive is not None
    kept.registry.write_instance(
        record, Instance(boot_id(), 5.0, f"{record.data}/run", alive, alive, alive, None, None, {}, (), {})
    )
    os.utime(record.folder, (1, 1))
    assert kept.roster.get("box").status == "running"
    assert kept.roster.get("box").status == "running"
    process.kill()
    process.wait()
    assert kept.roster.get("box").status == "dead"
    assert kept.roster.all()[0].status == "dead"
