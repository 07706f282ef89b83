"""Sandboxes outlive the manager, however that ends."""

from __future__ import annotations

import signal
import time

import pytest

from tests.manager.served import Served


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_sandboxes_live_on(served: Served, number: int) -> None:
    made = served.make("box", grants={"claude": False, "git": False, "ssh": False, "gh": False, "display": True})
    code = served.end(number)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    served.start()
    assert served.call("GET", "/api/sandboxes").json() == [made]
    assert served.call("GET", "/api/sandboxes/box/screenshot").status_code == 200


def test_what_was_begun_goes_on_when_the_manager_is_killed(served: Served) -> None:
    project = str(served.project("begun"))
    body = {"name": "begun", "project_dir": project, "user": served.account.name, "agent": ["shell"]}
    answer = served.call("POST", "/api/sandboxes", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    served.end(signal.SIGKILL)
    served.start()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = served.call("GET", "/api/sandboxes").json()
        if found and found[0]["status"] == "running":
            return
        time.sleep(0.1)
    # Killed before the work had begun: then there is nothing, and nothing half made.
    assert served.call("GET", "/api/sandboxes").json() == []


def test_only_our_own_processes_end_with_it(served: Served) -> None:
    served.make("box")
    served.call("GET", "/api/sandboxes/box/metrics")
    before = set(served.account.processes())
    served.end(signal.SIGKILL)
    time.sleep(1)
    after = set(served.account.processes())
    # The observer, which ran as the account, is gone; the sandbox is not.
    assert len(before - after) == 1
    served.start()
    assert served.call("GET", "/api/sandboxes/box").json()["status"] == "running"
