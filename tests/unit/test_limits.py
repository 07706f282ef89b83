"""Limits as systemd is told them, and as the kernel shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import limits, spec

NONE = 18446744073709551615
EVERY = {"memory": 512, "cpus": 1.5, "tasks": 100, "io_weight": 50}
V2 = {
    ("memory", "memory.max"): "536870912",
    ("cpu", "cpu.max"): "150000 100000",
    ("pids", "pids.max"): "100",
    ("io", "io.weight"): "default 50",
}
V1 = {
    ("memory", "memory.limit_in_bytes"): "536870912",
    ("cpu", "cpu.cfs_quota_us"): "150000",
    ("cpu", "cpu.cfs_period_us"): "100000",
    ("pids", "pids.max"): "100",
    ("blkio", "blkio.bfq.weight"): "50",
}


def unkept(asked: Mapping[str, Any], shown: Mapping[tuple[str, str], str]) -> list[str]:
    return limits.unkept(asked, lambda controller, name: shown.get((controller, name)))


def test_each_has_its_controller_and_its_look() -> None:
    assert set(limits.CONTROLLERS) == set(limits._KEPT) == set(spec.LIMIT_OPTIONS)


def test_all_are_said() -> None:
    assert limits.properties(EVERY) == [
        ("MemoryMax", "t", 536870912),
        ("MemorySwapMax", "t", 0),
        ("CPUQuotaPerSecUSec", "t", 1500000),
        ("TasksMax", "t", 100),
        ("IOWeight", "t", 50),
    ]


def test_none_is_said_too() -> None:
    """What was limited must not stay so."""
    assert {value for _name, _kind, value in limits.properties(dict.fromkeys(EVERY))} == {NONE}


@pytest.mark.parametrize(
    "asked, words",
    [
        ({}, []),
        (dict.fromkeys(EVERY), []),
        ({"cpus": 0.01}, ["CPUQuota=1%"]),
        (EVERY, ["MemoryMax=536870912", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=100", "IOWeight=50"]),
    ],
)
def test_a_unit_is_told_what_is_set(asked: Mapping[str, Any], words: list[str]) -> None:
    assert limits.settings(asked) == words


@pytest.mark.parametrize("shown", [V1, V2], ids=["v1", "v2"])
def test_what_the_kernel_shows_is_kept(shown: Mapping[tuple[str, str], str]) -> None:
    assert unkept(EVERY, shown) == []


@pytest.mark.parametrize("shown", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", EVERY)
def test_each_is_looked_at(shown: Mapping[tuple[str, str], str], name: str) -> None:
    for content in ("max", "100", "", None):
        other = {
            key: content for key in shown if key[0] in (limits.CONTROLLERS[name], f"blk{limits.CONTROLLERS[name]}")
        }
        if name == "tasks" and content == "100":
            continue
        changed = {key: value for key, value in {**shown, **other}.items() if value is not None}
        assert unkept(EVERY, changed) == [name], content


def test_where_nothing_is_shown_nothing_is_kept() -> None:
    assert unkept(EVERY, {}) == sorted(EVERY)
    assert unkept(dict.fromkeys(EVERY), {}) == []


def test_a_quota_is_kept_to_the_microsecond() -> None:
    assert unkept({"cpus": 0.333}, {("cpu", "cpu.max"): "33300 100000"}) == []
    assert unkept({"cpus": 0.333}, {("cpu", "cpu.max"): "34000 100000"}) == ["cpus"]
    assert unkept({"cpus": 0.333}, {("cpu", "cpu.max"): "max 100000"}) == ["cpus"]
