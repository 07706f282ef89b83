# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages for people: an overview, a form for a new sandbox, and a page for each. They stay live by polling."""

from __future__ import annotations

import dataclasses
import hashlib
import re
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

from . import ansi, cards
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


@dataclasses.dataclass(frozen=True)
class Input:
    """One field of the form. name: as the form sends it. options: what a fixed set of keys has, for a mapping."""

    name: str
    kind: str
    value: Any
    label: str = ""
    hint: str = ""
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] = (0, 0)
    backend: str = ""


# What people ask for mostly, in that order; all other fields are under "More".
_FIRST = ("project_dir", "backend", "user", "agent_args", "network")
_WORDS: Mapping[str, tuple[str, str]] = {
    "project_dir": ("Project directory", "The directory of this host that it may change, as /srv/webshop."),
    "backend": ("Backend", "What keeps it in: namespaces, a container, or a machine of its own."),
    "user": ("Account", "Whose sandbox it is. Empty: the account that owns the project."),
    "agent_args": ("Arguments for the agent", "One a line, as --model, or a first prompt."),
    "network": ("Network", "Off, it has only a loopback of its own."),
    "toolchain": ("Programs", "Where its programs come from."),
    "rootfs": ("Tree of programs", "For programs from a tree made for sandboxes."),
    "agent": ("Agent", "claude, shell, or a program and its arguments; one word a line."),
    "resume": ("Resume", "Goes on with the project's last conversation at each start."),
    "env": ("Variables", "NAME=VALUE, one a line. They are no place for secrets."),
    "geometry": ("Screen", "WIDTHxHEIGHT in pixels."),
    "glx": ("OpenGL", "Drawn by the processor."),
    "container.user_namespace": ("Ids of its own", "Its root is nobody on this host."),
    "vm.accel": ("Acceleration", "auto uses KVM where it is there."),
    "vm.memory": ("Memory, MiB", ""),
    "vm.cpus": ("Processors", ""),
    "vm.guest": ("Kernel and initial file system", "The folder that `make guest` filled."),
}
_SPECIAL = ("grants", "mounts")  # have parts of the form of their own


@blueprint.get("/new")
def new() -> str:
    """The form for a new sandbox."""
    return _form(MultiDict())


@blueprint.post("/new")
def create() -> AnyResponse | tuple[str, int]:
    """Make a sandbox as the form says, or show the form again with what is wrong."""
    try:
        asked = _asked(request.form)
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
    inputs = _inputs(typed)
    names = ("name", *(each.name for each in inputs), *_SPECIAL)
    return render_template(
        "new.html",
        first=[each for each in inputs if each.name in _FIRST],
        more=[each for each in inputs if each.name not in _FIRST],
        typed=typed,
        mounts=[*_typed_mounts(typed), ("", "", "ro")],
        grants=[(name, grants.TABLE[name].words, _is_on(typed, name)) for name in spec.GRANT_DEFAULTS],
        withheld=spec.ROOT_WITHHELD,
        error={"field": _field_of(what, names), "what": what, "hint": hint} if what else None,
    )


def _inputs(typed: Mapping[str, str]) -> list[Input]:
    """The form's fields, those first that are asked for mostly."""
    found = []
    for field in dataclasses.fields(spec.Spec):
        kind, options = field.metadata["kind"], field.metadata.get("options")
        if field.name in _SPECIAL:
            continue
        if isinstance(options, Mapping):
            found += [_option(f"{field.name}.{name}", option, typed) for name, option in options.items()]
        else:
            value = _value(field.name, kind, _default(field), typed)
            words = _WORDS.get(field.name, (field.name, ""))
            found.append(Input(field.name, kind, value, *words, field.metadata.get("choices", ())))
    return sorted(found, key=lambda each: _FIRST.index(each.name) if each.name in _FIRST else len(_FIRST))


def _option(name: str, option: spec.Option, typed: Mapping[str, str]) -> Input:
    value = _value(name, option.kind, option.default, typed)
    words = _WORDS.get(name, (name, ""))
    return Input(name, option.kind, value, *words, option.choices, option.limits, name.partition(".")[0])


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default if field.default is not dataclasses.MISSING else ""


def _value(name: str, kind: str, default: Any, typed: Mapping[str, str]) -> Any:
    """What the form shows in a field: what was typed, else the default."""
    if kind == "bool":
        return name in typed if typed else default
    if name in typed:
        return typed[name]
    if kind == "list":
        return "\n".join(default)
    return default or ""


def _is_on(typed: Mapping[str, str], grant: str) -> bool:
    return f"grants.{grant}" in typed if typed else spec.GRANT_DEFAULTS[grant]


def _field_of(what: str, names: tuple[str, ...]) -> str:
    """The field that an error of the engine is about: it begins with its name, or it is not about one."""
    if "is no name for a sandbox" in what:
        return "name"
    word = re.match(r"[a-z_.]+", what)
    found = word[0].rstrip(".") if word else ""
    return found if found in names else found.partition(".")[0] if found.partition(".")[0] in names else ""


def _asked(form: MultiDict[str, str]) -> Request:
    """What the form asks for. Raises SandboxError where it cannot be."""
    params: dict[str, Any] = {}
    for field in dataclasses.fields(spec.Spec):
        options = field.metadata.get("options")
        if field.name in _SPECIAL:
            continue
        if isinstance(options, Mapping):
            # What is for another backend is not shown, and not meant.
            if field.name == form.get("backend"):
                params[field.name] = {
                    name: _parsed(f"{field.name}.{name}", option.kind, form) for name, option in options.items()
                }
        else:
            params[field.name] = _parsed(field.name, field.metadata["kind"], form)
    # As by default is as if it were not said: the defaults of root's sandboxes are others.
    params["grants"] = {
        name: f"grants.{name}" in form
        for name, default in spec.GRANT_DEFAULTS.items()
        if (f"grants.{name}" in form) != default
    }
    params["mounts"] = [
        {"source": source, "target": target or None, "mode": mode} for source, target, mode in _typed_mounts(form)
    ]
    spec.parse(params)
    return Request(spec.check_name(form.get("name", "").strip()), params=params, api_key=form.get("api_key") or None)


def _parsed(name: str, kind: str, form: Mapping[str, str]) -> Any:
    """A field as the engine takes it; None where nothing was typed."""
    if kind == "bool":
        return name in form
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if not text:
        return None
    if kind == "list":
        return [line for line in text.split("\n") if line]
    if kind == "dict":
        return dict(_variable(line) for line in text.split("\n") if line.strip())
    if kind == "int":
        return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
    return text


def _variable(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        raise SandboxError("env has a line without =.", "Give NAME=VALUE, one a line.")
    return name.strip(), value


def _typed_mounts(form: MultiDict[str, str]) -> list[tuple[str, str, str]]:
    rows = zip(form.getlist("mount_source"), form.getlist("mount_target"), form.getlist("mount_mode"), strict=False)
    return [(source.strip(), target.strip(), mode) for source, target, mode in rows if source.strip() or target.strip()]


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
