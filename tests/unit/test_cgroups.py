"""The groups of a process, on hosts with one hierarchy and with several."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import cgroups

UNIT = "claude-sandbox-1000-0123456789ab.scope"
V2 = f"0::/claude_sandbox.slice/{UNIT}\n"
V1 = f"""\
9:name=systemd:/claude_sandbox.slice/{UNIT}
8:pids:/claude_sandbox.slice/{UNIT}
4:cpu,cpuacct:/claude_sandbox.slice/{UNIT}
2:blkio:/
0::/claude_sandbox.slice/{UNIT}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "_ROOT", str(tmp_path / "cgroup"))
    monkeypatch.setattr(cgroups, "_PROC", str(tmp_path / "proc"))
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def put(root: Path, pid: int, text: str) -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(text)


def write(root: Path, path: str, text: str) -> Path:
    file = root / "cgroup" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_one_hierarchy(root: Path) -> None:
    put(root, 5, V2)
    assert cgroups.of(5) == {"": f"{root}/cgroup/claude_sandbox.slice/{UNIT}"}
    write(root, f"claude_sandbox.slice/{UNIT}/pids.max", "60\n")
    assert cgroups.setting(5, UNIT, "pids", "pids.max") == "60"
    assert cgroups.setting(5, UNIT, "pids", "pids.min") is None
    assert cgroups.unit(5, ".scope") == UNIT


def test_several_hierarchies(root: Path) -> None:
    (root / "cgroup/unified").mkdir()
    put(root, 5, V1)
    found = cgroups.of(5)
    assert found["cpu"] == f"{root}/cgroup/cpu/claude_sandbox.slice/{UNIT}"
    assert found["cpuacct"] == f"{root}/cgroup/cpuacct/claude_sandbox.slice/{UNIT}"
    assert found["name=systemd"] == f"{root}/cgroup/systemd/claude_sandbox.slice/{UNIT}"
    assert found[""] == f"{root}/cgroup/unified/claude_sandbox.slice/{UNIT}"
    assert found["blkio"] == f"{root}/cgroup/blkio"
    assert cgroups.unit(5, ".scope") == UNIT


@pytest.mark.parametrize("unit", [UNIT, "other.scope"])
def test_what_is_said_of_all_says_nothing_of_one(root: Path, unit: str) -> None:
    """A host's own weight is not a sandbox's, and one sandbox's is not another's."""
    put(root, 5, V1)
    write(root, "blkio/blkio.bfq.weight", "50")
    write(root, f"pids/claude_sandbox.slice/{UNIT}/pids.max", "60")
    assert cgroups.setting(5, unit, "blkio", "blkio.bfq.weight") is None
    assert cgroups.setting(5, unit, "pids", "pids.max") == ("60" if unit == UNIT else None)


def test_who_is_gone_is_nowhere(root: Path) -> None:
    assert cgroups.setting(5, UNIT, "pids", "pids.max") is None
    assert cgroups.unit(5, ".scope") is None
    with pytest.raises(FileNotFoundError):
        cgroups.of(5)


def test_the_innermost_unit_counts(root: Path) -> None:
    put(root, 5, f"0::/user.slice/user-5.slice/user@5.service/app.slice/{UNIT}/payload\n")
    assert cgroups.unit(5, ".scope") == UNIT
    assert cgroups.unit(5, ".service") == "user@5.service"
    assert cgroups.unit(5, ".mount") is None


def test_one_process_is_put_where_another_is(root: Path) -> None:
    put(root, 5, V1)
    put(root, 6, V1.replace(f"8:pids:/claude_sandbox.slice/{UNIT}", "8:pids:/").replace("0::/claude_sandbox", "0::/x"))
    there = [write(root, f"{name}/claude_sandbox.slice/{UNIT}/cgroup.procs", "") for name in ("pids", "cpu", "systemd")]
    cgroups.join(5, 6)
    # Where the two are together already nothing is written, and what is not mounted is passed over.
    assert [file.read_text() for file in there] == ["6", "", ""]


@pytest.mark.parametrize(
    "path, text, have",
    [
        ("queue/scheduler", "none [mq-deadline] bfq", False),
        ("queue/scheduler", "none [bfq]", True),
        ("io.cost.qos", "8:0 enable=1 ctrl=auto", True),
        ("io.cost.qos", "8:0 enable=0 ctrl=auto", False),
    ],
)
def test_disks_have_weights(root: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str, have: bool) -> None:
    file = write(root, path, text)
    monkeypatch.setattr("glob.iglob", lambda _pattern: [str(file)] if path.startswith("queue") else [])
    assert cgroups.disks_have_weights() is have
