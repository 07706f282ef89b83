# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands between the manager and whoever calls it: docs/manager-security.md tells it for operators.

Every request passes `_GATES`, one after the other; the first that answers refuses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import cast

from flask import Flask, Response, current_app, g, redirect, request
from itsdangerous import BadSignature, Signer

from . import login, problems
from .config import Config
from .login import Login
from .peer import Kind, Peer, Peers
from .problems import ProblemError

BODY_LIMIT = 1 << 20
PLACES = 64
_PATH_LIMIT = 1024
_QUERY_LIMIT = 4096

_SAFE = ("GET", "HEAD", "OPTIONS")
_HOST_RULE = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]{1,5})?\Z")
# A manager that answers is no secret, and who watches over it has no token.
_HEALTH = "/healthz"
_OPEN = ("/login", _HEALTH)
_OPEN_BELOW = ("/login/", "/static/")
_FOR_PROGRAMS = ("/api", "/ws", "/metrics")
_SEEN = (Kind.OUTSIDE, Kind.UNSEEN)

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in "accelerometer camera display-capture geolocation gyroscope magnetometer microphone midi "
        "payment serial usb".split()
    ),
    # Not no-referrer: with it browsers say "Origin: null" of a form's own page, which is what others say, too.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Nothing that was for one caller is to lie in a cache for another; views of public files say otherwise.
    "Cache-Control": "no-store",
}
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "manifest-src 'self'"
)


class Places:
    """How many may do something at once that holds a thread as long as it lasts."""

    def __init__(self, number: int = PLACES) -> None:
        self._lock = threading.Lock()
        self._free = number

    @property
    def full(self) -> bool:
        """Whether nobody else can come in now."""
        return self._free <= 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One of them, as long as this lasts. Raises ProblemError (503) where there is none."""
        with self._lock:
            if self.full:
                raise ProblemError(503, *_FULL)
            self._free -= 1
        try:
            yield
        finally:
            with self._lock:
                self._free += 1


_FULL = ("Too many terminals and logs are open.", "Close some, then try again.")

_FOR_INSIDE = (
    403,
    "The manager does not answer programs inside a sandbox or container.",
    "A browser from Flatpak is one of them: use another.",
)


@dataclasses.dataclass(frozen=True)
class _Guard:
    """What the gates of one app go by."""

    config: Config
    login: Login
    peers: Peers
    places: Places
    csrf: Signer


def protect(app: Flask, config: Config) -> None:
    """Have every request to an app checked, and every answer carry what browsers are to obey.

    To be called before anything else is added to the app, so that nothing comes before it.
    """
    logins = Login(config)
    csrf = Signer(logins.key("csrf"), salt="csrf", key_derivation="hmac", digest_method=hashlib.sha256)
    app.extensions["login"] = logins
    app.extensions["security"] = _Guard(config, logins, Peers(), Places(), csrf)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.before_request(_pass)
    app.after_request(_finish)
    app.add_template_global(csrf_token)
    app.add_template_global(csp_nonce)


def refusal(app: Flask, connection: socket.socket) -> Response | None:
    """The answer for whoever is inside a sandbox, to be given before anything is read; None for all others."""
    guard: _Guard | None = app.extensions.get("security")
    if guard is None or guard.peers.of(connection).kind is not Kind.INSIDE:
        return None
    answer = _refuse(*_FOR_INSIDE)
    answer.headers.update(_HEADERS)
    return answer


def places() -> contextlib.AbstractContextManager[None]:
    """One of the places for WebSockets of the app that handles this request.

    Entering it raises ProblemError (503) where all are taken.
    """
    return _guard().places.held()


def csrf_token() -> str:
    """What a form of this page has to send along as `csrf_token`, or a script as X-CSRF-Token."""
    browser = _browser() or _new_browser()
    return _csrf_of(browser)


def csp_nonce() -> str:
    """What a <style> of this page has to carry as its nonce."""
    if "csp_nonce" not in g:
        g.csp_nonce = secrets.token_urlsafe(16)
    return cast(str, g.csp_nonce)


def _guard() -> _Guard:
    return cast(_Guard, current_app.extensions["security"])


def _pass() -> Response | None:
    g.peer, g.entry, g.by_token = Peer(Kind.UNKNOWN), None, False
    return next((answer for gate in _GATES if (answer := gate()) is not None), None)


def _refuse(status: int, what: str, hint: str = "") -> Response:
    """The answer for whoever is not to get as far as the app's own errors."""
    return problems.response(status, what, hint)


# By which name


def _check_host() -> Response | None:
    """A page elsewhere may have its own name lead here (DNS rebinding): the browser then takes us for a part of it.

    The port is not compared, for a tunnel changes it.
    """
    match = _HOST_RULE.match(request.environ.get("HTTP_HOST", "").lower())
    if match is not None and match[1] in _guard().config.hosts:
        return None
    return _refuse(421, "This manager is not called by that name.", "Add the name to MANAGER_HOSTS if it is yours.")


# By whom


def _check_peer() -> Response | None:
    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    peer = g.peer = _guard().peers.of(connection)
    if peer.kind is Kind.INSIDE:
        # Also with the token: a browser shows its cookies to all ports of a host, so an agent may have come by one.
        return _refuse(*_FOR_INSIDE)
    if peer.kind is Kind.GONE:
        return _refuse(403, "The connection was closed before it could be told whose it was.")
    if _guard().login.needed or request.path == _HEALTH:
        return None
    return _check_account(peer)


def _check_account(peer: Peer) -> Response | None:
    """Where there is no token: whether the caller is this very account, or root."""
    if peer.kind is Kind.UNKNOWN and current_app.testing:
        return None
    hint = "Set MANAGER_TOKEN_FILE, and show the token."
    if peer.kind is Kind.DOUBTFUL:
        what = "It cannot be told which program calls, and it may be one inside a sandbox."
        return _refuse(403, what, hint)
    if peer.kind not in _SEEN:
        return _refuse(403, "It cannot be told who calls.", hint)
    if peer.uid not in (0, os.geteuid()):
        return _refuse(403, f"Account {peer.uid} calls, and this manager is another's.", hint)
    return None


# How much


def _check_size() -> Response | None:
    if len(request.path) > _PATH_LIMIT or len(request.query_string) > _QUERY_LIMIT:
        return _refuse(414, "The address is too long.")
    if (request.content_length or 0) > BODY_LIMIT:
        # One whose length is not announced is cut off when it is read: see MAX_CONTENT_LENGTH.
        return _refuse(413, f"The body is longer than {BODY_LIMIT} bytes.")
    if _is_websocket() and _guard().places.full:
        return _refuse(503, *_FULL)
    return None


def _is_websocket() -> bool:
    return "websocket" in request.headers.get("Upgrade", "").lower() or _is_below("/ws")


def _is_below(*prefixes: str) -> bool:
    return any(request.path == prefix or request.path.startswith(f"{prefix}/") for prefix in prefixes)


# From which page


def _check_origin() -> Response | None:
    """Whether it is a page of ours that has the browser call, or a person, or a program that is no browser.

    Also pages on other ports of this host are others: agents serve some.
    """
    what = _crossed() if request.method not in _SAFE or _is_websocket() else _embedded()
    return None if what is None else _refuse(403, what, "Behind a proxy, have it pass on Host and X-Forwarded-Proto.")


def _crossed() -> str | None:
    """Why something may not be done, or a WebSocket opened."""
    site, origin = _site(), request.headers.get("Origin")
    if site not in (None, "same-origin", "none") or _is_foreign(origin):
        return "A page of another origin asked for this."
    if origin is not None:
        return None
    if _is_websocket():
        return "A browser names the page that opens a WebSocket, and this did not." if request.cookies else None
    browser = request.cookies or any(name.startswith("HTTP_SEC_FETCH_") for name in request.environ)
    return "A browser says which page asks for this, and this did not." if browser and site is None else None


def _embedded() -> str | None:
    """Why something may not be had; whoever follows a link to us, or types it, may."""
    mode, destination = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest", "document")
    if _is_foreign(request.headers.get("Origin")):
        return "A page of another origin asked for this."
    if _site() in (None, "same-origin", "none") or (mode == "navigate" and destination == "document"):
        return None
    return "This cannot be a part of a page of another origin."


def _site() -> str | None:
    return request.headers.get("Sec-Fetch-Site")


def _is_foreign(origin: str | None) -> bool:
    return origin is not None and origin.lower() != f"{request.scheme}://{request.headers['Host']}".lower()


# With which right


def _check_login() -> Response | None:
    guard = _guard()
    if not guard.login.needed:
        return None
    kind, _, shown = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        g.by_token = guard.login.is_token(shown.strip())
        return None if g.by_token or _is_open() else _unauthorized(login.refused("This is not the token."))
    g.entry = _entry()
    if g.entry is not None or _is_open():
        return None
    if request.method in ("GET", "HEAD") and not _is_websocket() and not _is_below(*_FOR_PROGRAMS):
        return cast(Response, redirect("/login", 303))
    return _unauthorized(ProblemError(401, "A token is needed.", "Send it as Authorization: Bearer TOKEN, or log in."))


def _is_open() -> bool:
    return request.path in _OPEN or request.path.startswith(_OPEN_BELOW)


def _entry() -> login.Entry | None:
    """The login that the browser's cookie stands for, where it may be used over this connection."""
    logins = _guard().login
    entry = logins.entry(request.cookies.get(logins.cookie("login"), ""))
    # Who logged in over a connection that was beyond doubt does so again; who cannot be told now may have stolen it.
    return None if entry is None or (entry.found and g.peer.kind is Kind.DOUBTFUL) else entry


def _unauthorized(problem: ProblemError) -> Response:
    answer = problems.response(problem.status, problem.what, problem.hint)
    if problem.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in problem.more:
        answer.headers["Retry-After"] = str(problem.more["retry_after"])
    return answer


# In which form


def _check_body() -> Response | None:
    """A form of another page can send any body but JSON named as such."""
    if request.method in _SAFE or not _is_below("/api"):
        return None
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if (has_body or request.content_type) and request.mimetype != "application/json":
        return _refuse(415, "The body is not JSON.", "Send JSON, as Content-Type: application/json.")
    return None


def _check_form() -> Response | None:
    if request.method in _SAFE or _is_below("/api") or g.by_token:
        return None
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token", "")
    browser = _browser()
    if browser is not None and hmac.compare_digest(given.encode(), _csrf_of(browser).encode()):
        return None
    # By the app's own error page: a person sees this.
    raise ProblemError(403, "This form is too old, or none of this manager's.", "Load the page again, then repeat it.")


def _browser() -> str | None:
    """The random value that this browser was given."""
    if "browser" in g:
        return cast(str, g.browser)
    guard = _guard()
    try:
        return guard.csrf.unsign(request.cookies.get(guard.login.cookie("csrf"), "")).decode()
    except BadSignature:
        return None


def _new_browser() -> str:
    g.browser = secrets.token_urlsafe(16)
    return cast(str, g.browser)


def _csrf_of(browser: str) -> str:
    """The login is in it: what was given before it, or to somebody else, is void."""
    entry = "" if g.entry is None else g.entry.id
    return hmac.digest(_guard().login.key("form"), f"{browser} {entry}".encode(), "sha256").hex()


# Back


def _finish(response: Response) -> Response:
    guard = _guard()
    if "browser" in g:
        response.set_cookie(
            guard.login.cookie("csrf"),
            guard.csrf.sign(g.browser).decode(),
            path="/",
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", _CONTENT_SECURITY_POLICY.format(nonce=csp_nonce()))
    return response


_GATES = (_check_host, _check_peer, _check_size, _check_origin, _check_login, _check_body, _check_form)
