# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Errors as problem JSON (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response

from claude_sandbox.errors import ConflictError, SandboxError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """An error with the status that it is to be answered with.

    what: what went wrong, and why, in one line. hint: what to do about it. more: members of the answer beside.
    """

    def __init__(self, status: int, what: str, hint: str = "", **more: Any) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.hint = hint
        self.more = more


class UnavailableError(SandboxError):
    """What may be had by asking again: a process that works for the manager has ended, or hangs."""


def response(status: int, what: str, hint: str = "", **more: Any) -> Response:
    """The answer for an error."""
    return answer(content(status, what, hint, **more))


def answer(problem: Mapping[str, Any]) -> Response:
    """The answer that says it."""
    return Response(json.dumps(problem) + "\n", status=problem["status"], content_type=MEDIA_TYPE)


def content(status: int, what: str, hint: str = "", **more: Any) -> dict[str, Any]:
    """The members of a problem: `detail` says what went wrong, `hint` what to do about it."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": what}
    return {**body, **({"hint": hint} if hint else {}), **more}


def crash(error: BaseException) -> dict[str, Any]:
    """The problem for a mistake of ours: what it was stands in the log, and not in the answer."""
    _log.error("a request failed", exc_info=error)
    return content(500, "The manager made a mistake.", "Its log says more.")


def status_of(error: SandboxError) -> int:
    """409 where the sandbox's state is in the way, 503 where a process of ours is, 422 where it can never be."""
    if isinstance(error, UnavailableError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT if isinstance(error, ConflictError) else HTTPStatus.UNPROCESSABLE_ENTITY
