# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The REST API: what it takes and gives is declared in schemas, and the engine does it in a process of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from apispec import BasePlugin
from flask import Flask, Response, request, url_for
from flask_smorest import Api, Blueprint
from webargs.flaskparser import FlaskParser

from claude_sandbox.sandboxes import Request

from . import problems, schemas
from .jobs import Job
from .manager import Manager, current
from .pictures import Picture
from .problems import ProblemError

_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,3})(?:$|[,;\s])")
_WAIT_SECONDS = 20.0  # for what usually takes a part of one
_LONGEST_WAIT = 120.0
_JSON = "application/json"


class _Parser(FlaskParser):
    """Also takes what Python refuses to read for no JSON: too deep in itself, or a number of thousands of digits."""

    def load_json(self, req: Any, schema: Any) -> Any:
        """What a body holds. One longer than the limit that did not say so was cut off there: this reads on."""
        req.get_data()
        req.stream.read(1)
        try:
            return super().load_json(req, schema)
        except (RecursionError, ValueError):
            raise ProblemError(400, "The body is no JSON that can be read.") from None


class _Blueprint(Blueprint):
    ARGUMENTS_PARSER = _Parser()


blueprint = _Blueprint("api", __name__, url_prefix="/api", description="The sandboxes of this host")
_REF: dict[str, Any] = {
    "in": "path",
    "name": "ref",
    "description": "A sandbox's name, its id, or the beginning of its id.",
    "schema": {"type": "string", "pattern": f"^{schemas.NAME}$"},
}
_JOB: dict[str, Any] = {
    "in": "path",
    "name": "identity",
    "description": "A job's id.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_BINARY = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_LOCATION = {"Location": {"required": True, "description": "Where to ask for it.", "schema": {"type": "string"}}}
_ETAG = {"ETag": {"required": True, "description": "For If-None-Match.", "schema": {"type": "string"}}}
# What any request may be answered with, what one that changes something, what one about a sandbox, and what a body.
_ALWAYS = (401, 403, 414, 421, 500)
_CHANGING = (409, 413, 415, 422, 503)
_ABOUT_ONE = (404, 409, 422, 503)
_WITH_BODY = (400,)
_CAUSES: Mapping[int, str] = {
    400: "The body is not JSON",
    401: "A token is needed, or a login",
    403: "Whoever calls, or the page that has the browser call, may not",
    404: "There is none of that name or id",
    409: "The sandbox's state is in the way, or the id could mean several",
    413: "The body is too long",
    414: "The address is too long",
    415: "The body is not declared as JSON",
    421: "The manager is not called by that name",
    422: "What is asked for cannot be",
    500: "The manager made a mistake",
    503: "Too much is under way, or nothing can be seen just now",
}


class _Problems(BasePlugin):
    """Tells in the document of the errors that the operations share."""

    def operation_helper(self, path: str | None = None, operations: Any = None, **_kwargs: Any) -> None:
        """Add to each operation what it may be answered with."""
        for method, operation in (operations or {}).items():
            statuses = {*_ALWAYS}
            statuses.update(_CHANGING if method in ("post", "delete") else ())
            statuses.update(_ABOUT_ONE if "{ref}" in str(path) else ())
            statuses.update(_WITH_BODY if "requestBody" in operation else ())
            for status in sorted(statuses):
                operation["responses"].setdefault(str(status), _told(status))


def _told(status: int) -> dict[str, Any]:
    problem = {"$ref": "#/components/schemas/Problem"}
    return {"description": _CAUSES[status], "content": {problems.MEDIA_TYPE: {"schema": problem}}}


def _problem(status: int) -> dict[str, Any]:
    """An error that one operation has and others have not, for alt_response."""
    return {
        "status_code": status,
        "schema": schemas.Problem,
        "content_type": problems.MEDIA_TYPE,
        "description": _CAUSES[status],
    }


class _Api(Api):
    """Has every error told as a problem, and told of in the OpenAPI document as it is."""

    ERROR_SCHEMA = schemas.Problem
    # Each operation names its own.
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_responses(self) -> None:
        """The one that flask-smorest itself refers to, where it checks what it is given."""
        self.spec.components.response(HTTPStatus.UNPROCESSABLE_ENTITY.name, _told(422), lazy=True)
        self.spec.components.schema("Problem", schema=schemas.Problem)

    def _register_error_handlers(self) -> None:
        """Errors are turned into answers in one place, for pages too (see app)."""


def register(app: Flask, version: str) -> None:
    """Add the API to an app, and its OpenAPI document at /api/openapi.json."""
    manager: Manager = app.extensions["manager"]
    app.config |= {
        "API_TITLE": "Claude sandboxes",
        "API_VERSION": version,
        # 3.0 cannot say of a reference that it may be null.
        "OPENAPI_VERSION": "3.1.0",
        "OPENAPI_URL_PREFIX": "/api",
        "OPENAPI_JSON_PATH": "openapi.json",
        "API_SPEC_OPTIONS": {
            "info": {"description": "Errors are problem JSON (RFC 9457); other methods are answered with 405."},
            "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
            "security": [{"token": []}] if manager.config.token else [],
        },
    }
    _Api(app, spec_kwargs={"extra_plugins": [_Problems()]}).register_blueprint(blueprint)


@blueprint.get("/sandboxes")
@blueprint.response(200, schemas.Sandbox(many=True))
@blueprint.alt_response(**_problem(422))
def all_sandboxes() -> Response:
    """All sandboxes, by name"""
    return Response(current().roster.text(), content_type=_JSON)


@blueprint.post("/sandboxes")
@blueprint.arguments(schemas.NewSandbox)
@blueprint.response(201, schemas.Sandbox, headers=_LOCATION)
@blueprint.alt_response(200, schema=schemas.Sandbox, description="It was there already; what differed is changed")
@blueprint.alt_response(202, schema=schemas.Job, description="It is being made: see Location", headers=_LOCATION)
def new_sandbox(body: dict[str, Any]) -> Response:
    """Make a sandbox and start it

    One that is there already and as asked for is left alone. A virtual machine is made in the background, unless
    the header Prefer: wait=SECONDS says how long to wait for it; others unless it says respond-async.
    """
    asked = Request(
        body["name"],
        params=schemas.spec_of(body),
        on_change=body["on_change"],
        api_key=body.get("api_key"),
        secret_env=body.get("secret_env"),
    )
    return _submitted(asked, slow=body.get("backend") == "vm")


@blueprint.get("/sandboxes/<ref>", parameters=[_REF])
@blueprint.response(200, schemas.Sandbox)
def one_sandbox(ref: str) -> Response:
    """One sandbox, by its name, its id, or the beginning of its id"""
    return Response(current().roster.get(ref).text + b"\n", content_type=_JSON)


@blueprint.delete("/sandboxes/<ref>", parameters=[_REF])
@blueprint.arguments(schemas.DeleteQuery, location="query")
@blueprint.response(204)
@blueprint.alt_response(202, schema=schemas.Job, description="It is being removed: see Location", headers=_LOCATION)
def delete_sandbox(query: dict[str, Any], ref: str) -> Response:
    """Stop a sandbox and remove it; its project is never touched"""
    name = current().roster.get(ref).record.name
    return _submitted(Request(name, "absent", purge=query["purge"]))


@blueprint.post("/sandboxes/<ref>/stop", parameters=[_REF])
@blueprint.response(200, schemas.Sandbox)
@blueprint.alt_response(202, schema=schemas.Job, description="It is being stopped: see Location", headers=_LOCATION)
def stop_sandbox(ref: str) -> Response:
    """Stop a sandbox; it can be started again"""
    return _submitted(Request(current().roster.get(ref).record.name, "stopped"))


@blueprint.post("/sandboxes/<ref>/start", parameters=[_REF])
@blueprint.response(200, schemas.Sandbox)
@blueprint.alt_response(202, schema=schemas.Job, description="It is being started: see Location", headers=_LOCATION)
def start_sandbox(ref: str) -> Response:
    """Start a sandbox that is stopped or dead, as it is recorded"""
    record = current().roster.get(ref).record
    slow = record.spec is not None and record.spec.backend == "vm"
    return _submitted(Request(record.name), slow)


@blueprint.get("/sandboxes/<ref>/screenshot", parameters=[_REF])
@blueprint.arguments(schemas.FrameQuery, location="query")
@blueprint.response(200, _BINARY, content_type="image/png", headers=_ETAG)
@blueprint.alt_response(200, schema=_BINARY, content_type="image/jpeg", headers=_ETAG)
@blueprint.alt_response(200, schema=_BINARY, content_type="image/webp", headers=_ETAG)
@blueprint.alt_response(304, description="It shows what it showed (If-None-Match)")
def screenshot(query: dict[str, Any], ref: str) -> Response:
    """What a sandbox's screen shows now"""
    record = current().roster.get(ref).record
    known = request.if_none_match.as_set()
    found = current().pictures.get(record, query.get("width"), query["format"], known)
    return _shown(found, query.get("mark"))


def _shown(picture: Picture, mark: str | None) -> Response:
    response = Response(picture.content, content_type=f"image/{picture.kind}")
    response.set_etag(picture.etag)
    # The address names what is shown: it will never show anything else.
    lasting = mark is not None and mark == picture.mark
    response.headers["Cache-Control"] = "private, max-age=86400, immutable" if lasting else "private, no-cache"
    response.make_conditional(request)
    return response


@blueprint.get("/sandboxes/<ref>/screen", parameters=[_REF])
@blueprint.arguments(schemas.ScreenQuery, location="query")
@blueprint.response(200, _TEXT, content_type="text/plain")
def screen(query: dict[str, Any], ref: str) -> Response:
    """What a sandbox's terminal shows now, as text"""
    text = current().ask(current().roster.get(ref).record, "text", history=query["history"])[0]
    return Response(text, content_type="text/plain; charset=utf-8")


@blueprint.get("/sandboxes/<ref>/logs", parameters=[_REF])
@blueprint.arguments(schemas.LogQuery, location="query")
@blueprint.response(200, schemas.Log)
@blueprint.alt_response(200, schema=_TEXT, content_type="text/plain")
def logs(query: dict[str, Any], ref: str) -> Response:
    """The last lines that a sandbox's terminal was sent, or what came since an answer before; JSON or plain text"""
    record = current().roster.get(ref).record
    found = current().ask(record, "log", tail=query["tail"], since=query.get("since"))[0]
    if request.accept_mimetypes.best_match([_JSON, "text/plain"]) == "text/plain":
        text = "".join(f"{line}\n" for line in found["lines"])
        return Response(text, content_type="text/plain; charset=utf-8", headers={"Log-Next": found["next"]})
    return _json(found)


@blueprint.get("/sandboxes/<ref>/metrics", parameters=[_REF])
@blueprint.response(200, schemas.Figures)
def figures(ref: str) -> Response:
    """What a sandbox uses: its processes now, its agent's tokens since it was made, and what the agent does"""
    seen = current().watch.one(ref)
    process = seen.process.__dict__ if seen.process else None
    return _json(
        {
            "status": seen.view["status"],
            "activity": seen.activity,
            "waiting_for": seen.waiting_for,
            "process": process,
            "session": seen.usage,
        }
    )


@blueprint.get("/metrics/system")
@blueprint.response(200, {"type": "object", "additionalProperties": {"type": "number"}})
def system() -> Response:
    """What the host does: CPU, memory, disk, network, load"""
    return _json(current().system.now())


@blueprint.get("/doctor")
@blueprint.response(200, schemas.Doctor)
@blueprint.alt_response(**_problem(422))
@blueprint.alt_response(**_problem(503))
def doctor() -> Response:
    """For each backend what on this host keeps it from working, and what mends it"""
    return _json(current().doctor())


@blueprint.get("/jobs/<identity>", parameters=[_JOB])
@blueprint.response(200, schemas.Job)
@blueprint.alt_response(**_problem(404))
def job(identity: str) -> Response:
    """Work that takes its time"""
    return _json(_job_content(current().jobs.get(identity)))


def _submitted(asked: Request, slow: bool = False) -> Response:
    """The answer to a request that changes a sandbox: what came of it, or where to ask for that later."""
    begun = current().submit(asked)
    if not begun.wait(_patience(slow)):
        response = _json(_job_content(begun), 202)
        response.headers["Location"] = url_for("api.job", identity=begun.id)
        return response
    if begun.problem is not None:
        raise ProblemError(begun.problem["status"], begun.problem["detail"], begun.problem.get("hint", ""))
    if asked.state == "absent":
        return Response(status=204)
    # As it was when the work was done: others may have changed it since, or made another one of that name.
    outcome = begun.outcome or {}
    if outcome.get("sandbox") is None:
        raise ProblemError(404, f"There is no sandbox {asked.name} any more.")
    response = _json(outcome["sandbox"], 201 if "create" in outcome["actions"] else 200)
    response.headers["Location"] = url_for("api.one_sandbox", ref=asked.name)
    return response


def _patience(slow: bool) -> float:
    """How long to wait for work before the answer is 202, in seconds (RFC 7240)."""
    preferred = request.headers.get("Prefer", "")
    match = _WAIT.search(preferred)
    if match:
        return min(float(match[1]), _LONGEST_WAIT)
    return 0.0 if slow or "respond-async" in preferred else _WAIT_SECONDS


def _job_content(found: Job) -> dict[str, Any]:
    outcome = found.outcome or {}
    status = "running" if not found.done else "failed" if found.problem else "done"
    return {
        "id": found.id,
        "action": found.action,
        "name": found.name,
        "status": status,
        "begun_at": found.begun_at,
        "ended_at": found.ended_at,
        "actions": list(outcome.get("actions", ())),
        "warnings": list(outcome.get("warnings", ())),
        "problem": found.problem,
        "sandbox": outcome.get("sandbox"),
    }


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content) + "\n", status=status, content_type=_JSON)
