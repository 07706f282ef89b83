"""Work that is under way: how much at once, what is remembered of it, and how what went wrong is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from claude_sandbox.errors import ConflictError, SandboxError
from manager_app import jobs
from manager_app.jobs import Job, Jobs
from manager_app.problems import ProblemError


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Work that waits for this ends with the test."""
    made = threading.Event()
    yield made
    made.set()


def ended(job: Job) -> Job:
    assert job.wait(10)
    return job


def failing(error: BaseException) -> Any:
    def work() -> dict[str, Any]:
        raise error

    return work


def test_what_is_done_is_told() -> None:
    job = ended(Jobs().begin("start", "box", lambda: {"actions": ["start"]}))
    assert (job.done, job.outcome, job.problem) == (True, {"actions": ["start"]}, None)
    assert job.ended_at is not None
    assert job.ended_at >= job.begun_at


def test_what_is_under_way_is_known(gate: threading.Event) -> None:
    all_jobs = Jobs()
    job = all_jobs.begin("stop", "box", lambda: {"in_time": gate.wait(10)})
    assert all_jobs.under_way() == {"box": "stop"}
    assert (job.done, job.ended_at, job.wait(0.01)) == (False, None, False)
    assert all_jobs.get(job.id) is job
    gate.set()
    ended(job)
    assert all_jobs.under_way() == {}


def test_not_too_many_at_once(gate: threading.Event) -> None:
    all_jobs = Jobs()
    begun = [all_jobs.begin("start", f"box{number}", lambda: {"in_time": gate.wait(10)}) for number in range(16)]
    with pytest.raises(ProblemError) as caught:
        all_jobs.begin("start", "one-more", dict)
    assert caught.value.status == 503
    assert "one-more" not in all_jobs.under_way()
    gate.set()
    for job in begun:
        ended(job)
    ended(all_jobs.begin("start", "one-more", dict))


def test_the_oldest_are_forgotten_and_none_that_is_under_way(gate: threading.Event) -> None:
    all_jobs = Jobs()
    waiting = all_jobs.begin("start", "slow", lambda: {"in_time": gate.wait(60)})
    done = [ended(all_jobs.begin("start", f"box{number}", dict)) for number in range(jobs._KEPT + 5)]
    last = ended(all_jobs.begin("start", "last", dict))
    assert all_jobs.get(waiting.id) is waiting
    assert all_jobs.get(done[-1].id) is done[-1]
    assert all_jobs.get(last.id) is last
    for job in done[:5]:
        with pytest.raises(ProblemError) as caught:
            all_jobs.get(job.id)
        assert caught.value.status == 404
    assert all_jobs.get(done[5].id) is done[5]


@pytest.mark.parametrize("error, status", [(SandboxError("no", "so"), 422), (ConflictError("no", "so"), 409)])
def test_what_a_user_can_mend_is_told_in_its_words(error: SandboxError, status: int) -> None:
    job = ended(Jobs().begin("start", "box", failing(error)))
    assert job.outcome is None
    assert job.problem is not None
    assert (job.problem["status"], job.problem["detail"], job.problem["hint"]) == (status, "no", "so")


@pytest.mark.parametrize("error", [RuntimeError("Traceback: secret"), KeyError("secret"), MemoryError("secret")])
def test_a_crash_is_told_without_its_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        job = ended(Jobs().begin("start", "box", failing(error)))
    assert job.problem is not None
    assert job.problem["status"] == 500
    assert "secret" not in str(job.problem)
    assert "secret" in caplog.text


def test_one_that_could_not_begin_is_none_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    all_jobs = Jobs()

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for _attempt in range(20):
            with pytest.raises(ProblemError) as caught:
                all_jobs.begin("start", "box", dict)
            assert caught.value.status == 503
    assert all_jobs.under_way() == {}
    ended(all_jobs.begin("start", "box", dict))
