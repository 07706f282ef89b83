# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The token, and what stands for it: a browser's cookie, and links that log in once."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import cast

from flask import Blueprint, Response, current_app, g, make_response, redirect, render_template, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer

from .config import Config
from .peer import Kind, Peer
from .problems import ProblemError

COOKIE_SECONDS = 30 * 24 * 3600
LINK_SECONDS = 5 * 60
LINKS = 20
TRIES_A_MINUTE = 10
_LONGEST = 1024  # of what is shown as a token or a code
_FORGOTTEN = 1000  # logins that were ended, kept in mind

blueprint = Blueprint("login", __name__)


class Tries:
    """How often somebody may be wrong: so many times a minute, whoever it is.

    Only what is wrong counts and is put off. So nobody can lock out who knows the token.
    """

    def __init__(self, number: int = TRIES_A_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._number = number
        self._clock = clock
        self._left = float(number)
        self._since = clock()

    def wrong(self) -> int:
        """Note a wrong one. 0, or after how many seconds the next may come."""
        with self._lock:
            now = self._clock()
            self._left = min(self._number, self._left + (now - self._since) * self._number / 60)
            self._since = now
            if self._left < 1:
                return int((1 - self._left) * 60 / self._number) + 1
            self._left -= 1
            return 0


class Links:
    """Codes that log in once, each for a few minutes. Only their digests are kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._until: collections.OrderedDict[bytes, float] = collections.OrderedDict()

    def new(self) -> str:
        """A code. The oldest one is void where there are too many: who asks has logged in, and wants this one."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._until[_digest(code)] = self._clock() + LINK_SECONDS
            while len(self._until) > LINKS:
                self._until.popitem(last=False)
        return code

    def use(self, code: str) -> bool:
        """Whether a code logs in; it does not a second time."""
        with self._lock:
            until = self._until.pop(_digest(code), None)
        return until is not None and self._clock() < until


@dataclasses.dataclass(frozen=True)
class Entry:
    """A login of a browser. found: whether it was seen, when it logged in, what program of this host asked for it."""

    id: str
    found: bool


class Login:
    """Who has shown the token. May be used from any thread."""

    def __init__(self, config: Config) -> None:
        self.needed = config.token is not None
        self.tries = Tries()
        self.links = Links()
        self._lock = threading.Lock()
        self._ended: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._token = _digest(config.token or secrets.token_urlsafe(32))
        # From the token, so that a changed one logs everybody out and a restart nobody.
        self._root = (config.token or secrets.token_urlsafe(32)).encode()
        # Browsers send a host's cookies to all its ports: managers beside each other must not overwrite theirs.
        self._name = self.key("name").hex()[:8] if self.needed else f"{config.port}"
        self._cookies = URLSafeTimedSerializer(
            self.key("login"), salt="login", signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        )

    def key(self, label: str) -> bytes:
        """A key for one purpose."""
        return hmac.digest(self._root, f"claude-sandbox manager: {label}".encode(), "sha256")

    def cookie(self, purpose: str) -> str:
        """The name of this manager's cookie for a purpose."""
        return f"manager_{purpose}_{self._name}"

    def is_token(self, text: str) -> bool:
        """Whether that is the token; never without one configured."""
        return hmac.compare_digest(_digest(text[:_LONGEST]), self._token) and self.needed

    def new_entry(self, peer: Peer) -> str:
        """What a browser's cookie holds after it logged in over that connection."""
        return str(self._cookies.dumps({"id": secrets.token_urlsafe(16), "found": is_found(peer)}))

    def entry(self, cookie: str) -> Entry | None:
        """The login that a cookie stands for, unless it has ended."""
        try:
            found = self._cookies.loads(cookie[:_LONGEST], max_age=COOKIE_SECONDS)
            entry = Entry(str(found["id"]), bool(found["found"]))
        except (BadData, KeyError, TypeError):
            return None
        with self._lock:
            return None if entry.id in self._ended else entry

    def end(self, entry: Entry) -> None:
        """Have a login's cookie stand for nothing any more, also where somebody has copied it."""
        with self._lock:
            self._ended[entry.id] = None
            while len(self._ended) > _FORGOTTEN:
                self._ended.popitem(last=False)


def _digest(text: str) -> bytes:
    # Bytes of Latin-1 come as such letters, and anything else is no token.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def is_found(peer: Peer) -> bool:
    """Whether it is beyond doubt who calls, so that a cookie of theirs is of no use to one inside who hides."""
    return peer.kind not in (Kind.UNSEEN, Kind.DOUBTFUL)


def current() -> Login:
    """The logins of the app that handles this request."""
    return cast(Login, current_app.extensions["login"])


def refused(what: str, status: int = 401) -> ProblemError:
    """The error for a wrong token or code: 429 where there have been too many."""
    wait = current().tries.wrong()
    if wait:
        return ProblemError(429, "There were too many wrong tokens.", f"Wait {wait} seconds.", retry_after=wait)
    return ProblemError(status, what, "Look in the file that MANAGER_TOKEN_FILE names.")


@blueprint.get("/login")
def show() -> Response:
    """The form that asks for the token."""
    if not current().needed or g.entry is not None:
        return cast(Response, redirect("/", 303))
    return make_response(render_template("login.html", error=None))


@blueprint.post("/login")
def enter() -> Response:
    """Log a browser in that sent the token by the form."""
    if not current().needed:
        return cast(Response, redirect("/", 303))
    if not current().is_token(request.form.get("token", "").strip()):
        return _again("This is not the token.")
    return _entered(cast(Response, redirect("/", 303)))


@blueprint.get("/login/<code>")
def follow(code: str) -> Response:
    """Log a browser in by a link.

    The page sends it on, where a redirect would not do: a browser that came from elsewhere does not send a cookie that
    is for the same site alone along with one.
    """
    if not current().needed:
        return cast(Response, redirect("/", 303))
    if request.method == "HEAD":
        # Programs look at links before people do.
        return Response(status=204)
    if not current().links.use(code):
        return _again("This link was used already, or is too old.")
    answer = _entered(make_response(render_template("entered.html")))
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer


@blueprint.post("/logout")
def leave() -> Response:
    """End this browser's login."""
    if g.entry is not None:
        current().end(g.entry)
    answer = cast(Response, redirect(url_for("login.show"), 303))
    answer.delete_cookie(
        current().cookie("login"), path="/", secure=request.is_secure, httponly=True, samesite="Strict"
    )
    return answer


@blueprint.post("/api/login-links")
def link() -> Response:
    """A link that logs a browser in, once."""
    if not current().needed:
        raise ProblemError(409, "No login is needed: this manager has no token.")
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=LINK_SECONDS)
    # The name by which it was called is one of ours, see security.
    url = f"{request.scheme}://{request.headers['Host']}{url_for('login.follow', code=current().links.new())}"
    body = {"url": url, "expires_at": until.isoformat(timespec="seconds")}
    return Response(json.dumps(body) + "\n", status=201, content_type="application/json")


def _entered(answer: Response) -> Response:
    answer.set_cookie(
        current().cookie("login"),
        current().new_entry(g.peer),
        max_age=COOKIE_SECONDS,
        path="/",
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return answer


def _again(error: str) -> Response:
    """The form once more, and why."""
    problem = refused(error, 403)
    answer = make_response(render_template("login.html", error=problem.what), problem.status)
    if problem.status == 429:
        answer.headers["Retry-After"] = str(problem.more["retry_after"])
    return answer
