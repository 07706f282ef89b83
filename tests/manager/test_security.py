"""What the manager refuses, and what browsers are told to refuse."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request
from flask.testing import FlaskClient
from jinja2 import DictLoader
from werkzeug.test import TestResponse, run_wsgi_app

from manager_app import login, peer, problems, security
from manager_app.config import Config
from manager_app.peer import Kind, Peer
from manager_app.problems import ProblemError

TOKEN = "a-token-of-these-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TEMPLATES = Path(login.__file__).parent / "templates"
LOGIN_FORM = '<form><input name="csrf_token" value="{{ csrf_token() }}"></form>{{ error or "" }}'
PAGE = '<style nonce="{{ csp_nonce() }}"></style><form><input name="csrf_token" value="{{ csrf_token() }}"></form>'
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(token: str | None) -> Flask:
    """The defence, with a view of each kind behind it."""
    app = Flask("manager_app")
    app.testing = True
    security.protect(
        app, Config("127.0.0.1", 3000, "/nowhere", "/nowhere", token, frozenset(["localhost", "[::1]", "box"]))
    )
    app.register_blueprint(login.blueprint)
    app.register_error_handler(ProblemError, lambda error: problems.response(error.status, error.what, error.hint))
    app.jinja_loader = DictLoader(
        {"login.html": LOGIN_FORM, "entered.html": (TEMPLATES / "entered.html").read_text(encoding="utf-8")}
    )
    views: dict[str, Any] = {
        "/": lambda: render_template_string(PAGE),
        "/healthz": lambda: "well",
        "/metrics": lambda: "1",
        "/api/things": lambda: "[]",
        "/ws/things": lambda: "open",
        "/kept": lambda: Response("x", headers={"Cache-Control": "max-age=60"}),
    }
    for path, view in views.items():
        app.add_url_rule(path, path.replace(".", "_"), view)
    app.add_url_rule("/api/things", "make", lambda: {"got": request.get_json(silent=True)}, methods=["POST", "DELETE"])
    app.add_url_rule("/act", "act", lambda: "done", methods=["POST"])
    return app


@pytest.fixture
def app() -> Flask:
    return made(None)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def plain(app: Flask) -> FlaskClient:
    """One that keeps no cookies, and so sends those of a test."""
    return app.test_client(use_cookies=False)


@pytest.fixture
def guarded() -> Flask:
    """With a token."""
    return made(TOKEN)


@pytest.fixture
def stranger(guarded: Flask) -> FlaskClient:
    """A browser that has not logged in."""
    return guarded.test_client()


def is_problem(answer: TestResponse, status: int) -> bool:
    return (answer.status_code, answer.mimetype, (answer.get_json() or {}).get("status")) == (
        status,
        "application/problem+json",
        status,
    )


def token_of(page: TestResponse) -> str:
    match = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert match is not None
    return match[1]


def logged_in(browser: FlaskClient) -> TestResponse:
    form = {"token": TOKEN, "csrf_token": token_of(browser.get("/login"))}
    return browser.post("/login", data=form, headers={"Origin": "http://localhost"})


def cookie_of(browser: FlaskClient, purpose: str) -> tuple[str, str]:
    """Name and value."""
    name = browser.application.extensions["login"].cookie(purpose)
    found = browser.get_cookie(name)
    assert found is not None
    return name, found.value


# Host

PATHS = ["/", "/healthz", "/api/things", "/ws/things", "/metrics", "/login", "/static/a.css", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
def test_other_names_lead_nowhere(client: FlaskClient, path: str) -> None:
    assert is_problem(client.get(path, headers={"Host": "attacker.example"}), 421)
    assert client.get(path, headers={"Host": "localhost"}).status_code in (200, 303, 404)


@pytest.mark.parametrize("host", ["localhost", "LocalHost:3000", "localhost.:9999", "[::1]", "[::1]:3000", "box:1"])
def test_own_names_lead_here_at_any_port(client: FlaskClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["", "localhost.attacker.example", "attacker.example:localhost", "localhost@attacker.example", "localhost,evil",
     "localhost:3000:1", "localhost..", "127.0.0.1", "::1", "[::1].", "localhost ", "localhost/", "localhost\tx"],
)  # fmt: skip
def test_what_only_looks_like_an_own_name_does_not(client: FlaskClient, host: str) -> None:
    expected = 200 if host == "[::1]." else 421
    assert client.get("/healthz", environ_overrides={"HTTP_HOST": host}).status_code == expected


def test_a_request_without_a_name_is_refused(client: FlaskClient) -> None:
    environ = client.get("/healthz").request.environ
    del environ["HTTP_HOST"]
    assert run_wsgi_app(client.application, environ)[1].startswith("421 ")


# Origin

OWN = "http://localhost"


@pytest.mark.parametrize(
    "headers,allowed",
    [
        ({}, True),
        ({"Origin": OWN}, True),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://localhost:5173"}, False),
        ({"Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://localhost"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": f"{OWN}, {OWN}"}, False),
        ({"Origin": OWN, "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "whatever"}, False),
        ({"Sec-Fetch-Mode": "cors"}, False),
        ({"Cookie": "any=1"}, False),
        ({"Cookie": "any=1", "Origin": OWN}, True),
        ({"Cookie": "any=1", "Sec-Fetch-Site": "same-origin"}, True),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_only_own_pages_and_programs_change_anything(
    plain: FlaskClient, method: str, headers: dict[str, str], allowed: bool
) -> None:
    assert plain.open("/api/things", method=method, headers=headers).status_code == (200 if allowed else 403)


@pytest.mark.parametrize(
    "headers,allowed",
    [
        ({}, True),
        ({"Origin": OWN}, True),
        ({"Origin": OWN, "Cookie": "any=1"}, True),
        ({"Cookie": "any=1"}, False),
        ({"Cookie": "any=1", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "http://localhost:5173"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": OWN}, False),
    ],
)
@pytest.mark.parametrize("path,more", [("/ws/things", UPGRADE), ("/ws/things", {}), ("/kept", UPGRADE)])
def test_only_own_pages_and_programs_open_websockets(
    plain: FlaskClient, path: str, more: dict[str, str], headers: dict[str, str], allowed: bool
) -> None:
    # A view that is none of WebSockets does not go with an upgrade, which is found out after all this.
    assert plain.get(path, headers={**headers, **more}).status_code == ((400 if more else 200) if allowed else 403)


@pytest.mark.parametrize(
    "headers,allowed",
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://localhost:5173"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/things", "/kept"])
def test_other_pages_embed_and_probe_nothing(
    client: FlaskClient, path: str, headers: dict[str, str], allowed: bool
) -> None:
    assert client.get(path, headers=headers).status_code == (200 if allowed else 403)
    if not allowed:
        assert client.options(path, headers=headers).status_code == 403


def test_behind_a_proxy_with_tls_the_origin_is_https(client: FlaskClient) -> None:
    def status(origin: str) -> int:
        return client.post("/api/things", headers={"Origin": origin}, base_url="https://localhost").status_code

    assert (status("https://localhost"), status("http://localhost")) == (200, 403)


# Forms


def test_a_form_needs_what_its_page_was_given(app: Flask) -> None:
    browser, other = app.test_client(), app.test_client()
    mine, others = token_of(browser.get("/")), token_of(other.get("/"))
    headers = {"Origin": OWN}
    assert browser.post("/act", data={"csrf_token": mine}, headers=headers).status_code == 200
    assert browser.post("/act", headers={**headers, "X-CSRF-Token": mine}).status_code == 200
    for wrong in ("", others, mine[:-1], "ä", cookie_of(browser, "csrf")[1]):
        assert is_problem(browser.post("/act", data={"csrf_token": wrong}, headers=headers), 403)
    assert is_problem(browser.post("/act", headers=headers), 403)
    assert is_problem(browser.post("/act", json={"csrf_token": mine}, headers=headers), 403)
    # Nor without the cookie, nor with one made up.
    assert is_problem(app.test_client().post("/act", data={"csrf_token": mine}), 403)
    for cookie in ("", "x", "x.y", "\udcff", cookie_of(browser, "csrf")[1][:-2]):
        forger = app.test_client()
        forger.set_cookie(cookie_of(browser, "csrf")[0], cookie.encode("utf-8", "replace").decode())
        assert is_problem(forger.post("/act", data={"csrf_token": mine}, headers=headers), 403)


def test_pages_of_one_browser_share_the_value(client: FlaskClient) -> None:
    first = client.get("/")
    assert first.headers["Set-Cookie"].endswith("HttpOnly; Path=/; SameSite=Strict")
    second = client.get("/")
    assert token_of(first) == token_of(second)
    assert "Set-Cookie" not in second.headers
    assert "Secure" in client.get("/", base_url="https://box").headers["Set-Cookie"]


def test_what_a_page_was_given_before_the_login_is_void(stranger: FlaskClient) -> None:
    before = token_of(stranger.get("/login"))
    logged_in(stranger)
    assert stranger.post("/act", data={"csrf_token": before}, headers={"Origin": OWN}).status_code == 403
    after = token_of(stranger.get("/"))
    assert stranger.post("/act", data={"csrf_token": after}, headers={"Origin": OWN}).status_code == 200


# Bodies


@pytest.mark.parametrize(
    "kind,status",
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json-patch+json", 415),
        ("application/jsonx", 415),
        ("text/plain; application/json", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_the_api_takes_json_named_as_such(client: FlaskClient, kind: str | None, status: int) -> None:
    answer = client.post("/api/things", data=b'{"a": 1}', content_type=kind)
    assert answer.status_code == status
    assert status == 200 or is_problem(answer, 415)


def test_nobody_needs_a_body(client: FlaskClient) -> None:
    assert client.post("/api/things").status_code == 200
    assert client.post("/api/things", content_type="text/plain").status_code == 415
    assert client.post("/api/things", headers={"Transfer-Encoding": "chunked"}).status_code == 415


def test_bodies_and_addresses_are_bounded(client: FlaskClient, app: Flask) -> None:
    assert is_problem(client.post("/api/things", json={"a": "x" * security.BODY_LIMIT}), 413)
    assert client.post("/api/things", json={"a": "x" * (security.BODY_LIMIT - 100)}).status_code == 200
    # Flask cuts off one whose length was not announced.
    assert app.config["MAX_CONTENT_LENGTH"] == security.BODY_LIMIT == 1 << 20
    assert is_problem(client.get(f"/{'x' * 1024}"), 414)
    assert client.get(f"/{'x' * 1023}").status_code == 404
    assert is_problem(client.get(f"/healthz?{'x' * 4097}"), 414)


# Token


@pytest.mark.parametrize("path", ["/api/things", "/api/nowhere", "/ws/things", "/metrics", "/api"])
def test_programs_need_the_token(stranger: FlaskClient, path: str) -> None:
    answer = stranger.get(path)
    assert is_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert stranger.get(path, headers=BEARER).status_code in (200, 404)
    assert stranger.get(path, headers={"Authorization": f"bearer  {TOKEN}"}).status_code in (200, 404)


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
def test_nothing_else_will_do(stranger: FlaskClient, shown: str) -> None:
    assert is_problem(stranger.get("/api/things", headers={"Authorization": shown}), 401)
    assert is_problem(stranger.post("/api/things", headers={"Authorization": shown}), 401)


def test_people_are_sent_to_log_in(stranger: FlaskClient) -> None:
    for path in ("/", "/nowhere", "/staticx", "/apish", "/loginx", "/healthz/"):
        answer = stranger.get(path)
        assert (answer.status_code, answer.location) == (303, "/login"), path
    assert is_problem(stranger.post("/act", headers={"Origin": OWN}), 401)
    assert is_problem(stranger.get("/", headers=UPGRADE), 401)
    for path in ("/login", "/healthz"):
        assert stranger.get(path).status_code == 200
    assert stranger.get("/static/nothing.css").status_code == 404


def test_a_program_with_the_token_sends_forms_without_more(stranger: FlaskClient) -> None:
    assert stranger.post("/act", headers=BEARER).status_code == 200


def test_a_browser_logs_in_and_out(guarded: Flask) -> None:
    browser, thief = guarded.test_client(), guarded.test_client()
    answer = logged_in(browser)
    assert (answer.status_code, answer.location) == (303, "/")
    (cookie,) = (each for each in answer.headers.getlist("Set-Cookie") if "_login_" in each)
    assert re.search(r"Max-Age=2592000; HttpOnly; Path=/; SameSite=Strict$", cookie)
    assert TOKEN not in cookie
    assert browser.get("/").status_code == browser.get("/api/things").status_code == 200
    assert browser.get("/login").location == "/"
    thief.set_cookie(*cookie_of(browser, "login"))
    assert thief.get("/api/things").status_code == 200
    # It is not logged out by other pages.
    assert browser.post("/logout", headers={"Origin": OWN}).status_code == 403
    form = {"csrf_token": token_of(browser.get("/"))}
    assert browser.post("/logout", data=form, headers={"Origin": OWN}).location == "/login"
    assert browser.get("/").status_code == 303
    assert thief.get("/api/things").status_code == 401


def test_over_tls_the_cookie_is_for_tls(guarded: Flask) -> None:
    browser = guarded.test_client()
    page = browser.get("/login", base_url="https://box")
    form = {"token": TOKEN, "csrf_token": token_of(page)}
    answer = browser.post("/login", data=form, base_url="https://box", headers={"Origin": "https://box"})
    assert "Secure" in answer.headers["Set-Cookie"]


def test_the_wrong_token_is_asked_for_again(stranger: FlaskClient) -> None:
    form = {"token": "wrong", "csrf_token": token_of(stranger.get("/login"))}
    answer = stranger.post("/login", data=form, headers={"Origin": OWN})
    assert answer.status_code == 403
    assert "This is not the token." in answer.text
    assert stranger.post("/login", data={"token": TOKEN}, headers={"Origin": OWN}).status_code == 403
    assert stranger.get("/").status_code == 303


def test_another_token_logs_everybody_out(guarded: Flask) -> None:
    browser = guarded.test_client()
    logged_in(browser)
    value = cookie_of(browser, "login")[1]
    for token, status in ((TOKEN, 200), (f"{TOKEN}2", 401)):
        after = made(token).test_client()
        after.set_cookie(after.application.extensions["login"].cookie("login"), value)
        assert after.get("/api/things").status_code == status


def test_managers_beside_each_other_keep_their_cookies_apart() -> None:
    names = {made(token).extensions["login"].cookie("login") for token in (TOKEN, f"{TOKEN}2", None)}
    assert len(names) == 3


@pytest.mark.parametrize("days,status", [(29, 200), (31, 401)])
def test_a_login_ends_after_a_month(guarded: Flask, monkeypatch: pytest.MonkeyPatch, days: int, status: int) -> None:
    browser = guarded.test_client()
    logged_in(browser)
    real = datetime.datetime.now(datetime.UTC).timestamp()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: real + days * 86400)
    assert browser.get("/api/things", headers={"Cookie": "=".join(cookie_of(browser, "login"))}).status_code == status


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "eyJpZCI6MX0.aaaaaa.bbbbbbbbbbbb", "x" * 3000])
def test_a_cookie_that_was_made_up_is_none(guarded: Flask, value: str) -> None:
    forger = guarded.test_client()
    forger.set_cookie(guarded.extensions["login"].cookie("login"), value)
    assert forger.get("/api/things").status_code == 401


def test_without_a_token_there_is_no_login(client: FlaskClient) -> None:
    assert client.get("/login").location == "/"
    assert client.get("/login/x").location == "/"
    assert is_problem(client.post("/api/login-links"), 409)
    assert client.get("/api/things", headers=BEARER).status_code == 200


# Wrong ones


def test_too_many_wrong_ones_are_put_off_and_the_right_one_is_not(stranger: FlaskClient) -> None:
    statuses = [stranger.get("/metrics", headers={"Authorization": "Bearer no"}) for _ in range(12)]
    assert [each.status_code for each in statuses] == [401] * 10 + [429] * 2
    assert is_problem(statuses[-1], 429)
    assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 60
    assert stranger.get("/metrics", headers=BEARER).status_code == 200
    # A browser's, and a link's, count with them.
    assert stranger.get("/login/x").status_code == 429
    form = {"token": "no", "csrf_token": token_of(stranger.get("/login"))}
    answer = stranger.post("/login", data=form, headers={"Origin": OWN})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]
    assert logged_in(stranger).status_code == 303


def test_wrong_ones_are_forgotten_in_time() -> None:
    clock = Clock()
    tries = login.Tries(10, clock)
    assert [tries.wrong() for _ in range(10)] == [0] * 10
    wait = tries.wrong()
    assert wait > 0
    clock.now += wait
    assert tries.wrong() == 0
    assert tries.wrong() > 0
    clock.now += 3600
    assert [bool(tries.wrong()) for _ in range(11)] == [False] * 10 + [True]


# Links


def new_link(client: FlaskClient) -> str:
    answer = client.post("/api/login-links", headers=BEARER)
    assert answer.status_code == 201
    return str(answer.get_json()["url"])


def test_a_link_logs_in_once(guarded: Flask) -> None:
    program, browser, late = (guarded.test_client() for _ in range(3))
    answer = program.post("/api/login-links", headers={**BEARER, "Host": "box:4711"}).get_json()
    assert re.fullmatch(r"http://box:4711/login/[A-Za-z0-9_-]{43}", answer["url"])
    left = datetime.datetime.fromisoformat(answer["expires_at"]) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(seconds=295) < left <= datetime.timedelta(seconds=301)
    path = answer["url"].removeprefix("http://box:4711")
    # Whoever only looks does not use it up.
    assert browser.head(path).status_code == 204
    entered = browser.get(path)
    assert entered.status_code == 200
    assert 'http-equiv="refresh"' in entered.text
    assert 'href="/"' in entered.text
    assert entered.headers["Referrer-Policy"] == "no-referrer"
    assert browser.get("/").status_code == 200
    again = late.get(path)
    assert again.status_code == 403
    assert "used already" in again.text
    assert late.get("/").status_code == 303


def test_a_link_needs_the_right_to_call(stranger: FlaskClient) -> None:
    assert is_problem(stranger.post("/api/login-links"), 401)
    logged_in(stranger)
    assert stranger.post("/api/login-links", headers={"Origin": OWN}).status_code == 201
    assert stranger.post("/api/login-links", headers={"Origin": "http://localhost:5173"}).status_code == 403


def test_a_link_lasts_five_minutes() -> None:
    clock = Clock()
    links = login.Links(clock)
    early, late = links.new(), links.new()
    clock.now += 299
    assert links.use(early)
    assert not links.use(early)
    clock.now += 1
    assert not links.use(late)


def test_only_so_many_links_are_open() -> None:
    links = login.Links()
    codes = [links.new() for _ in range(21)]
    assert len(links._until) == 20
    assert not links.use(codes[0])
    assert all(links.use(code) for code in codes[1:])


def test_no_code_is_kept() -> None:
    links = login.Links()
    code = links.new()
    assert code not in repr(vars(links))


# Peers: who is who is test_peer's


@pytest.fixture
def comes_from(monkeypatch: pytest.MonkeyPatch) -> list[Peer]:
    """Who calls: what was put there last."""
    who = [Peer(Kind.OUTSIDE, 0)]
    monkeypatch.setattr(peer.Peers, "of", lambda _self, _connection: who[-1])
    return who


@pytest.mark.parametrize(
    "kind,open_status,token_status",
    [
        (Kind.OUTSIDE, 200, 200),
        (Kind.UNSEEN, 200, 200),
        (Kind.DOUBTFUL, 403, 200),
        (Kind.REMOTE, 403, 200),
        (Kind.UNKNOWN, 403, 200),
        (Kind.GONE, 403, 403),
        (Kind.INSIDE, 403, 403),
    ],
)
def test_who_is_answered(
    app: Flask, guarded: Flask, comes_from: list[Peer], kind: Kind, open_status: int, token_status: int
) -> None:
    app.testing = guarded.testing = False
    comes_from.append(Peer(kind, 0))
    for path in ("/", "/api/things", "/ws/things", "/metrics"):
        assert app.test_client().get(path).status_code == open_status
        assert guarded.test_client().get(path, headers=BEARER).status_code == token_status
    refused = kind in (Kind.INSIDE, Kind.GONE)
    assert app.test_client().get("/healthz").status_code == (403 if refused else 200)
    if kind is Kind.INSIDE:
        assert all(guarded.test_client().get(path).status_code == 403 for path in PATHS)


def test_another_account_is_answered_only_with_the_token(app: Flask, guarded: Flask, comes_from: list[Peer]) -> None:
    for kind in (Kind.OUTSIDE, Kind.UNSEEN):
        comes_from.append(Peer(kind, 4242))
        answer = app.test_client().get("/api/things")
        assert is_problem(answer, 403)
        assert "MANAGER_TOKEN_FILE" in answer.text
        assert guarded.test_client().get("/api/things", headers=BEARER).status_code == 200


def test_a_stolen_cookie_is_of_no_use_to_one_who_hides(guarded: Flask, comes_from: list[Peer]) -> None:
    """It was given to a browser that was found, and an agent inside is never found outside."""
    browser = guarded.test_client()
    logged_in(browser)
    comes_from.append(Peer(Kind.DOUBTFUL, 0))
    assert browser.get("/api/things").status_code == 401
    assert browser.get("/").location == "/login"
    comes_from.append(Peer(Kind.UNSEEN, 0))
    assert browser.get("/api/things").status_code == 200


@pytest.mark.parametrize("kind", [Kind.DOUBTFUL, Kind.UNSEEN])
def test_whoever_was_never_found_stays_logged_in(guarded: Flask, comes_from: list[Peer], kind: Kind) -> None:
    """As a browser elsewhere, by way of sshd."""
    comes_from.append(Peer(kind, 0))
    browser = guarded.test_client()
    logged_in(browser)
    comes_from.append(Peer(Kind.DOUBTFUL, 0))
    assert browser.get("/api/things").status_code == 200


# Places


def test_only_so_many_places_are_held() -> None:
    places = security.Places(2)
    with places.held():
        with places.held():
            with pytest.raises(ProblemError) as caught, places.held():
                pass
            assert caught.value.status == 503
        assert not places.full
        with pytest.raises(ZeroDivisionError), places.held():
            raise ZeroDivisionError
        with places.held():
            assert places.full


def test_a_websocket_too_many_is_refused_before_it_opens(app: Flask, client: FlaskClient) -> None:
    guard = app.extensions["security"]
    app.add_url_rule("/taken", "taken", lambda: "free" if not guard.places.full else "full")
    with app.app_context():
        held = [security.places() for _ in range(security.PLACES)]
        for each in held[:-1]:
            each.__enter__()
        assert client.get("/ws/things").status_code == 200
        held[-1].__enter__()
        assert is_problem(client.get("/ws/things"), 503)
        assert client.get("/taken").text == "full"
        held[0].__exit__(None, None, None)
        assert client.get("/ws/things").status_code == 200


# Answers


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api/things", "/healthz"])
@pytest.mark.parametrize("host", ["localhost", "attacker.example"])
def test_browsers_are_told_what_to_refuse(client: FlaskClient, path: str, host: str) -> None:
    headers = client.get(path, headers={"Host": host}).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert not any(name.startswith("Access-Control-") for name, _ in headers)
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    nonce = re.fullmatch(r"'self' 'nonce-([A-Za-z0-9_-]{22})'", policy.pop("style-src"))
    assert nonce is not None
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "img-src": "'self' blob:",
        "connect-src": "'self'",
        "font-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "manifest-src": "'self'",
    }


def test_a_view_decides_how_long_it_is_kept(client: FlaskClient) -> None:
    assert client.get("/kept").headers["Cache-Control"] == "max-age=60"


def test_the_nonce_is_of_the_page_and_new_each_time(client: FlaskClient) -> None:
    pages = [client.get("/") for _ in range(2)]
    nonces = [re.findall(r'nonce="([^"]+)"', page.text)[0] for page in pages]
    assert nonces[0] != nonces[1]
    for page, nonce in zip(pages, nonces, strict=True):
        assert f"'nonce-{nonce}'" in page.headers["Content-Security-Policy"]
