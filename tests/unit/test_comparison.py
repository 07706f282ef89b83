"""What has become of a project: two snapshots of it, the difference between them, and the child that finds it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import difference, snapshot
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.comparison import Comparison
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host


def compared(top: Path, change: Any) -> tuple[dict[str, Any], str]:
    before = snapshot.take(str(top))
    change()
    return difference.between(before, snapshot.take(str(top), before))


def test_what_has_changed(tmp_path: Path) -> None:
    for name in ("same", "touched", "changed", "gone", "mode", "binary", "replaced"):
        (tmp_path / name).write_text("one\n")
    (tmp_path / "binary").write_bytes(b"\0")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/changed").write_text("a\nb")

    def change() -> None:
        os.utime(tmp_path / "touched")
        (tmp_path / "changed").write_text("one\ntwo\n")
        (tmp_path / "gone").unlink()
        (tmp_path / "mode").chmod(0o755)
        (tmp_path / "binary").write_bytes(b"\1\0")
        (tmp_path / "replaced").unlink()
        (tmp_path / "replaced").symlink_to("/etc/passwd")
        (tmp_path / "deep/er/changed").write_text("a\nc")
        (tmp_path / "new folder").mkdir()
        (tmp_path / "new folder/ne\nw\x1b").write_text("x")

    found, patch = compared(tmp_path, change)
    assert found == {
        "created": ["new folder/ne\nw\x1b"],
        "changed": ["binary", "changed", "deep/er/changed", "mode", "replaced"],
        "deleted": ["gone"],
        "truncated": False,
    }
    assert "--- a/changed\n+++ b/changed\n@@ -1 +1,2 @@\n one\n+two\n" in patch
    assert "+++ b/new folder/ne\\nw\\x1b\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n" in patch
    assert "-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n" in patch
    assert "--- a/binary\n+++ b/binary\n(not compared: no small text)\n" in patch
    assert "mode of mode: 0644 -> 0755\n" in patch
    assert "root:" not in patch


def test_what_an_agent_may_leave(tmp_path: Path) -> None:
    """Nothing is opened that blocks or leads out; what git would run is seen, the rest of .git is not."""

    def change() -> None:
        os.mkfifo(tmp_path / "pipe")
        os.symlink("/", tmp_path / "root")
        os.symlink("loop", tmp_path / "loop")
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff/file")).write_text("x")
        for name in ("hooks", "objects"):
            (tmp_path / "sub/.git" / name).mkdir(parents=True)
            (tmp_path / "sub/.git" / name / "file").write_text("x")
        (tmp_path / "sparse").touch()
        os.truncate(tmp_path / "sparse", 1 << 40)

    found, patch = compared(tmp_path, change)
    assert sorted(found["created"]) == ["\\xff/file", "loop", "pipe", "root", "sparse", "sub/.git/hooks/file"]
    patch.encode()


def test_a_tree_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_FILES_LIMIT", 100)

    def change() -> None:
        deep = os.open(tmp_path, os.O_RDONLY)
        for _level in range(200):
            os.mkdir("d", dir_fd=deep)
            deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = deeper
        os.close(deep)
        for number in range(150):
            (tmp_path / f"f{number}").touch()

    found, _patch = compared(tmp_path, change)
    assert len(found["created"]) == 100
    assert found["truncated"]


def test_folders_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_FILES_LIMIT", 100)

    def change() -> None:
        for number in range(150):
            (tmp_path / f"d{number}").mkdir()

    found, _patch = compared(tmp_path, change)
    assert found == {"created": [], "changed": [], "deleted": [], "truncated": True}


def test_a_difference_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "_PATCH_SECONDS", 0.05)
    lines = [f"{number % 150}\n" for number in range(15_000)]
    (tmp_path / "slow").write_text("".join(lines))
    begun = time.monotonic()
    found, patch = compared(tmp_path, lambda: (tmp_path / "slow").write_text("".join(reversed(lines))))
    assert time.monotonic() - begun < 10
    assert found["changed"] == ["slow"]
    assert "takes too long" in patch


def test_bounds_of_the_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "_PATCH_LIMIT", 100)
    monkeypatch.setattr(difference, "_NAMES_LIMIT", 3)
    found, patch = compared(tmp_path, lambda: [(tmp_path / f"f{number}").write_text("text\n") for number in range(9)])
    assert len(found["created"]) == 3
    assert found["truncated"]
    assert 0 < len(patch) <= 100


def test_comparison_in_a_child(tmp_path: Path) -> None:
    host = Host.this()
    comparison = Comparison(host, host.account, str(tmp_path))
    (tmp_path / "new").write_text("x\n")
    files, patch = comparison.result()
    assert files["created"] == ["new"]
    assert "+x" in patch
    Comparison(host, host.account, str(tmp_path)).give_up()
    with pytest.raises(SandboxError, match="cannot be looked at"):
        Comparison(host, host.account, str(tmp_path / "new"))
    os.symlink(tmp_path, tmp_path / "link")
    with pytest.raises(SandboxError, match="cannot be looked at"):
        Comparison(host, host.account, str(tmp_path / "link"))
