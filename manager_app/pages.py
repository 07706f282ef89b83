# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages for people: an overview, a form for a new sandbox, and a page for each. They stay live by polling."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any, cast

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask.blueprints import BlueprintSetupState
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from claude_sandbox import grants, spec
from claude_sandbox.errors import SandboxError
from claude_sandbox.sandboxes import Request

from . import ansi, cards, form
from .cards import Board, Card, Choice, Shown
from .jobs import Job
from .manager import current
from .problems import ProblemError

_WAIT_SECONDS = 20.0  # for what usually takes a part of one; what takes longer is told of on the sandbox's page
_TAIL = 12  # lines of a terminal that ended
_STATES = {"stop": "stopped", "start": "started", "delete": "absent"}

blueprint = Blueprint("pages", __name__)


@blueprint.record_once
def _set_up(state: BlueprintSetupState) -> None:
    state.app.extensions["board"] = Board()
    state.app.jinja_env.filters.update(
        size=cards.size, count=cards.count, money=cards.money, when=_when, inert=cards.inert
    )
    state.app.jinja_env.globals.update(
        bars=cards.bars, sparkline=cards.sparkline, size_class=ansi.size_class, tail_lines=_TAIL
    )


def _when(epoch: float) -> str:
    """A time in ISO 8601 and UTC, as pages hand it to browsers, which show it in their own zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


# The overview


@blueprint.get("/")
def index() -> str:
    """A card for each sandbox."""
    choice = Choice.of(request.args)
    return render_template("index.html", shown=_shown(choice, ""), choice=choice, cards=cards, spec=spec, **_system())


@blueprint.get("/live")
def live() -> Response | str:
    """What of the cards has changed since the look that `since` stands for."""
    choice = Choice.of(request.args)
    since = request.args.get("since", "")
    shown = _shown(choice, since)
    if shown.version == since:
        return Response(status=204)
    return render_template("live.html", shown=shown, choice=choice)


@blueprint.get("/live/system")
def live_system() -> str:
    """The host's figures as they are now."""
    return render_template("system.html", **_system())


def _shown(choice: Choice, since: str) -> Shown:
    board = cast(Board, current_app.extensions["board"])
    return board.shown(current().watch.all(), choice, since, _card)


def _card(card: Card) -> Markup:
    return Markup(render_template("card.html", card=card))  # noqa: S704 - a template escapes what it is given


def _system() -> dict[str, Any]:
    system = current().system
    return {"now": system.now(), "history": system.history()}


# A new sandbox


@blueprint.get("/new")
def new() -> str:
    """The form for a new sandbox."""
    return _form(MultiDict())


@blueprint.post("/new")
def create() -> AnyResponse | tuple[str, int]:
    """Make a sandbox as the form says, or show the form again with what is wrong."""
    try:
        asked = form.asked(request.form)
    except SandboxError as error:
        return _form(request.form, error.what, error.hint), 422
    job = current().submit(asked)
    job.wait(_WAIT_SECONDS)
    if job.problem is not None:
        return _form(request.form, job.problem["detail"], job.problem.get("hint", "")), job.problem["status"]
    return _to_page(job)


@blueprint.get("/new/problems")
def host_problems() -> str:
    """What on this host keeps each backend from working; it takes a moment to look."""
    return render_template("problems.html", problems=current().doctor())


def _form(typed: MultiDict[str, str], what: str = "", hint: str = "") -> str:
    inputs = form.inputs(typed)
    names = ("name", *(each.name for each in inputs), *form.SPECIAL)
    return render_template(
        "new.html",
        first=[each for each in inputs if each.name in form.FIRST],
        more=[each for each in inputs if each.name not in form.FIRST],
        typed=typed,
        mounts=[*form.mounts(typed), ("", "", "ro")],
        grants=[(name, grants.TABLE[name].words, form.is_on(typed, name)) for name in spec.GRANT_DEFAULTS],
        withheld=spec.ROOT_WITHHELD,
        error={"field": form.field_of(what, names), "what": what, "hint": hint} if what else None,
    )


# One sandbox


@blueprint.get("/sandboxes/<ref>")
def sandbox(ref: str) -> str:
    """A sandbox with its terminal, screen, log, usage, and what it may reach."""
    return _page(ref)


@blueprint.get("/sandboxes/<ref>/live")
def live_sandbox(ref: str) -> Response:
    """The parts of a sandbox's page that change, where they have since the look that `since` stands for."""
    try:
        card = Card.of(current().watch.one(ref))
    except ProblemError as error:
        if error.status != 404:
            raise
        # Where it was to be made and could not be, its page says why.
        place = (
            url_for(".index") if _problem_of_job() is None else url_for(".sandbox", ref=ref, job=request.args["job"])
        )
        return Response(status=204, headers={"HX-Redirect": place})
    text = render_template("sandbox_live.html", card=card, problem=_problem_of_job())
    version = hashlib.blake2s(text.encode(), digest_size=8).hexdigest()
    if request.args.get("since") == version:
        return Response(status=204)
    return Response(render_template("sandbox_version.html", version=version) + text)


@blueprint.post("/sandboxes/<ref>/<any(stop, start, delete):action>")
def act(ref: str, action: str) -> AnyResponse | tuple[str, int]:
    """Stop, start or delete a sandbox."""
    name = str(current().watch.one(ref).view["name"])
    job = current().submit(Request(name, _STATES[action], purge=action == "delete" and "purge" in request.form))
    job.wait(_WAIT_SECONDS)
    if job.problem is not None:
        return _page(ref, job.problem), job.problem["status"]
    if action == "delete" and job.done:
        return redirect(url_for(".index"), 303)
    return _to_page(job)


def _page(ref: str, problem: Mapping[str, Any] | None = None) -> str:
    problem = problem or _problem_of_job()
    try:
        card = Card.of(current().watch.one(ref, 0))
    except ProblemError as error:
        if error.status != 404 or problem is None:
            raise
        raise ProblemError(problem["status"], problem["detail"], problem.get("hint", "")) from None
    return render_template("sandbox.html", card=card, problem=problem, job=request.args.get("job"))


def _to_page(job: Job) -> AnyResponse:
    """To the page of a job's sandbox, which tells how it went where that is not known yet."""
    return redirect(url_for(".sandbox", ref=job.name, job=None if job.done else job.id), 303)


def _problem_of_job() -> Mapping[str, Any] | None:
    """What became of the job that the page's address names, where that is nothing good."""
    identity = request.args.get("job")
    if not identity:
        return None
    try:
        return current().jobs.get(identity).problem
    except ProblemError:
        return None
