"""The pages, over sandboxes that are made up: what they say, and in a browser what they do."""

from __future__ import annotations

import json
import re
import shutil
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from flask import Flask, Response, send_from_directory
from flask.testing import FlaskClient
from markupsafe import Markup
from playwright.sync_api import Browser, Dialog, Page, WebSocketRoute, sync_playwright
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from claude_sandbox.sandboxes import Request
from claude_sandbox.spec import GRANT_DEFAULTS, Spec, parse
from manager_app import cards, pages
from manager_app.cards import Board, Card, Choice
from manager_app.problems import ProblemError
from manager_app.watch import Process, Seen, Terminal

EVIL = "<script>alert(1)</script>\x1b]0;t\x07\u202e\x00"
CLEAN = "&lt;script&gt;alert(1)&lt;/script&gt;"
TOKENS = {
    "input_tokens": 10,
    "output_tokens": 20,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 1_000_000,
}
USAGE: dict[str, Any] = {
    **TOKENS,
    "messages": 4,
    "tool_uses": 2,
    "by_model": {"claude-opus-4-8": {**TOKENS, "messages": 4}},
    "complete": False,
    "pending": 1 << 20,
    "history": [{"at": 1_700_000_000, **TOKENS}, {"at": 1_700_006_000, **TOKENS}],
    "cost": {"usd": 12.5, "as_of": "2026-10-24", "unpriced": ["vendor.model:0"]},
}


def seen(name: str, status: str = "running", view: dict[str, Any] | None = None, **more: Any) -> Seen:
    """A sandbox as it might be seen."""
    spec = Spec(project_dir=f"/srv/{name}", user="alice").to_dict()
    rest = {"created_at": "2026-11-23T10:00:00.000+00:00", "given": ["claude"], "skipped": {"gh": "it is not there"}}
    return Seen({"id": f"id{name}", "name": name, "status": status, **spec, **rest, **(view or {})}, **more)


class FakeJob:
    """What became of a piece of work."""

    def __init__(self, name: str, problem: dict[str, Any] | None, done: bool) -> None:
        self.id = "a1"
        self.name = name
        self.problem = problem
        self.done = done

    def wait(self, seconds: float) -> bool:
        """At once."""
        return self.done


class FakeManager:
    """The parts of a manager that pages ask, with answers that a test puts there."""

    def __init__(self) -> None:
        self.sandboxes: list[Seen] = []
        self.submitted: list[Request] = []
        self.problem: dict[str, Any] | None = None
        self.done = True
        self.watch = types.SimpleNamespace(all=lambda: self.sandboxes, one=self.one)
        figures = dict.fromkeys(
            (
                *("cpu_percent", "memory_percent", "memory_used_bytes", "memory_total_bytes", "disk_percent", "cpus"),
                *("disk_used_bytes", "disk_total_bytes", "net_sent_bytes_per_second", "net_received_bytes_per_second"),
                *("load_1", "load_5", "load_15"),
            ),
            1.0,
        )
        history = {name: [value, 2.0] for name, value in figures.items()}
        self.system = types.SimpleNamespace(now=lambda: figures, history=lambda: history)
        self.jobs = types.SimpleNamespace(get=self.job)

    def one(self, ref: str, max_age: float = 1.5) -> Seen:
        """The sandbox of this name or id."""
        found = next((each for each in self.sandboxes if ref in (each.view["name"], each.view.get("id"))), None)
        if found is None:
            raise ProblemError(404, f"There is no sandbox {ref!r}.")
        return found

    def job(self, identity: str) -> FakeJob:
        """The only one that there is."""
        if identity != "a1":
            raise ProblemError(404, "There is no such job.")
        return FakeJob("new", self.problem, self.done)

    def submit(self, request: Request) -> FakeJob:
        """Note what was asked for."""
        self.submitted.append(request)
        return FakeJob(request.name, self.problem, self.done)

    def doctor(self) -> dict[str, list[dict[str, str]]]:
        """One backend that works, and one that does not."""
        return {"bubblewrap": [], "vm": [{"what": f"No KVM {EVIL}", "hint": "Ask for it."}]}


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()


@pytest.fixture
def app(manager: FakeManager) -> Flask:
    """The pages as an app, with what they take from the manager's other parts."""
    app = Flask("manager_app")
    app.extensions["manager"] = manager
    app.register_blueprint(pages.blueprint)
    vendor = Path(pages.__file__).with_name("static") / "vendor"
    app.add_url_rule("/static/vendor/<path:name>", "vendor", lambda name: send_from_directory(vendor, name))
    app.register_error_handler(ProblemError, lambda error: (error.what, error.status))
    app.jinja_env.globals.update(csrf_token=lambda: "the-csrf-token", csp_nonce=lambda: "the-nonce")
    return app


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


def version(text: str) -> str:
    """What the next look is to name."""
    match = re.search(r'id="since" name="since" value="([^"]+)"', text)
    assert match is not None
    return match[1]


def names(text: str) -> list[str]:
    """The cards in a page, in their order."""
    return re.findall(r'<li id="card-([^"]+)"', text)


# The overview


def test_a_card_tells_all_that_is_seen(client: FlaskClient, manager: FakeManager) -> None:
    terminal = Terminal("m", 160, 48, "\x1b[31mred\x1b[0m")
    process = Process(3.4, 100 << 20, 5)
    manager.sandboxes = [
        seen("shop", activity="busy", process=process, usage=USAGE, terminal=terminal, frame="9x9-ab c")
    ]
    text = client.get("/").text
    for part in (
        *("shop", "bubblewrap", "/srv/shop", "busy", '<span class="fg-1">red</span>', "columns-160", "1M"),
        *("$12.50", "3 %", "100 MiB", "/api/sandboxes/idshop/screenshot?width=480&amp;mark=9x9-ab%20c"),
    ):
        assert part in text


@pytest.mark.parametrize(
    "each,words",
    [
        (seen("a", activity="idle"), "idle"),
        (seen("a", activity="busy"), "busy"),
        (seen("a", activity="waiting", waiting_for="leave to run it"), "leave to run it"),
        (seen("a", activity="waiting"), "waiting for you"),
        (seen("a"), "running"),
        (seen("a", job="start"), "starting"),
        (seen("a", job="stop", activity="waiting"), "stopping"),
        (seen("a", job="delete"), "being deleted"),
        (seen("a", "stopped"), "It does not run."),
        (seen("a", "dead", {"exit_code": 137, "reason": "killed"}), "137"),
        (seen("a", "dead", terminal=Terminal("m", 80, 24, "\x1b[31mlast words\n\n")), "last words"),
        (Seen({"name": "a", "status": "unreadable", "problem": "spec.json is missing", "folder": "/x"}), "is missing"),
    ],
)
def test_a_card_says_what_is_the_matter(client: FlaskClient, manager: FakeManager, each: Seen, words: str) -> None:
    manager.sandboxes = [each]
    assert words in client.get("/").text
    assert client.get("/sandboxes/a").status_code == 200


def test_what_comes_from_inside_is_inert(client: FlaskClient, manager: FakeManager) -> None:
    terminal = Terminal("m", 80, 24, EVIL)
    view = {"project_dir": EVIL, "agent_args": [EVIL], "skipped": {EVIL: EVIL}, "reason": EVIL, "attach_command": EVIL}
    usage = {**USAGE, "by_model": {EVIL: TOKENS}, "cost": {"usd": 1, "as_of": "", "unpriced": [EVIL]}}
    manager.sandboxes = [
        seen("a", "running", view, activity="waiting", waiting_for=EVIL, terminal=terminal, usage=usage, frame=EVIL),
        seen("b", "dead", view, terminal=terminal),
        Seen({"name": "c", "status": "unreadable", "problem": EVIL, "folder": EVIL}),
    ]
    for path in ("/", "/live", *(f"/sandboxes/{name}{more}" for name in "abc" for more in ("", "/live"))):
        text = client.get(path).text
        assert CLEAN in text
        assert "<script>" not in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_the_policy_of_these_pages_is_kept(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a", activity="waiting", usage=USAGE, frame="f", terminal=Terminal("m", 80, 24, "x"))]
    for path in ("/", "/new", "/sandboxes/a"):
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\ssrc=)", text)
        assert not re.search(r"""\s(style|on[a-z]+|hx-on[^=]*)\s*=""", text)
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
        assert "javascript:" not in text
        for form in re.findall(r"<form method=\"post\".*?</form>", text, re.DOTALL):
            assert 'name="csrf_token" value="the-csrf-token"' in form


def test_no_sandbox_yet(client: FlaskClient) -> None:
    text = client.get("/").text
    assert "There is no sandbox yet" in text
    assert "curl -H" in text


@pytest.mark.parametrize(
    "query,expected",
    [
        ("", ["wait", "box", "old", "vm1"]),
        ("sort=name", ["box", "old", "vm1", "wait"]),
        ("sort=age", ["vm1", "box", "wait", "old"]),
        ("sort=tokens", ["box", "old", "vm1", "wait"]),
        ("sort=cpu", ["vm1", "box", "old", "wait"]),
        ("q=SRV/v", ["vm1"]),
        ("q=alice+box", ["box"]),
        ("q=nothing", []),
        ("status=stopped", ["old"]),
        ("backend=vm", ["vm1"]),
        ("waiting=1", ["wait"]),
        ("status=odd&backend=odd&sort=odd&waiting=odd", ["wait", "box", "old", "vm1"]),
    ],
)
def test_filter_and_order(client: FlaskClient, manager: FakeManager, query: str, expected: list[str]) -> None:
    manager.sandboxes = [
        seen("box", usage=USAGE),
        seen("old", "stopped", {"created_at": "2026-01-01T00:00:00.000+00:00"}),
        seen("vm1", "running", {"backend": "vm", "created_at": "2026-11-24"}, process=Process(80, 1, 1)),
        seen("wait", activity="waiting"),
    ]
    assert names(client.get(f"/?{query}").text) == expected
    assert names(client.get(f"/live?{query}").text) == expected


# Live


def test_nothing_new_is_nothing_sent(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a"), seen("b")]
    since = version(client.get("/").text)
    assert client.get("/live", query_string={"since": since}).status_code == 204
    # Looked at anew, and the same; and jitter that is not shown.
    manager.sandboxes = [seen("a"), seen("b")]
    assert client.get("/live", query_string={"since": since}).status_code == 204


def test_only_what_changed_is_sent(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a"), seen("b"), seen("c")]
    since = version(client.get("/").text)
    manager.sandboxes = [seen("a"), seen("b", activity="busy")]
    answer = client.get("/live", query_string={"since": since}).text
    assert names(answer) == ["a", "b"]
    assert '<li id="card-a" data-keep></li>' in answer
    assert "/srv/b" in answer
    assert "/srv/a" not in answer
    assert 'hx-swap-oob="morph"' in answer
    assert client.get("/live", query_string={"since": version(answer)}).status_code == 204


def test_a_change_of_order_moves_what_stays_as_it_is(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a"), seen("b")]
    since = version(client.get("/").text)
    manager.sandboxes = [seen("a"), seen("b", activity="waiting")]
    answer = client.get("/live", query_string={"since": since}).text
    assert names(answer) == ["b", "a"]
    assert "1 waiting for you" in answer


@pytest.mark.parametrize("since", ["", "0", "x.y", "0badcafe.1", "." * 5000, "9" * 9999, "é", "-1.-1"])
def test_a_version_of_elsewhere_means_all(client: FlaskClient, manager: FakeManager, since: str) -> None:
    manager.sandboxes = [seen("a")]
    assert "/srv/a" in client.get("/live", query_string={"since": since}).text


def test_a_card_is_rendered_once_for_all_and_again_when_it_changed() -> None:
    board, rendered = Board(), list[str]()

    def render(card: Card) -> Markup:
        rendered.append(card.name)
        return Markup("card")

    def look(*sandboxes: Seen) -> None:
        board.shown(sandboxes, Choice(), "", render)

    for _ in range(3):
        look(seen("a", process=Process(1.0, 1 << 20, 1)), seen("b"))
    look(seen("a", process=Process(1.2, (1 << 20) + 4096, 1)), seen("b"))
    assert rendered == ["a", "b"]
    look(seen("a", process=Process(9.0, 1 << 20, 1)), seen("b"))
    look(seen("b"))
    assert rendered == ["a", "b", "a"]


def test_the_host_is_live_too(client: FlaskClient) -> None:
    text = client.get("/live/system").text
    assert text.count("<polyline") == 6


# A new sandbox


def filled(**more: str) -> dict[str, str]:
    """The form as a browser sends it when only what is needed was typed."""
    on = {f"grants.{name}": "1" for name, default in GRANT_DEFAULTS.items() if default}
    usual = {"backend": "bubblewrap", "toolchain": "auto", "agent": "claude", "geometry": "1920x1080", "network": "1"}
    return {"name": "new", "project_dir": "/srv/new", **usual, **on, **more}


def sent(client: FlaskClient, **more: str) -> TestResponse:
    """The answer to the form."""
    return client.post("/new", data=filled(**more))


def test_the_form_has_every_field_and_grant(client: FlaskClient) -> None:
    text = client.get("/new").text
    for name in set(Spec.__dataclass_fields__) - {"grants", "mounts", "limits", "container", "vm"}:
        assert f'name="{name}"' in text
    for name in (*GRANT_DEFAULTS, "ssh"):
        assert f'name="grants.{name}"' in text
    assert 'name="vm.memory" value="2048" min="256"' in text
    assert "reads ~/.ssh, private keys included" in text


def test_what_the_host_lacks_is_told_before(client: FlaskClient) -> None:
    text = client.get("/new/problems").text
    assert "works here" in text
    assert f"No KVM {CLEAN}" in text


def test_a_sandbox_is_made(client: FlaskClient, manager: FakeManager) -> None:
    answer = sent(client, api_key="sk-1")
    assert (answer.status_code, answer.location) == (303, "/sandboxes/new")
    request = manager.submitted[0]
    assert (request.name, request.state, request.api_key) == ("new", "started", "sk-1")
    assert request.params is not None
    assert Spec(project_dir="/srv/new") == parse(request.params)


def test_all_that_can_be_asked_for(client: FlaskClient, manager: FakeManager) -> None:
    form: dict[str, Any] = {
        **filled(backend="vm", user=" bob ", agent_args="--model\r\nopus 4\r\n", env="A=1\nB=x=y", resume="1"),
        "vm.memory": "512",
        "vm.cpus": "",
        "vm.accel": "tcg",
        "container.user_namespace": "1",
        "grants.audio": "1",
        "mount_source": ["/data", "", "/more"],
        "mount_target": ["/in", "", ""],
        "mount_mode": ["rw", "ro", "ro"],
    }
    del form["network"], form["grants.ssh"]
    client.post("/new", data=form)
    spec = parse(manager.submitted[0].params or {})
    assert (spec.backend, spec.user, spec.network, spec.resume) == ("vm", "bob", False, True)
    assert (spec.agent_args, spec.env) == (["--model", "opus 4"], {"A": "1", "B": "x=y"})
    assert spec.vm == {"accel": "tcg", "memory": 512, "cpus": 2, "guest": "/usr/local/lib/claude-sandbox/guest"}
    assert spec.grants == {"ssh": False, "audio": True}
    assert [(each.source, each.target, each.mode) for each in spec.mounts] == [
        ("/data", "/in", "rw"),
        ("/more", "/more", "ro"),
    ]


@pytest.mark.parametrize(
    "typed,field",
    [
        ({"name": "no name"}, "name"),
        ({"name": ""}, "name"),
        ({"project_dir": "relative"}, "project_dir"),
        ({"project_dir": ""}, "project_dir"),
        ({"geometry": "huge"}, "geometry"),
        ({"env": "no equals"}, "env"),
        ({"backend": "chroot"}, "backend"),
        ({"backend": "vm", "vm.memory": "9" * 5000}, "vm.memory"),
        ({"backend": "vm", "vm.memory": "much"}, "vm.memory"),
        ({"mount_source": "/x", "mount_target": "/proc", "mount_mode": "ro"}, "mounts"),
    ],
)
def test_an_error_stands_at_its_field(
    client: FlaskClient, manager: FakeManager, typed: dict[str, str], field: str
) -> None:
    answer = sent(client, agent_args="as typed", api_key="sk-secret", **typed)
    assert answer.status_code == 422
    assert f'id="wrong-{field}"' in answer.text
    assert "as typed" in answer.text
    assert "sk-secret" not in answer.text
    assert not manager.submitted


def test_what_the_engine_says_is_shown_with_what_was_typed(client: FlaskClient, manager: FakeManager) -> None:
    manager.problem = {"status": 409, "title": "Conflict", "detail": f"It exists {EVIL}", "hint": "Choose another."}
    answer = sent(client, api_key="sk-secret", user="<script>")
    assert answer.status_code == 409
    assert f"It exists {CLEAN}" in answer.text
    assert "Choose another." in answer.text
    assert "<script>" not in answer.text
    assert "sk-secret" not in answer.text


def test_what_takes_long_is_told_of_on_its_page(client: FlaskClient, manager: FakeManager) -> None:
    manager.done = False
    assert sent(client).location == "/sandboxes/new?job=a1"
    manager.sandboxes, manager.done = [seen("new", job="start")], True
    manager.problem = {"status": 422, "title": "…", "detail": "The guest did not come up.", "hint": ""}
    for path in ("/sandboxes/new?job=a1", "/sandboxes/new/live?job=a1"):
        assert "The guest did not come up." in client.get(path).text
    manager.sandboxes = []
    assert client.get("/sandboxes/new/live?job=a1").headers["HX-Redirect"] == "/sandboxes/new?job=a1"
    answer = client.get("/sandboxes/new?job=a1")
    assert (answer.status_code, answer.text) == (422, "The guest did not come up.")


# One sandbox


def test_a_page_tells_all(client: FlaskClient, manager: FakeManager) -> None:
    view = {
        "mounts": [{"source": "/data", "target": "/in", "mode": "rw"}],
        "attach_command": "tmux attach",
        "network": False,
        "pid": 42,
    }
    manager.sandboxes = [seen("shop", "running", view, usage=USAGE, frame="f", process=Process(1, 1, 1))]
    text = client.get("/sandboxes/shop").text
    for part in (
        *("has your login to Claude", "<b>gh</b>: it is not there", "<code>/data</code> as <code>/in</code>"),
        *("has no network", "tmux attach", "42", "claude-opus-4-8", "≥ $12.50", "2026-10-24", "vendor.model:0"),
        *("still to be read", '<rect class="t-read"', "screenshot?width=960&amp;mark=f"),
        *('data-socket="/ws/sandboxes/idshop/terminal"', 'data-socket="/ws/sandboxes/idshop/logs"'),
    ):
        assert part in text


def test_a_page_is_sent_again_only_where_it_changed(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a")]
    since = version(client.get("/sandboxes/a/live").text)
    assert client.get("/sandboxes/a/live", query_string={"since": since}).status_code == 204
    manager.sandboxes = [seen("a", activity="waiting")]
    assert "It waits for you" in client.get("/sandboxes/a/live", query_string={"since": since}).text
    manager.sandboxes = []
    assert client.get("/sandboxes/a/live").headers["HX-Redirect"] == "/"
    assert client.get("/sandboxes/a").status_code == 404


@pytest.mark.parametrize(
    "action,data,state,purge,place",
    [
        ("start", {}, "started", False, "/sandboxes/a"),
        ("stop", {"purge": "1"}, "stopped", False, "/sandboxes/a"),
        ("delete", {}, "absent", False, "/"),
        ("delete", {"purge": "1"}, "absent", True, "/"),
    ],
)
def test_acts(
    client: FlaskClient,
    manager: FakeManager,
    action: str,
    data: dict[str, str],
    state: str,
    purge: bool,
    place: str,
) -> None:
    manager.sandboxes = [seen("a")]
    answer = client.post(f"/sandboxes/ida/{action}", data=data)
    assert (answer.status_code, answer.location) == (303, place)
    assert manager.submitted == [Request("a", state, purge=purge)]


def test_an_act_that_fails_says_why(client: FlaskClient, manager: FakeManager) -> None:
    manager.sandboxes = [seen("a")]
    manager.problem = {
        "status": 409,
        "title": "Conflict",
        "detail": "Another process changed it.",
        "hint": "Try again.",
    }
    answer = client.post("/sandboxes/a/stop")
    assert answer.status_code == 409
    assert "Another process changed it." in answer.text


@pytest.mark.parametrize("path", ["/sandboxes/a/purge", "/sandboxes/a/start/x"])
def test_no_other_acts(client: FlaskClient, path: str) -> None:
    assert client.post(path).status_code == 404


# Figures


@pytest.mark.parametrize(
    "number,expected",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.0 KiB"),
        (300 << 20, "300 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 62, "4194304.0 TiB"),
    ],
)
def test_size(number: float, expected: str) -> None:
    assert cards.size(number) == expected


@pytest.mark.parametrize(
    "number,expected",
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_600, "1M"),
        (4_560_000, "4.56M"),
        (2e13, "20T"),
    ],
)
def test_count(number: float, expected: str) -> None:
    assert cards.count(number) == expected


@pytest.mark.parametrize("usd,expected", [(0, "$0.00"), (0.001, "< $0.01"), (0.01, "$0.01"), (1234.5, "$1,234.50")])
def test_money(usd: float, expected: str) -> None:
    assert cards.money(usd) == expected


@pytest.mark.parametrize("values", [[], [1.0], [0.0] * 9, [float("nan"), float("inf"), -5.0], list(range(1000))])
def test_a_sparkline_stays_in_its_box(values: list[float]) -> None:
    svg = cards.sparkline(values, 100)
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", svg)
    assert 2 <= len(points) <= 500
    assert all(0 <= float(x) <= 100 and 0 <= float(y) <= 24 for x, y in points)


def test_bars_are_few_and_stacked() -> None:
    usage = {**USAGE, "history": [{"at": 600 * n, **TOKENS} for n in range(1008)]}
    chart = cards.bars(cards.Usage.of(usage))
    assert 12 <= len(chart) <= 120
    assert sum(bar.total for bar in chart) == 1008 * sum(TOKENS.values())
    assert all(bar.x + bar.width <= 100 for bar in chart)
    assert cards.bars(cards.Usage.of({**USAGE, "history": []})) == []


# In a browser

# As the manager sends it (see security); the nonce is one for all, for this is not what is tried here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-the-nonce'; img-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
AXE = Path(__file__).parents[2] / ".cache/static/node_modules/axe-core/axe.min.js"
NOTE = """
    window.refused = []; window.notes = [];
    addEventListener("securitypolicyviolation", (event) => refused.push(`${event.effectiveDirective} ${event.sample}`));
    window.Notification = class {
        constructor(title) { notes.push(title); }
        addEventListener() {}
        static permission = "granted";
        static async requestPermission() { return "granted"; }
    };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this host."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """Where the pages are served, with the policy under which they have to work."""

    @app.after_request
    def _restrict(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that notes what the policy refused."""
    context = browser.new_context()
    context.add_init_script(NOTE)
    yield context.new_page()
    context.close()


def various() -> list[Seen]:
    """Sandboxes of every kind, with texts that no page should obey."""
    terminal = Terminal("m", 160, 48, f"\x1b[1;38;2;215;119;87m{EVIL}\x1b[0m\n" * 48)
    used = Process(12.0, 300 << 20, 7)
    return [
        seen("busy", activity="busy", process=used, usage=USAGE, terminal=terminal),
        seen("dead", "dead", {"exit_code": 1, "reason": EVIL}, terminal=terminal),
        seen("long", "stopped", {"project_dir": "/srv/" + "x" * 400, "attach_command": "tmux " + "y" * 400}),
        Seen({"name": "odd", "status": "unreadable", "problem": EVIL, "folder": "/x"}),
        seen("starts", "stopped", job="start"),
        seen("waits", activity="waiting", waiting_for=EVIL, process=used, usage=USAGE, terminal=terminal),
    ]


@pytest.mark.parametrize("width,scheme", [(360, "light"), (1440, "dark")])
@pytest.mark.parametrize("path", ["/", "/new", *(f"/sandboxes/{name}" for name in ("waits", "dead", "long", "odd"))])
def test_everybody_can_use_it(
    page: Page, manager: FakeManager, address: str, path: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    manager.sandboxes = various()
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    ran: list[Dialog] = []
    page.on("dialog", lambda dialog: ran.append(dialog))  # noqa: PLW0108 - Playwright marks it
    page.goto(address + path, wait_until="load")
    page.wait_for_selector(".loading", state="detached")
    assert ran == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("refused") == []
    # By the debugger, which the policy does not hold.
    page.context.new_cdp_session(page).send("Runtime.evaluate", {"expression": AXE.read_text()})
    violations = page.evaluate("axe.run().then((found) => found.violations)")
    assert [
        (each["id"], each["nodes"][0]["html"]) for each in violations if each["impact"] in ("serious", "critical")
    ] == []


def test_the_overview_follows_what_happens(page: Page, manager: FakeManager, address: str) -> None:
    manager.sandboxes = [seen("a", activity="busy"), seen("b", activity="busy"), seen("c")]
    page.goto(address)
    page.click("#notify")
    page.evaluate("document.querySelector('#card-a h2').same = true")
    manager.sandboxes = [seen("a", activity="busy"), seen("b", activity="waiting", waiting_for=EVIL)]
    page.wait_for_selector("#card-c", state="detached")
    assert page.title() == "(1) Claude sandboxes"
    cards_now = "[...document.querySelectorAll('#cards > li')].map((card) => card.id)"
    assert page.evaluate(cards_now) == ["card-b", "card-a"]
    assert page.evaluate("document.querySelector('#card-a h2').same")
    assert "/srv/a" in page.inner_text("#card-a")
    assert page.evaluate("notes") == ["b is waiting for you"]
    assert page.inner_text("#said") == "b is waiting for you."
    page.fill("#q", "srv/a")
    page.wait_for_url("**/?q=srv%2Fa")
    page.wait_for_selector("#card-b", state="detached")
    assert page.evaluate("refused") == []


def test_a_lost_connection_is_told(page: Page, manager: FakeManager, address: str) -> None:
    manager.sandboxes = [seen("a")]
    page.goto(address)
    page.context.set_offline(True)
    page.wait_for_selector("#lost", timeout=15_000)
    page.context.set_offline(False)
    page.wait_for_selector("#lost", state="hidden", timeout=25_000)


def test_deleting_is_asked_about(page: Page, manager: FakeManager, address: str) -> None:
    manager.sandboxes = [seen("a")]
    page.goto(f"{address}/sandboxes/a")
    page.focus("[data-dialog=ask-delete]")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert manager.submitted == []
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/")
    assert manager.submitted == [Request("a", "absent", purge=True)]


def test_a_terminal_is_watched_until_it_is_taken_over(page: Page, manager: FakeManager, address: str) -> None:
    connections: list[str] = []
    typed: list[str | bytes] = []

    def serve(socket: WebSocketRoute) -> None:
        connections.append(socket.url)
        socket.on_message(lambda message: typed.append(message))  # noqa: PLW0108 - Playwright marks it
        socket.send(json.dumps({"size": [80, 24]}))
        socket.send(b"\x1b[38;2;215;119;87mcoloured\x1b[0m \x1b]8;;javascript:alert(1)\x07<b>link</b>\x1b]8;;\x07")

    page.route_web_socket(re.compile("/terminal"), serve)
    manager.sandboxes = [seen("a")]
    page.goto(f"{address}/sandboxes/a")
    page.wait_for_selector(".xterm-rows :text('coloured')")
    assert "coloured <b>link</b>" in page.inner_text(".xterm-rows")
    assert page.evaluate("getComputedStyle(document.querySelector('.xterm-rows span')).color") == "rgb(215, 119, 87)"
    page.click("#xterm")
    page.keyboard.type("not yet")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#xterm')") is None
    page.click("#take-over")
    page.wait_for_selector("#give-back")
    assert page.inner_text("#terminal-mode") == "You are typing into it"
    page.keyboard.type("ls")
    page.keyboard.press("Control+Shift+G")
    page.wait_for_selector("#take-over:focus")
    assert b"".join(each for each in typed if isinstance(each, bytes)) == b"ls"
    assert ["write=1" in each for each in connections] == [False, True, False]
    assert page.evaluate("refused") == []


def test_a_connection_that_ends_says_why_and_comes_again(page: Page, manager: FakeManager, address: str) -> None:
    connections: list[str] = []

    def serve(socket: WebSocketRoute) -> None:
        connections.append(socket.url)
        socket.send(json.dumps({"size": [80, 24]}))
        if len(connections) == 1:
            socket.send(json.dumps({"ended": EVIL}))
            socket.close()

    page.route_web_socket(re.compile("/terminal"), serve)
    manager.sandboxes = [seen("a")]
    page.goto(f"{address}/sandboxes/a")
    page.wait_for_selector("#terminal-mode:text('alert(1)')")
    page.wait_for_selector("#terminal-mode:text('Watching')")
    assert len(connections) == 2


def test_a_log_is_text_and_bounded(page: Page, manager: FakeManager, address: str) -> None:
    def serve(socket: WebSocketRoute) -> None:
        for _ in range(7):
            socket.send(json.dumps({"lines": ["<img src=x>"] * 1000, "next": "n"}))
        socket.send(json.dumps({"lines": ["the last"], "next": "n"}))

    page.route_web_socket(re.compile("/logs"), serve)
    manager.sandboxes = [seen("a")]
    page.goto(f"{address}/sandboxes/a")
    page.wait_for_selector("#lines :text('the last')")
    assert page.locator("#lines > *").count() == 5000
    assert page.locator("#lines img").count() == 0
    assert page.evaluate("lines.scrollHeight - lines.scrollTop - lines.clientHeight") < 2
