# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The app: its parts, and how errors are told."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

from flask import Flask, Response, render_template, request, send_from_directory
from werkzeug.exceptions import HTTPException

from claude_sandbox.errors import SandboxError

from . import api, config, live, login, manager, metrics, pages, problems, security
from .config import Config
from .problems import ProblemError

_FOR_PROGRAMS = ("/api/", "/ws/", "/metrics", "/healthz")
_HINTS = {404: "GET /api/openapi.json lists what there is.", 415: "Send JSON, as application/json."}


def create_app(configuration: Config | None = None) -> Flask:
    """The manager as a WSGI app, by default as the variables MANAGER_* say. SandboxError where that cannot be."""
    configuration = configuration or config.from_environ(os.environ)
    app = Flask("manager_app")
    security.protect(app, configuration)
    app.extensions["manager"] = manager.made(configuration)
    app.register_error_handler(Exception, _failed)
    app.register_blueprint(login.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.add_url_rule("/healthz", view_func=_health)
    app.add_url_rule("/static/vendor/<path:name>", "vendor", _vendor)
    api.register(app, version())
    live.register(app)
    return app


def _vendor(name: str) -> Response:
    """A file of the libraries that pages load; they come from npm, and may be elsewhere than our own."""
    return send_from_directory(manager.current().config.static_dir, name, max_age=3600)


def version() -> str:
    """The version that is installed, or what stands for it where it runs from a clone."""
    try:
        return importlib.metadata.version("claude-sandbox")
    except importlib.metadata.PackageNotFoundError:
        return "0+clone"


def _health() -> dict[str, Any]:
    """Whether requests are answered, and the registry can be read."""
    manager.current().roster.all()
    return {"status": "ok", "version": version()}


def _failed(error: Exception) -> Response:
    """Any error, as a problem for programs and as a page for people."""
    if isinstance(error, ProblemError):
        content = problems.content(error.status, error.what, error.hint, **error.more)
    elif isinstance(error, SandboxError):
        content = problems.content(problems.status_of(error), error.what, error.hint)
    elif isinstance(error, HTTPException):
        content = _of_http(error)
    elif isinstance(error, ConnectionError):
        # Whoever called is gone before the request was through: nobody's mistake, and nobody reads this.
        content = problems.content(400, "The connection was closed before the request was through.")
    else:
        content = problems.crash(error)
    headers = error.get_headers() if isinstance(error, HTTPException) else []
    kept = [(name, value) for name, value in headers if name.lower() not in ("content-type", "content-length")]
    if request.path.startswith(_FOR_PROGRAMS):
        response = problems.answer(content)
    else:
        response = Response(render_template("error.html", problem=content), status=content["status"])
    response.headers.extend(kept)
    return response


def _of_http(error: HTTPException) -> dict[str, Any]:
    status = error.code or 500
    # What flask-smorest says of a request that is not as its schema wants it.
    details = getattr(error, "data", {})
    messages = details.get("messages")
    more = {"errors": messages} if isinstance(messages, dict) else {}
    what = _told(messages) if messages else str(error.description)
    return problems.content(status, what, _HINTS.get(status, ""), **more)


def _told(messages: Any) -> str:
    """The first thing that is wrong, in one line."""
    path = []
    while isinstance(messages, dict) and messages:
        name, messages = next(iter(messages.items()))
        path.append(str(name))
    text = messages[0] if isinstance(messages, list) and messages else messages
    where = ".".join(path[1:])[:100]
    return f"{where}: {str(text)[:300]}" if where else str(text)[:300]
