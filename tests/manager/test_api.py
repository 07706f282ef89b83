"""The REST API, with sandboxes that really run."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from claude_sandbox.sandboxes import Request
from tests.manager.served import PLAIN, Served

PROBLEM = "application/problem+json"


def until(question: Any, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := question()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def test_a_sandbox_from_its_making_to_its_end(served: Served) -> None:
    made = served.make("box")
    assert made["status"] == "running"
    assert made["user"] == served.account.name
    listed = served.call("GET", "/api/sandboxes").json()
    assert listed == [made]
    for ref in ("box", made["id"], made["id"][:5]):
        assert served.call("GET", f"/api/sandboxes/{ref}").json() == made
    stopped = served.call("POST", "/api/sandboxes/box/stop")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    started = served.call("POST", "/api/sandboxes/box/start")
    assert (started.status_code, started.json()["status"]) == (200, "running")
    assert started.json()["pid"] != made["pid"]
    assert served.call("DELETE", "/api/sandboxes/box").status_code == 204
    assert served.call("GET", "/api/sandboxes").json() == []
    assert served.call("DELETE", "/api/sandboxes/box").status_code == 404


def test_what_is_there_already_is_left_alone(served: Served) -> None:
    made = served.make("box")
    body = {"name": "box", "project_dir": made["project_dir"], "user": served.account.name, **PLAIN}
    again = served.call("POST", "/api/sandboxes", json=body)
    assert (again.status_code, again.json()) == (200, made)
    other = served.call("POST", "/api/sandboxes", json={**body, "network": False})
    assert other.status_code == 409, other.text
    assert "network" in other.json()["detail"]
    changed = served.call("POST", "/api/sandboxes", json={**body, "network": False, "on_change": "restart"})
    assert (changed.status_code, changed.json()["network"]) == (200, False)


def test_what_another_door_does_shows_at_once(served: Served) -> None:
    engine = served.engine
    params = {"project_dir": str(served.project("beside")), "user": served.account.name, **PLAIN}
    engine.ensure(Request("beside", params=params))
    assert served.call("GET", "/api/sandboxes/beside").json()["status"] == "running"
    engine.ensure(Request("beside", "stopped"))
    assert served.call("GET", "/api/sandboxes/beside").json()["status"] == "stopped"
    engine.ensure(Request("beside", "absent"))
    assert served.call("GET", "/api/sandboxes/beside").status_code == 404


def test_one_that_ends_by_itself_is_dead(served: Served) -> None:
    served.make("brief", agent=["sh", "-c", "echo last words; exit 7"])
    dead = until(lambda: (v := served.call("GET", "/api/sandboxes/brief").json())["exit_code"] is not None and v)
    assert (dead["status"], dead["exit_code"]) == ("dead", 7)
    assert "last words" in served.call("GET", "/api/sandboxes/brief/screen").text
    log = until(lambda: served.call("GET", "/api/sandboxes/brief/logs").json()["lines"])
    assert "last words" in log


def test_a_log_in_parts(served: Served) -> None:
    served.make("talker", agent=["sh", "-c", "printf 'one\\n\\033[31mtwo\\033[0m\\n'; read x; echo $x; sleep 60"])
    path = "/api/sandboxes/talker/logs"
    assert until(lambda: len(served.call("GET", path).json()["lines"]) == 2)
    first = served.call("GET", path).json()
    assert first["lines"] == ["one", "two"]
    assert served.call("GET", f"{path}?tail=1").json()["lines"] == ["two"]
    assert served.call("GET", f"{path}?since={first['next']}").json() == {"lines": [], "next": first["next"]}
    assert served.call("GET", path, headers={"Accept": "text/plain"}).text == "one\ntwo\n"
    served.engine.converse("talker", "three", ["Enter"], _no_wait())
    later = until(lambda: (r := served.call("GET", f"{path}?since={first['next']}").json())["lines"] and r)
    assert later["lines"][-1] == "three"
    assert "one" not in later["lines"]


def _no_wait() -> Any:
    from claude_sandbox.inside import Wait

    return Wait()


def test_a_screen_as_a_picture(served: Served) -> None:
    grants = {**PLAIN["grants"], "display": True}
    served.make("seen", grants=grants, geometry="640x480")
    path = "/api/sandboxes/seen/screenshot"
    answer = served.call("GET", path)
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (640, 480)
    again = served.call("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    small = served.call("GET", f"{path}?width=160&format=webp")
    picture = Image.open(io.BytesIO(small.content))
    assert (picture.format, picture.width) == ("WEBP", 160)


def test_no_screen_no_picture(served: Served) -> None:
    served.make("blind")
    answer = served.call("GET", "/api/sandboxes/blind/screenshot")
    assert (answer.status_code, answer.headers["Content-Type"]) == (409, PROBLEM)
    assert "display" in answer.json()["hint"]


def test_figures(served: Served) -> None:
    served.make("box")
    found = served.call("GET", "/api/sandboxes/box/metrics").json()
    assert found["status"] == "running"
    assert found["process"]["processes"] >= 2
    assert found["process"]["memory_bytes"] > 1 << 20
    assert found["session"]["output_tokens"] == 0
    host = served.call("GET", "/api/metrics/system").json()
    assert 0 < host["memory_used_bytes"] < host["memory_total_bytes"]
    text = served.call("GET", "/metrics").text
    assert 'claude_sandbox_info{backend="bubblewrap",name="box",status="running"} 1.0' in text


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({}, 422, "name"),
        ({"name": "box"}, 422, "project_dir"),
        ({"name": "box", "project_dir": "relative"}, 422, "project_dir"),
        ({"name": "../box", "project_dir": "/srv/x"}, 422, "name"),
        ({"name": "a\nb", "project_dir": "/srv/x"}, 422, "name"),
        ({"name": "box;id", "project_dir": "/srv/x"}, 422, "name"),
        ({"name": "box", "project_dir": "/srv/x", "network": "yes"}, 422, "network"),
        ({"name": "box", "project_dir": "/srv/x", "backend": "docker"}, 422, "backend"),
        ({"name": "box", "project_dir": "/srv/x", "grants": {"all": True}}, 422, "grants"),
        ({"name": "box", "project_dir": "/srv/x", "backend": "vm", "vm": {"cpus": True}}, 422, "vm"),
        ({"name": "box", "project_dir": "/srv/x", "unknown": 1}, 422, "unknown"),
        ({"name": "box", "project_dir": "/nowhere/at/all"}, 422, "project_dir"),
        ({"name": "box", "project_dir": "/etc"}, 422, "project_dir"),
    ],
)
def test_what_cannot_be_is_a_problem(served: Served, body: dict[str, Any], status: int, words: str) -> None:
    answer = served.call("POST", "/api/sandboxes", json=body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), answer.text
    problem = answer.json()
    assert problem["status"] == status
    assert words in problem["detail"]
    assert "Traceback" not in answer.text
    assert served.call("GET", "/api/sandboxes").json() == []


def test_other_problems(served: Served) -> None:
    for method, path, status in (
        ("GET", "/api/nothing", 404),
        ("GET", "/api/sandboxes/none", 404),
        ("GET", "/api/sandboxes/..%2f..%2fetc", 404),
        ("GET", "/api/jobs/none", 404),
        ("PUT", "/api/sandboxes", 405),
        ("GET", "/api/sandboxes/none/logs?tail=-1", 422),
    ):
        answer = served.call(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, PROBLEM), (path, answer.text)
    torn = served.call("POST", "/api/sandboxes", data="{", headers={"Content-Type": "application/json"})
    assert (torn.status_code, torn.headers["Content-Type"]) == (400, PROBLEM)


def test_long_work_is_polled(served: Served) -> None:
    project = str(served.project("later"))
    body = {"name": "later", "project_dir": project, "user": served.account.name, **PLAIN}
    answer = served.call("POST", "/api/sandboxes", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    where = answer.headers["Location"]
    assert answer.json()["name"] == "later"
    done = until(lambda: (j := served.call("GET", where).json())["status"] != "running" and j)
    assert (done["status"], done["actions"]) == ("done", ["create", "start"])
    assert done["sandbox"]["status"] == "running"


def test_work_that_failed_is_told(served: Served) -> None:
    body = {"name": "never", "project_dir": "/nowhere/at/all", **PLAIN}
    where = served.call("POST", "/api/sandboxes", json=body, headers={"Prefer": "respond-async"}).headers["Location"]
    failed = until(lambda: (j := served.call("GET", where).json())["status"] != "running" and j)
    assert failed["status"] == "failed"
    assert "/nowhere/at/all" in failed["problem"]["detail"]


def test_secrets_are_told_to_nobody(served: Served) -> None:
    canary = "canary-0123456789abcdef0123456789abcdef"
    served.make("secret", api_key=canary, secret_env={"OTHER": canary[::-1]})
    seen = served.call("GET", "/api/sandboxes").text + served.call("GET", "/metrics").text + served.log.read_text()
    files = [path.read_bytes() for path in Path(served.state_dir).rglob("*.json")]
    for word in (canary, canary[::-1]):
        assert word not in seen
        assert not any(word.encode() in content for content in files if b'"spec"' in content)


def test_the_log_is_json(served: Served) -> None:
    path, secret = "/api/sandboxes/asked-for-the-log", "token-that-no-line-has"

    def told() -> list[dict[str, Any]]:
        """What is logged of this request; that comes after the answer."""
        lines = [json.loads(line) for line in served.lines()]
        return [line for line in lines if line["message"] == "request" and line["path"] == path]

    served.call("GET", f"{path}?token={secret}")
    assert until(told)
    assert [line["status"] for line in told()] == [404]
    assert secret not in served.log.read_text()
