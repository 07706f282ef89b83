"""From the status and what is asked for to what is done: the whole table."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import plan, spec
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.errors import SandboxError

KNOWN = ("running", "stopped", "dead")
UP = ("started", "restarted")


def made(**params: Any) -> spec.Spec:
    return spec.parse({"project_dir": "/srv/demo", **params})


RECORDED = made()
# What is asked for otherwise than recorded, by how much it takes.
NOTHING, LATER, RESTART, RECREATE = None, made(resume=True), made(glx=True), made(project_dir="/srv/other")
ALL_THREE = made(project_dir="/srv/other", glx=True, resume=True)


class ExplodingSpec(spec.Spec):
    """A spec that must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked at")


UNSEEN = object.__new__(ExplodingSpec)


@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("on_change", plan.ON_CHANGE)
@pytest.mark.parametrize(
    "state, status, actions",
    [
        ("stopped", "running", ("stop",)),
        ("stopped", "stopped", ()),
        # It still has its session and its display.
        ("stopped", "dead", ("stop",)),
        ("stopped", "absent", ()),
        ("stopped", "unreadable", ()),
        ("absent", "running", ("destroy",)),
        ("absent", "stopped", ("destroy",)),
        ("absent", "dead", ("destroy",)),
        ("absent", "absent", ()),
        ("absent", "unreadable", ("destroy",)),
    ],
)
def test_stopped_and_absent_never_look_at_the_spec(
    state: str, status: str, actions: tuple[str, ...], on_change: str, differ: bool
) -> None:
    recorded = None if status == "absent" else UNSEEN
    assert plan.make("name", state, status, recorded, UNSEEN, on_change, differ) == plan.Plan(actions)


@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("on_change", plan.ON_CHANGE)
@pytest.mark.parametrize("state", UP)
def test_a_missing_one_is_made(state: str, on_change: str, differ: bool) -> None:
    assert plan.make("name", state, "absent", None, RECORDED, on_change, differ) == plan.Plan(("create", "start"))


@pytest.mark.parametrize("state", UP)
def test_a_missing_one_cannot_be_made_of_nothing(state: str) -> None:
    with pytest.raises(SandboxError, match="There is no sandbox 'name'") as caught:
        plan.make("name", state, "absent", None, None)
    assert "project_dir" in caught.value.hint


def row(
    desired: spec.Spec | None, on_change: str, running: str, restarted: str, other: str
) -> tuple[spec.Spec | None, str, dict[tuple[str, str], str]]:
    """What is done to one that runs (started, restarted), and to one that does not."""
    cells = {("started", "running"): running, ("restarted", "running"): restarted}
    cells |= dict.fromkeys(itertools.product(UP, ("stopped", "dead")), other)
    return desired, on_change, cells


# desired × on_change → (started and running, restarted and running, not running); "!" stands for a refusal.
TABLE = [
    *(row(same, on_change, "", "stop start", "start") for on_change in plan.ON_CHANGE for same in (NOTHING, RECORDED)),
    row(LATER, "fail", "update", "update stop start", "update start"),
    row(LATER, "restart", "update", "update stop start", "update start"),
    row(LATER, "ignore", "", "stop start", "start"),
    row(RESTART, "fail", "!", "update stop start", "update start"),
    row(RESTART, "restart", "update stop start", "update stop start", "update start"),
    row(RESTART, "ignore", "", "stop start", "start"),
    *(
        line
        for desired in (RECREATE, ALL_THREE)
        for line in (
            row(desired, "fail", "!", "!", "!"),
            row(desired, "restart", *["destroy create start"] * 3),
            row(desired, "ignore", "", "stop start", "start"),
        )
    ),
]
NAMES = {id(NOTHING): "as-recorded", id(RECORDED): "same", id(LATER): "later", id(RESTART): "restart"}
NAMES |= {id(RECREATE): "recreate", id(ALL_THREE): "all-three"}
CELLS = [
    pytest.param(state, status, desired, on_change, cell, id=f"{state}-{status}-{NAMES[id(desired)]}-{on_change}")
    for desired, on_change, cells in TABLE
    for (state, status), cell in cells.items()
]


def test_the_table_is_whole() -> None:
    assert len(CELLS) == len(NAMES) * len(plan.ON_CHANGE) * len(UP) * len(KNOWN)


@pytest.mark.parametrize("state, status, desired, on_change, cell", CELLS)
def test_to_running(state: str, status: str, desired: spec.Spec | None, on_change: str, cell: str) -> None:
    if cell == "!":
        with pytest.raises(SandboxError):
            plan.make("name", state, status, RECORDED, desired, on_change)
        return
    made_plan = plan.make("name", state, status, RECORDED, desired, on_change)
    assert made_plan.actions == tuple(cell.split())
    # Also what is ignored is told.
    expected = spec.differences(RECORDED, desired) if desired else []
    assert list(made_plan.differences) == expected


@pytest.mark.parametrize("state, status, desired, on_change, cell", CELLS)
def test_other_secrets_only_add_the_update(
    state: str, status: str, desired: spec.Spec | None, on_change: str, cell: str
) -> None:
    """They are stored at once and used from the next start: never a reason to end what the agent does."""
    if cell == "!":
        with pytest.raises(SandboxError):
            plan.make("name", state, status, RECORDED, desired, on_change, secrets_differ=True)
        return
    actions = cell.split()
    # Another sandbox in its place is made with the new ones.
    added = [] if {"update", "create"} & set(actions) else ["update"]
    made_plan = plan.make("name", state, status, RECORDED, desired, on_change, secrets_differ=True)
    assert made_plan.actions == (*added, *actions)


@pytest.mark.parametrize(
    "status, desired, named, unnamed, why",
    [
        pytest.param("running", RESTART, ["glx (False → True)"], [], "needs a restart", id="restart"),
        pytest.param(
            "running",
            ALL_THREE,
            ["project_dir ('/srv/demo' → '/srv/other')"],
            ["glx", "resume"],
            "another sandbox",
            id="recreate",
        ),
        pytest.param("running", made(glx=True, resume=True), ["glx"], ["resume"], "a restart", id="not-what-can-wait"),
        pytest.param("stopped", RECREATE, ["project_dir"], [], "another sandbox", id="stopped"),
    ],
)
def test_a_refusal_names_what_is_in_the_way_and_both_ways_out(
    status: str, desired: spec.Spec, named: list[str], unnamed: list[str], why: str
) -> None:
    with pytest.raises(SandboxError) as caught:
        plan.make("name", "started", status, RECORDED, desired)
    error = caught.value
    assert error.what.startswith("Sandbox 'name' exists")
    assert why in error.what
    assert all(text in error.what for text in named)
    assert not any(text in error.what for text in unnamed)
    assert "restart" in error.hint
    assert "ignore" in error.hint


def test_a_refusal_stays_short_whatever_is_in_the_fields() -> None:
    desired = made(env={"A": "x" * 100_000}, agent_args=["y" * 8_000])
    with pytest.raises(SandboxError) as caught:
        plan.make("name", "started", "running", RECORDED, desired)
    assert len(str(caught.value)) < 2000


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.Plan(()).actions = ("destroy",)  # type: ignore[misc]


LIMITED = made(limits={"tasks": 100})


@pytest.mark.parametrize(
    "state, status, desired, on_change, scoped, actions",
    [
        ("started", "running", LIMITED, "fail", True, ("limit", "update")),
        ("started", "running", LIMITED, "restart", True, ("limit", "update")),
        ("started", "running", LIMITED, "ignore", True, ()),
        ("started", "running", LIMITED, "restart", False, ("update", "stop", "start")),
        ("started", "stopped", LIMITED, "fail", False, ("update", "start")),
        ("restarted", "running", LIMITED, "fail", True, ("update", "stop", "start")),
        ("started", "running", made(limits={"tasks": 100}, glx=True), "restart", True, ("update", "stop", "start")),
    ],
)
def test_limits_reach_what_runs_in_a_scope(
    state: str, status: str, desired: spec.Spec, on_change: str, scoped: bool, actions: tuple[str, ...]
) -> None:
    found = plan.make("name", state, status, RECORDED, desired, on_change, scoped=scoped)
    assert found.actions == actions


def test_limits_do_not_reach_what_has_no_scope() -> None:
    with pytest.raises(SandboxError, match=r"needs a restart.*: limits"):
        plan.make("name", "started", "running", RECORDED, LIMITED, "fail", scoped=False)


def test_a_container_gets_mounts_and_limits_while_it_runs() -> None:
    desired = made(backend="container", mounts=[{"source": "/data"}], limits={"tasks": 100})
    found = plan.make("name", "started", "running", made(backend="container"), desired, "fail", scoped=True)
    assert found.actions == ("mount", "limit", "update")
