"""claude_sandbox_info: all sandboxes, some, and those whose record is damaged."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import prices
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.usage import Usage
from tests.integration.arena import Arena
from tests.integration.playing import Result


def _names(result: Result) -> list[str]:
    return [item["name"] for item in result["sandboxes"]]


def test_all_and_some(arena: Arena) -> None:
    empty, made, other, everything, by_id, unknown, usage = arena.play(
        arena.task("claude_sandbox_info"),
        arena.started("one"),
        arena.started("two"),
        arena.task("claude_sandbox_info"),
        arena.task("claude_sandbox_info", name=["two", "one"], check=True),
        arena.task("claude_sandbox_info", name=["three"]),
        arena.task("claude_sandbox_info", name=["one"], usage=True),
    )
    assert (empty["sandboxes"], empty.changed, empty.failed) == ([], False, False)
    assert everything["sandboxes"] == [made.sandbox, other.sandbox]
    assert by_id["sandboxes"] == [other.sandbox, made.sandbox]
    assert unknown.message == f"There is no sandbox 'three' in {arena.state_dir}."
    used = usage["sandboxes"][0].pop("usage")
    assert usage["sandboxes"] == [made.sandbox]
    assert used["process"]["processes"] >= 2
    assert used["process"]["memory_bytes"] > 1 << 20
    assert used["session"].pop("cost") == {"usd": 0, "as_of": prices.AS_OF, "unpriced": []}
    assert used["session"] == dataclasses.asdict(Usage())
    assert used["activity"] is None
    assert {result.changed for result in (everything, by_id, usage)} == {False}


def test_own_prices(arena: Arena) -> None:
    """They stand beside the registry. A file that cannot be used is an error where they are asked for, only."""
    (made,) = arena.play(arena.started("one"))
    (arena.state_dir / "prices.json").write_text('{"as_of": "2027-01-02"}')
    (own,) = arena.play(arena.task("claude_sandbox_info", usage=True))
    assert own["sandboxes"][0]["usage"]["session"]["cost"] == {"usd": 0, "as_of": "2027-01-02", "unpriced": []}
    (arena.state_dir / "prices.json").write_text("{")
    wrong, without = arena.play(arena.task("claude_sandbox_info", usage=True), arena.task("claude_sandbox_info"))
    assert wrong.failed
    assert f"{arena.state_dir}/prices.json cannot be used" in wrong.message
    assert without["sandboxes"] == [made.sandbox]


def test_by_the_beginning_of_an_id(arena: Arena) -> None:
    made, _ = arena.play(arena.started("one"), arena.started("two"))
    identity = made.sandbox["id"]
    whole, beginning = arena.play(
        arena.task("claude_sandbox_info", name=[identity]),
        arena.task("claude_sandbox_info", name=[identity[:8]]),
    )
    assert whole["sandboxes"] == beginning["sandboxes"] == [made.sandbox]


@dataclasses.dataclass(frozen=True)
class Damage:
    """One way in which a record can be damaged."""

    name: str
    content: bytes = b""
    do: Callable[[Path], object] | None = None

    def inflict(self, path: Path) -> None:
        if self.do is None:
            path.write_bytes(self.content)
        else:
            path.unlink()
            self.do(path)


DAMAGES = [
    Damage("empty"),
    Damage("cut-short", b'{"format": 1, "id": "abc", "spe'),
    Damage("no-object", b"[1, 2]\n"),
    Damage("no-text", bytes(range(256))),
    Damage("other-format", b'{"format": 99, "id": "abc", "created_at": 1, "spec": {}}\n'),
    Damage("no-spec", b'{"format": 1, "id": "abc", "created_at": 1}\n'),
    Damage("spec-of-nothing", b'{"format": 1, "id": "abc", "created_at": 1, "spec": {}}\n'),
    Damage("a-field-too-many", b'{"format": 1, "id": "x", "created_at": 1, "spec": {"project_dir": "/a", "new": 1}}\n'),
    Damage("missing", do=lambda path: None),
    Damage("link", do=lambda path: path.symlink_to("/etc/hostname")),
    Damage("pipe", do=os.mkfifo),
    Damage("folder", do=Path.mkdir),
    Damage("deep", b"[" * 200_000),
]


def _state_of(folder: Path) -> dict[str, bytes | str]:
    """What every file of a record is."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes() if path.is_file() and not path.is_symlink() else str(path.lstat().st_mode)
    return found


def _damaged(arena: Arena) -> dict[str, dict[str, bytes | str]]:
    """Make sandboxes that are stopped, each with its record damaged in its own way; what is in their folders."""
    template = [arena.started("whole"), arena.started("template"), arena.task(name="template", state="stopped")]
    assert not any(result.failed for result in arena.play(*template))
    record = arena.folder("template").joinpath("spec.json").read_bytes()
    for damage in DAMAGES:
        arena.folder(damage.name).mkdir()
        spec = arena.folder(damage.name) / "spec.json"
        spec.write_bytes(record)
        damage.inflict(spec)
    return {damage.name: _state_of(arena.folder(damage.name)) for damage in DAMAGES}


def test_damaged_records(arena: Arena) -> None:
    """They are shown as what they are, the others beside them, and nothing but `absent` touches them.

    Nor does prune: nobody asked for their end by name, and a record may be all that is known of one that runs.
    """
    damaged = _damaged(arena)
    everything, by_name, _, started, executed, many, pruned = arena.play(
        arena.task("claude_sandbox_info"),
        arena.task("claude_sandbox_info", name=["cut-short"], usage=True),
        arena.task(name="template", state="absent"),
        arena.started("cut-short"),
        arena.inside("true", name="cut-short"),
        arena.task("claude_sandboxes", sandboxes=[{"name": name, "state": "stopped"} for name in damaged]),
        arena.task("claude_sandboxes", sandboxes=[], prune=True),
    )
    assert _names(everything) == sorted([*damaged, "template", "whole"])
    statuses = {item["name"]: item["status"] for item in everything["sandboxes"]}
    assert statuses == {**dict.fromkeys(damaged, "unreadable"), "template": "stopped", "whole": "running"}
    for item in everything["sandboxes"]:
        if item["status"] == "unreadable":
            assert item["folder"] == str(arena.folder(item["name"]))
            assert any(f"{item['name']!r} cannot be read: {item['problem']}" in text for text in everything["warnings"])
    assert (by_name.failed, len(by_name["warnings"])) == (False, 1)
    for result in (started, executed):
        assert result.message.startswith("The record of sandbox 'cut-short' cannot be read: "), result
        assert f"Mend or remove {arena.folder('cut-short')}" in result.message
        assert result.message.count("\n") <= 1
    assert {"error" in item for item in many["sandboxes"]} == {True}
    assert pruned.failed
    assert sorted(item["name"] for item in pruned["sandboxes"] if "error" in item) == sorted(damaged)
    assert {name: _state_of(arena.folder(name)) for name in damaged} == damaged
    assert arena.engine.registry.names() == sorted(damaged)


@pytest.mark.parametrize("file", ["spec.json", "instance.json"])
def test_absent_ends_what_a_damaged_record_runs(arena: Arena, file: str) -> None:
    (made,) = arena.play(arena.started())
    assert not made.failed
    arena.folder().joinpath(file).write_bytes(b"{")
    (gone,) = arena.play(arena.task(name="box", state="absent"))
    assert not gone.failed, gone.message
    assert arena.left_behind() == []
