# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manager's REST API: what is asked, and what its refusals mean to a person."""

from __future__ import annotations

import json
import os

from . import __version__
from .config import Target
from .errors import AMBIGUOUS, FAILED, NOT_FOUND, TOKEN, LostError, RemoteError, UnansweredError
from .exchange import Answer, exchange, request
from .link import SECONDS, Link, refused
from .text import inert, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Sandbox = Mapping[str, Any]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_CANDIDATES = 10


class Manager:
    """The manager of one server."""

    def __init__(self, target: Target, environ: Mapping[str, str] | None = None) -> None:
        self.target = target
        self.link = Link(target, os.environ if environ is None else environ)
        self._checked = False

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises RemoteError."""
        return _json(self.call("GET", path))

    def call(self, method: str, path: str, body: object = None, seconds: float = SECONDS, **headers: str) -> Answer:
        """The answer to a request. seconds: timeout for each piece of it. Raises RemoteError where it is an error."""
        content = None if body is None else json.dumps(body).encode()
        answer = self._asked(method, path, content, seconds, headers)
        if answer.status == 401:
            self.link.forget_token()
            answer = self._asked(method, path, content, seconds, headers)
        if answer.status >= 400:
            raise self._problem(answer, path)
        return answer

    def sandboxes(self) -> list[Sandbox]:
        """All of them, by name. Raises RemoteError."""
        found = self.get("/api/sandboxes")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise RemoteError("What answers there is no manager: its list is none.", "Set CLAUDE_REMOTE_PORT.", FAILED)
        return found

    def sandbox(self, ref: str) -> Sandbox:
        """The one that a name, an id or the beginning of an id means. Raises RemoteError: not found, ambiguous."""
        return matching(self.sandboxes(), ref, self.target.host)

    def check(self) -> None:
        """Look who answers, and whether it fits. Raises RemoteError."""
        self._checked = True
        answer = self._sent("GET", "/healthz", None, SECONDS, {})
        try:
            version = str(json.loads(answer.body)["version"])
        except (ValueError, KeyError, TypeError):
            if answer.status >= 400:
                raise self._problem(answer, "/healthz") from None
            what = f"What answers on {self.target.host} at port {self.target.port} is no manager."
            raise RemoteError(what, "Set CLAUDE_REMOTE_PORT to the manager's port.") from None
        if _differ(version, __version__):
            say(f"{self.target.host} runs version {inert(version)[:40]}, this is {__version__}; make them the same.")

    def _asked(
        self, method: str, path: str, content: bytes | None, seconds: float, headers: Mapping[str, str]
    ) -> Answer:
        """One answer. What can be repeated is asked twice where the connection had gone."""
        try:
            return self._sent(method, path, content, seconds, headers)
        except UnansweredError:
            again = method == "GET" and not self.link.is_new
            if not again:
                raise refused(self.link) from None
        except LostError:
            raise
        self.link.open()
        try:
            return self._sent(method, path, content, seconds, headers)
        except UnansweredError:
            raise refused(self.link) from None

    def _sent(
        self, method: str, path: str, content: bytes | None, seconds: float, headers: Mapping[str, str]
    ) -> Answer:
        _ = self.link.facts
        if self.link.is_new and not self._checked:
            self.check()
        with self.link.connect(seconds) as end:
            token = self.link.facts.token
            right = {"Authorization": f"Bearer {token}"} if token else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            common = {"Host": f"localhost:{self.target.port}", "User-Agent": f"claude-remote/{__version__}"}
            return exchange(end, request(method, path, {**common, **right, **named}, content))

    def _problem(self, answer: Answer, path: str) -> RemoteError:
        """A refusal, in the manager's own words where it has some."""
        content = _problem_content(answer)
        what, hint = (inert(content.get(name) or "")[:1000] for name in ("detail", "hint"))
        if answer.status == 401:
            if self.link.facts.token:
                return RemoteError(f"{self.target.host} does not take the token: {what}", _HOW_TO_SHOW_IT, TOKEN)
            return RemoteError(
                f"{self.target.host}'s manager wants a token, and none was found.", _HOW_TO_SHOW_IT, TOKEN
            )
        # A manager's own 404 is a problem about a sandbox or a job; another's is about the address.
        unknown = answer.status == 405 or (answer.status == 404 and (not content or "URL" in what))
        if unknown:
            what = f"The manager of {self.target.host} does not know {path.partition('?')[0]}."
            return RemoteError(what, "It is of another version: make them the same.", FAILED)
        if not content:
            return RemoteError(
                f"{self.target.host} answers with {answer.status}, and not as a manager does.", "", FAILED
            )
        code = NOT_FOUND if answer.status == 404 else FAILED
        return RemoteError(what or f"The manager refuses ({answer.status}).", hint, code, answer.status)


_HOW_TO_SHOW_IT = "Put it in ~/.config/claude-sandbox/token there (mode 600), or set token_file in the settings."


def matching(found: list[Sandbox], ref: str, host: str) -> Sandbox:
    """The sandbox that is meant. An exact name comes first, then an id, then the beginning of one."""
    for key in ("name", "id"):
        exact = [each for each in found if each.get(key) == ref]
        if exact:
            return _addressable(exact[0])
    begun = [each for each in found if ref and str(each.get("id") or "").startswith(ref)]
    if len(begun) == 1:
        return _addressable(begun[0])
    if begun:
        names = ", ".join(f"{inert(each.get('name'))} ({inert(each.get('id'))})" for each in begun[:_CANDIDATES])
        raise RemoteError(f"{inert(ref)} could mean several sandboxes: {names}.", "Give more of the id.", AMBIGUOUS)
    raise RemoteError(f"There is no sandbox {inert(ref)} on {host}.", "claude-remote list shows them.", NOT_FOUND)


def _addressable(sandbox: Sandbox) -> Sandbox:
    name = sandbox.get("name")
    if not isinstance(name, str) or not name or not set(name) <= _NAME:
        raise RemoteError(f"The sandbox's name cannot be used: {inert(name)}.", "Look at it on the server.", FAILED)
    return sandbox


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise RemoteError(
            "What answers there is no manager: it sent no JSON.", "Set CLAUDE_REMOTE_PORT.", FAILED
        ) from None


def _problem_content(answer: Answer) -> dict[str, Any]:
    try:
        content = json.loads(answer.body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) and "detail" in content else {}


def _differ(theirs: str, ours: str) -> bool:
    """Whether versions differ in more than their last part. One that is none, as a clone's, says nothing."""
    parts = [version.split(".")[:2] for version in (theirs, ours)]
    return all(each.isdigit() for each in parts[0]) and len(parts[0]) == 2 and parts[0] != parts[1]
