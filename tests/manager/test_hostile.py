"""What callers and sandboxes may try: it is taken literally or refused, and nobody else notices."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from claude_sandbox import claude, display
from claude_sandbox.registry import Record
from tests.manager.served import PLAIN, Served, _below
from tests.manager.test_api import until

PROBLEM = "application/problem+json"
LONG = "x" * 100_000
# What a shell, a path, tmux's and bwrap's syntax, or a browser would take for more than text. CANARY becomes a path.
WORDS = (
    "; touch CANARY",
    "$(touch CANARY)",
    "`touch CANARY`",
    "a' ; touch CANARY ; '",
    'a" ; touch CANARY ; "',
    "#(touch CANARY)",
    "#{run-shell 'touch CANARY'}",
    "a\ntouch CANARY",
    "a,b=c",
    "-rf",
    "--help",
    "a b",
    "..",
    "../../etc",
    "ünïcödé-名前",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "{{7*7}}%s%n${x}",
    "a\0b",
    "\x1b]0;x\x07",
    LONG,
)
ADDRESSES = (
    ("GET", "/api/sandboxes/{}"),
    ("DELETE", "/api/sandboxes/{}"),
    ("POST", "/api/sandboxes/{}/stop"),
    ("POST", "/api/sandboxes/{}/start"),
    ("GET", "/api/sandboxes/{}/screenshot"),
    ("GET", "/api/sandboxes/{}/screen"),
    ("GET", "/api/sandboxes/{}/logs"),
    ("GET", "/api/sandboxes/{}/metrics"),
    ("GET", "/api/jobs/{}"),
    ("GET", "/api/{}"),
)


def short(word: str) -> str:
    return ascii(word[:30])


@pytest.fixture
def canary(served: Served) -> Iterator[Path]:
    """A file that anybody could make, and nobody does."""
    folder = served.folder / "open"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    yield folder / "canary"
    assert not list(folder.iterdir())
    folder.rmdir()


def raw(served: Served, method: str, path: str) -> tuple[int, str, bytes]:
    """An address as it is: other clients would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()


def is_refused(answer: Any) -> None:
    assert (answer.headers["Content-Type"], answer.status_code < 500) == (PROBLEM, True), answer.text[:500]
    assert answer.json()["status"] == answer.status_code


def crashes(served: Served) -> list[str]:
    """What the manager itself has logged as its mistakes."""
    return [line for line in served.lines() if '"exception"' in line or "Traceback" in line]


def record_of(served: Served, name: str) -> Record:
    found = served.engine.registry.get(name)
    assert found is not None
    return found


# Names, paths, fields


@pytest.mark.parametrize("word", WORDS, ids=short)
def test_hostile_addresses(served: Served, canary: Path, word: str) -> None:
    text = quote(word.replace("CANARY", str(canary)), safe="")
    for method, address in ADDRESSES:
        status, kind, content = raw(served, method, address.format(text))
        # One that is longer than a request's first line may be is refused by the server below us.
        assert (status, kind) in ((404, PROBLEM), (414, "text/html") if word is LONG else (404, PROBLEM)), content
        assert b"<script>" not in content
    assert not crashes(served)


@pytest.mark.parametrize("word", ["..", ".", "%2e%2e", "..%2f..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "a%0d%0aX: y"])
def test_hostile_addresses_that_are_no_text(served: Served, word: str) -> None:
    for method, address in ADDRESSES:
        status, kind, content = raw(served, method, address.format(word.replace(" ", "%20")))
        assert (status, kind) == (404, PROBLEM), content
    assert not crashes(served)


def test_hostile_queries(served: Served, canary: Path) -> None:
    served.make("box")
    for word in WORDS:
        _ask_with(served, word.replace("CANARY", str(canary)))
    assert served.call("GET", "/api/sandboxes/box").json()["status"] == "running"
    assert not crashes(served)


def _ask_with(served: Served, text: str) -> None:
    for path, name in (
        ("logs", "tail"),
        ("logs", "since"),
        ("screen", "history"),
        ("screenshot", "width"),
        ("screenshot", "format"),
        ("screenshot", "mark"),
    ):
        answer = served.call("GET", f"/api/sandboxes/box/{path}", params={name: text})
        if text is LONG:
            assert answer.status_code == 414
        else:
            is_refused(answer)
            # A mark may be any word; this sandbox has no screen.
            assert answer.status_code == 422 or (name == "mark" and answer.status_code == 409)
    assert served.call("DELETE", "/api/sandboxes/box", params={"purge": text}).status_code in (422, 414)


def test_hostile_headers(served: Served, canary: Path) -> None:
    served.make("box")
    names = ("Prefer", "Accept", "If-None-Match", "Content-Type", "Range", "X-Forwarded-For", "Accept-Language")
    words = [word.replace("CANARY", str(canary))[:4000] for word in WORDS if "\n" not in word and "\0" not in word]
    for name, word in itertools.product(names, words):
        for method, path in (("GET", "logs"), ("GET", "screenshot"), ("POST", "start")):
            answer = served.call(method, f"/api/sandboxes/box/{path}", headers={name: word.encode()})
            assert answer.status_code < 500, (name, path, answer.text)
    assert not crashes(served)


@pytest.mark.parametrize("word", WORDS, ids=short)
def test_hostile_fields(served: Served, canary: Path, word: str) -> None:
    """Where a field is not free text, and for names: what cannot be is refused, and nothing is begun."""
    text = word.replace("CANARY", str(canary))
    plain = {"name": "box", "project_dir": str(served.project("fields")), "user": served.account.name, **PLAIN}
    nobody: list[dict[str, Any]] = [
        {"name": text},
        {"project_dir": f"/nowhere/{text}"},
        {"user": text},
        {"rootfs": f"/nowhere/{text}"},
    ]
    nobody += [{name: text} for name in ("backend", "toolchain", "geometry", "on_change", "network", "grants", "vm")]
    nobody += [{"env": {f"{text}=": "x"}}, {"secret_env": {f"{text}=": "x"}}, {"grants": {text: True}}, {text: text}]
    nobody += [{"mounts": [{"source": f"/nowhere/{text}", "target": f"/{text}/.."}]}, {"mounts": [text]}]
    nobody += [{"backend": "vm", "vm": {"guest": f"/nowhere/{text}"}}, {"agent": text}, {"container": {text: text}}]
    for more in nobody:
        answer = served.call("POST", "/api/sandboxes", json={**plain, **more})
        assert answer.status_code == 422 or (answer.status_code == 202 and "vm" in more), (more, answer.text)
        if answer.status_code == 202:
            job = _ended(served, answer.headers["Location"])
            assert (job["status"], job["problem"]["status"]) == ("failed", 422)
        else:
            is_refused(answer)
    assert served.engine.registry.names() == []
    assert not crashes(served)


def _ended(served: Served, job: str) -> Any:
    return until(lambda: (found := served.call("GET", job).json())["status"] != "running" and found)


def test_hostile_text_is_taken_literally(served: Served, canary: Path) -> None:
    words = [word.replace("CANARY", str(canary)) for word in WORDS if "\0" not in word and word is not LONG]
    project = served.project("literal")
    script = "import json,os,sys; json.dump([sys.argv[1:], dict(os.environ)], open('got', 'w')); sys.stdin.read()"
    env = {f"WORD_{number}": word for number, word in enumerate(words)}
    secrets = {f"SECRET_{number}": word for number, word in enumerate(words)}
    served.make(
        "literal",
        project_dir=str(project),
        agent=["python3", "-c", script],
        agent_args=words,
        env=env,
        secret_env=secrets,
    )
    got = until(lambda: (project / "got").exists() and (project / "got").read_text())
    arguments, environ = json.loads(got)
    assert arguments == words
    assert {name: environ[name] for name in (*env, *secrets)} == env | secrets
    shown = served.call("GET", "/api/sandboxes/literal").json()
    assert (shown["agent_args"], shown["env"]) == (words, env)
    assert not crashes(served)


def test_hostile_projects(served: Served, canary: Path) -> None:
    words = [word.replace("CANARY", str(canary)).replace("/", "-") for word in WORDS if word is not LONG]
    words = [word for word in words if not set(word) & set("\n\0\x1b") and word != ".."]
    for number, word in enumerate(words):
        project = served.account.root / f"projects{served.port}" / word
        project.mkdir(parents=True)
        served.account.own(project.parent)
        made = served.make(f"p{number}", project_dir=str(project), agent=["sh", "-c", "echo $PWD; sleep 60"])
        assert made["project_dir"] == str(project)
        lines = _lines(served, f"p{number}")
        assert lines == ["".join(each for each in str(project) if each != "\u202e")]
        assert served.call("DELETE", f"/api/sandboxes/p{number}").status_code == 204
    assert not crashes(served)


def _lines(served: Served, name: str) -> Any:
    return until(lambda: served.call("GET", f"/api/sandboxes/{name}/logs").json()["lines"])


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"name": "a", "vm": {"cpus": ' + b"9" * 5000 + b"}}",
        b'{"name": "\xff"}',
        b"\x00",
        '{"name": "a"}'.encode("utf-16"),
        b"{",
    ],
    ids=["deep", "deep object", "long number", "no text", "NUL", "UTF-16", "torn"],
)
def test_bodies_that_cannot_be_read(served: Served, body: bytes) -> None:
    answer = served.call("POST", "/api/sandboxes", data=body, headers={"Content-Type": "application/json"})
    is_refused(answer)
    assert answer.status_code == 400
    assert not answer.json()["detail"].startswith(":")


@pytest.mark.parametrize("field", ["project_dir", "user", "api_key", "rootfs", "geometry"])
def test_half_a_character(served: Served, field: str) -> None:
    body = {"name": "box", "project_dir": str(served.project("half")), field: "/\ud800"}
    answer = served.call("POST", "/api/sandboxes", json=body)
    is_refused(answer)
    assert answer.status_code == 422


# What sandboxes write


_SCREEN = (
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]52;c;aGk=\x07 \x1bP+q544e\x1b\\ \x9b31m <script>alert(1)</script> "
    "<img src=x onerror=alert(1)> \u202eesrever\u202c \u2066x\u2069 {{7*7}} &lt; end\r\n"
)


def test_terminal_output_is_inert(served: Served) -> None:
    project = served.project("inert")
    (project / "out").write_text(_SCREEN * 3)
    served.make("inert", project_dir=str(project), agent=["sh", "-c", "cat out; sleep 60"])
    path = "/api/sandboxes/inert"
    assert until(lambda: len(served.call("GET", f"{path}/logs").json()["lines"]) == 3)
    lines = served.call("GET", f"{path}/logs")
    text = served.call("GET", f"{path}/logs", headers={"Accept": "text/plain"})
    screen = served.call("GET", f"{path}/screen")
    for answer in (lines, text, screen):
        assert "<script>alert(1)</script>" in answer.text
        content = "".join(answer.json()["lines"]) if answer is lines else answer.text
        assert not {each for each in content if each != "\n" and ord(each) in (*range(32), *range(0x7F, 0xA0))}
        assert not set(content) & set("\u202e\u202c\u2066\u2069")
        kind = "application/json" if answer is lines else "text/plain; charset=utf-8"
        # No browser makes a page of it, whatever it looks like.
        assert (answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"]) == (kind, "nosniff")
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def _agent_pid(served: Served, record: Record) -> int:
    from claude_sandbox import lifecycle

    assert record.instance is not None
    running = lifecycle.running(record, record.instance)
    pid = lifecycle.backend(running.spec).agent_pid(running)
    assert pid
    return pid


_SAID: tuple[tuple[Any, str | None], ...] = (
    ({"status": "waiting", "waitingFor": "x" * 60_000, "updatedAt": 1}, "waiting"),
    ({"status": "waiting", "waitingFor": "\ud800\x1b[31m<script>\u202e\0", "updatedAt": 2}, "waiting"),
    ({"status": "waiting", "waitingFor": {"a": []}, "updatedAt": [[]]}, "waiting"),
    ({"status": "busy", "waitingFor": 7, "updatedAt": 10**300}, "busy"),
    ({"status": ["idle"]}, None),
    ({"status": "<b>idle</b>"}, None),
    ({"status": "idle" * 20}, None),
    ([], None),
    (None, None),
    ("idle", None),
)


def test_hostile_words_of_an_agent(served: Served) -> None:
    served.make("said")
    served.make("other")
    record = record_of(served, "said")
    path = Path(record.data) / claude.SESSIONS / f"{_agent_pid(served, record)}.json"
    contents = [(json.dumps(said).encode(), activity) for said, activity in _SAID]
    contents += [(each, None) for each in (b"", b"{", b"\xff", b"[" * 60_000, b'{"status": ' + b"1" * 5000 + b"}")]
    contents += [(b'{"status": "idle", "x": "' + b"x" * (1 << 20) + b'"}', None)]
    for content, activity in contents:
        path.write_bytes(content)
        found = _said(served, activity)
        assert found, (content[:100], activity)
        assert len(found["waiting_for"] or "") <= 200
        assert _figures(served, "other")["session"]["messages"] == 0
        assert served.call("GET", "/metrics").status_code == 200
    path.write_text('{"status": "idle"}')
    assert until(lambda: _figures(served, "said")["activity"] == "idle")
    aside = path.rename(path.with_name("aside"))
    path.symlink_to(aside)
    assert until(lambda: _figures(served, "said")["activity"] is None)
    path.unlink()
    os.mkfifo(path)
    assert _figures(served, "said")["activity"] is None
    assert not crashes(served)


def _said(served: Served, activity: str | None) -> Any:
    return until(lambda: (figures := _figures(served, "said"))["activity"] == activity and figures, 5)


def _figures(served: Served, name: str) -> dict[str, Any]:
    answer = served.call("GET", f"/api/sandboxes/{name}/metrics")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _message(project: Path, number: int, **more: Any) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + 60))
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {"id": f"m{number}", "model": "claude-x", "usage": usage, **more}
    return {"type": "assistant", "cwd": str(project), "timestamp": now, "message": message}


def test_hostile_transcripts(served: Served) -> None:
    project = served.project("talks")
    served.make("talks", project_dir=str(project))
    served.make("other")
    record = record_of(served, "talks")
    store = served.engine.registry.store_of(record.asked(), served.engine.owner(record.asked()))
    folder = Path(store) / "claude" / "projects" / claude.encoded(str(project))
    folder.mkdir(parents=True, exist_ok=True)
    wrong: list[Any] = [
        _message(project, 1, model="\ud800<script>"),
        _message(project, 2, model={"a": 1}),
        _message(project, 3, usage={"input_tokens": -5, "output_tokens": 10**400}),
        _message(project, 4, usage={"input_tokens": "7", "output_tokens": True}),
        _message(project, 5, usage=[]),
        _message(project, 6, id=[]),
        _message(project, 7, content=[{"type": "tool_use", "id": {}}, 5, None]),
        {**_message(project, 8), "timestamp": "9999-12-31T23:59:59Z"},
        {**_message(project, 9), "timestamp": 10**30},
        {**_message(project, 10), "cwd": ["/"]},
        [],
        None,
        "x",
        {"type": "assistant", "message": 7},
    ]
    lines = [json.dumps(each).encode() for each in wrong]
    lines += [b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"\0" * 1000, b"x" * (5 << 20)]
    lines += [json.dumps(_message(project, 100 + number, model=f"model-{number}")).encode() for number in range(300)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "b.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(folder / "c.jsonl")
    (folder / "d.jsonl").mkdir()
    with open(folder / "e.jsonl", "wb") as file:
        file.truncate(1 << 40)
    served.account.own(folder.parents[1])
    found = until(lambda: (s := _figures(served, "talks")["session"]) and s["messages"] >= 300 and s, 30)
    assert found
    assert not found["complete"]
    assert len(found["by_model"]) <= 101
    assert served.call("GET", "/metrics").status_code == 200
    assert "<script>" not in served.call("GET", "/metrics").text
    assert _figures(served, "other")["session"]["messages"] == 0
    assert not crashes(served)


def test_a_framebuffer_that_is_cut_off_under_us(served: Served) -> None:
    served.make("cut", grants={**PLAIN["grants"], "display": True}, geometry="800x600")
    served.make("other")
    instance = record_of(served, "cut").instance
    assert instance is not None
    path = Path(display.framebuffer(instance.folder))
    size = path.stat().st_size
    # A copy, so that it is not the X server that dies of it.
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    served.account.own(copy)
    copy.rename(path)
    over = threading.Event()

    def cut() -> None:
        while not over.is_set():
            os.truncate(path, 4096)
            os.truncate(path, size)

    cutter = threading.Thread(target=cut)
    cutter.start()
    seen = set()
    try:
        for _attempt in range(60):
            answer = served.call("GET", "/api/sandboxes/cut/screenshot")
            assert answer.headers["Content-Type"] in ("image/png", PROBLEM)
            seen.add(answer.status_code)
            assert served.call("GET", "/api/sandboxes/other/metrics").status_code == 200
    finally:
        over.set()
        cutter.join()
    assert seen <= {200, 409, 422, 503}, seen
    # The observer did die of it, or this would have shown nothing.
    assert 503 in seen
    assert served.call("GET", "/api/sandboxes/other/screen").status_code == 200
    assert served.call("GET", "/api/sandboxes/cut/screen").status_code == 200
    assert not crashes(served)


# What is killed, and what is full


def _processes(served: Served, word: str) -> list[int]:
    """The manager's own processes below it with a word in their command lines."""
    assert served.process is not None
    found = []
    for pid in _below(served.process.pid):
        with contextlib.suppress(OSError):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _zygote(served: Served) -> int:
    forks = _processes(served, "manager_app.zygote")
    return next(pid for pid in forks if _parent(pid) not in forks)


def _observer(served: Served) -> int:
    """The process that looks at the sandboxes of the account: the only one that lives on between two requests."""
    name = served.call("GET", "/api/sandboxes").json()[0]["name"]
    assert until(lambda: served.call("GET", f"/api/sandboxes/{name}/screen").status_code == 200)
    found = [pid for pid in _processes(served, "manager_app.zygote") if _parent(pid) == _zygote(served)]
    assert len(found) == 1
    return found[0]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_observer_is_killed(served: Served) -> None:
    served.make("box", grants={**PLAIN["grants"], "display": True}, geometry="64x64")
    for number in range(4):
        os.kill(_observer(served), signal.SIGKILL)
        for path in ("screenshot", "screen", "logs", "metrics")[number:]:
            answer = served.call("GET", f"/api/sandboxes/box/{path}")
            assert answer.status_code in (200, 503), answer.text
            # The one after it works.
            assert served.call("GET", f"/api/sandboxes/box/{path}").status_code == 200
    assert not crashes(served)


def test_the_observer_is_killed_between_two_questions(served: Served) -> None:
    """Nobody notices: whoever asks next has another one started."""
    served.make("box")
    for path in ("screen", "logs", "metrics"):
        before = _observer(served)
        os.kill(before, signal.SIGKILL)
        assert until(lambda before=before: not Path(f"/proc/{before}").exists())
        answer = served.call("GET", f"/api/sandboxes/box/{path}")
        assert answer.status_code == 200, answer.text
        assert _observer(served) != before
    assert not crashes(served)


def test_the_observer_is_killed_in_the_middle(served: Served) -> None:
    """By whoever, at any time: every request is answered, and none with what was for another."""
    served.make("box", agent=["sh", "-c", "echo these words; sleep 60"])
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            for pid in _processes(served, "manager_app.zygote"):
                with contextlib.suppress(OSError):
                    if _parent(pid) == _zygote(served) and os.stat(f"/proc/{pid}").st_uid == served.account.uid:
                        os.kill(pid, signal.SIGKILL)

    def ask(path: str) -> requests.Response:
        return requests.get(f"{served.url}/api/sandboxes/box/{path}", timeout=60)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, ["screen", "logs"] * 40))
    finally:
        over.set()
        killer.join()
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 503 for answer in answers)
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            assert answer.headers["Content-Type"] == ("application/json" if number % 2 else "text/plain; charset=utf-8")
    assert until(lambda: served.call("GET", "/api/sandboxes/box/screen").status_code == 200)
    assert "these words" in served.call("GET", "/api/sandboxes/box/screen").text
    assert not crashes(served)


def test_the_zygote_is_killed(served: Served) -> None:
    served.make("box")
    before = _zygote(served)
    os.kill(before, signal.SIGKILL)
    made = served.make("another")
    assert made["status"] == "running"
    assert _zygote(served) != before
    assert served.call("GET", "/api/sandboxes/box/screen").status_code == 200
    assert served.call("DELETE", "/api/sandboxes/another").status_code == 204
    assert not crashes(served)


def test_the_zygote_is_killed_in_the_middle(served: Served) -> None:
    """What had begun goes on: whoever asked for it is told how it ended."""
    body = {"name": "box", "project_dir": str(served.project("middle")), "user": served.account.name, **PLAIN}
    served.make("first")
    answer = served.call("POST", "/api/sandboxes", json=body, headers={"Prefer": "respond-async"})
    os.kill(_zygote(served), signal.SIGKILL)
    job = _ended(served, answer.headers["Location"])
    # Killed before it had forked: that is told, and nothing was made.
    assert job["status"] == "done" or job["problem"]["status"] == 503
    assert (served.call("GET", "/api/sandboxes/box").status_code == 200) == (job["status"] == "done")
    assert not crashes(served)


@pytest.mark.parametrize("limit", [0, 20, 300])
def test_the_disk_is_full_in_the_middle_of_a_write(served: Served, limit: int) -> None:
    """A limit on files' sizes fails each write after so many bytes, as a full disk does."""
    made = served.make("box")
    served.make("other")
    record = Path(record_of(served, "box").folder)
    before = {path.name: path.read_bytes() for path in record.glob("*.json")}
    fork = _zygote(served)
    whole = resource.prlimit(fork, resource.RLIMIT_FSIZE)
    resource.prlimit(fork, resource.RLIMIT_FSIZE, (limit, whole[1]))
    change = {"name": "box", "project_dir": made["project_dir"], "user": served.account.name, **PLAIN, "resume": True}
    new = {**change, "name": "new", "project_dir": str(served.project("full"))}
    answers = [
        served.call("POST", "/api/sandboxes", json=change),
        served.call("POST", "/api/sandboxes", json=new),
        served.call("POST", "/api/sandboxes/other/stop"),
        served.call("POST", "/api/sandboxes", json={**change, "network": False, "on_change": "restart"}),
    ]
    for answer in answers:
        is_refused(answer)
    resource.prlimit(fork, resource.RLIMIT_FSIZE, whole)
    assert "File too large" in answers[0].json()["detail"]
    for path in Path(served.engine.registry.folder).rglob("*.json"):
        assert path.read_bytes(), path
        json.loads(path.read_bytes())
    assert not list(Path(served.engine.registry.folder).rglob("*.tmp"))
    assert (record / "spec.json").read_bytes() == before["spec.json"]
    listed = {view["name"]: view["status"] for view in served.call("GET", "/api/sandboxes").json()}
    assert set(listed) == {"box", "other"}
    assert "unreadable" not in listed.values()
    # There is room again.
    assert served.call("POST", "/api/sandboxes", json=change).status_code == 200
    assert served.call("POST", "/api/sandboxes", json=new).status_code == 201
    assert served.call("POST", "/api/sandboxes/other/stop").json()["status"] == "stopped"
    assert not crashes(served)


# Many at once


def test_one_name_is_asked_for_twice_at_once(served: Served) -> None:
    body = {"project_dir": str(served.project("twice")), "user": served.account.name, **PLAIN}

    def make(name: str) -> int:
        return requests.post(f"{served.url}/api/sandboxes", json={**body, "name": name}, timeout=60).status_code

    for number in range(4):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            statuses = sorted(pool.map(make, [f"twice{number}"] * 3))
        assert statuses.count(201) == 1, statuses
        assert set(statuses) <= {200, 201, 409}
    assert not crashes(served)


def test_thirty_at_once(served: Served) -> None:
    names = [f"many{number}" for number in range(30)]
    bodies = {
        name: {"name": name, "project_dir": str(served.project(name)), "user": served.account.name, **PLAIN}
        for name in names
    }

    def send(method: str, path: str, **more: Any) -> int:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            answer = requests.request(method, f"{served.url}/api/sandboxes{path}", timeout=90, **more)
            if answer.status_code != 503:
                assert answer.status_code in (201, 204), answer.text
                return answer.status_code
            assert "being changed" in answer.json()["detail"]
        return 0

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        made = list(pool.map(lambda name: send("POST", "", json=bodies[name]), names))
        assert set(made) == {201}
        assert len(served.call("GET", "/api/sandboxes").json()) == 30
        gone = list(pool.map(lambda name: send("DELETE", f"/{name}"), names))
    assert set(gone) == {204}
    assert served.engine.registry.names() == []
    assert not crashes(served)


def test_a_body_that_is_too_long(served: Served) -> None:
    body = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    for announced in (True, False):
        for _attempt in range(5):
            # What is left of the body is not read: the kernel may tell the client of that before it tells the answer.
            with contextlib.suppress(requests.ConnectionError):
                answer = _sent(served, body if announced else iter([body[:1000], body[1000:]]))
                is_refused(answer)
                assert answer.status_code == 413, answer.text
                break
        else:
            raise AssertionError("it was never told")
    assert not crashes(served)


def _sent(served: Served, body: Any) -> requests.Response:
    kind = {"Content-Type": "application/json"}
    return requests.post(f"{served.url}/api/sandboxes", data=body, headers=kind, timeout=10)


def test_a_header_that_is_too_long(served: Served) -> None:
    for headers in ({"X-Long": LONG}, {f"X-{number}": "x" for number in range(1000)}):
        answer = requests.get(f"{served.url}/api/sandboxes", headers=headers, timeout=10)
        assert answer.status_code == 431
    assert not crashes(served)


def test_a_client_that_takes_its_time(served: Served) -> None:
    text = f"GET /api/sandboxes HTTP/1.1\r\nHost: localhost:{served.port}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow:
        for start in range(0, len(text), 8):
            slow.sendall(text[start : start + 8])
            # Others are answered meanwhile.
            assert served.call("GET", "/healthz").status_code == 200
        answer = b"".join(iter(lambda: slow.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
