# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The API's words, made from the declarations of the engine: what a module takes, a request takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from claude_sandbox import plan
from claude_sandbox.spec import BACKENDS, NAME_RULE, Option, Spec

_STATUSES = ("running", "stopped", "dead", "unreadable")
_WHOLE_RULE = re.compile(r"-?[0-9]{1,15}")
NAME = NAME_RULE.pattern.removesuffix(r"\Z")
_POSITION = r"[0-9a-f]{1,16}\.[0-9]{1,15}"
_MARK = r"[0-9a-zA-Z._-]{1,80}"


class _Truth(fields.Boolean):
    """true or false, and no word that could mean one of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class _Whole(fields.Integer):
    """A whole number, and not true, which Python takes for 1."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("Must be a whole number.")
        return value


class _Number(fields.Float):
    """A number, and no text that could mean one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Must be a number.")
        return super()._deserialize(value, attr, data, **kwargs)


class _WholeWord(fields.Integer):
    """A whole number in an address, in plain digits; Python also takes 1_0, + 1 and digits of other scripts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not _WHOLE_RULE.fullmatch(value):
            raise ValidationError("Must be a whole number.")
        return super()._deserialize(value, attr, data, **kwargs)


def _matching(pattern: str, **more: Any) -> fields.Field[Any]:
    """Text that this matches as a whole. Not validate.Regexp: to Python a $ is before the last line's end, too."""

    def check(text: str) -> None:
        if not re.fullmatch(pattern, text):
            raise ValidationError("String does not match expected pattern.")

    more["metadata"] = {"pattern": f"^{pattern}$", **more.get("metadata", {})}
    return fields.String(validate=check, **more)


class _Strict(Schema):
    class Meta:
        unknown = RAISE


def _field(field: dataclasses.Field[Any]) -> fields.Field[Any]:
    """What a request may give for a field of the spec; null stands for the default."""
    kind, about = field.metadata["kind"], {"description": field.metadata["help"]}
    default = _default(field)
    if default is dataclasses.MISSING:
        return fields.String(required=True, validate=validate.Regexp(r"^/"), metadata=about)
    more: dict[str, Any] = {"allow_none": True, "metadata": {**about, "default": default}}
    if kind == "bool":
        return _Truth(**more)
    if field.name == "mounts":
        return fields.List(fields.Nested(_MOUNT), **more)
    if field.name == "grants":
        truths: dict[str, fields.Field[Any]] = {name: _Truth(allow_none=True) for name in field.metadata["options"]}
        return fields.Nested(_Strict.from_dict(truths, name="Grants"), **more)
    if isinstance(field.metadata.get("options"), Mapping):
        options = {name: _option(option) for name, option in field.metadata["options"].items()}
        return fields.Nested(_Strict.from_dict(options, name=f"{field.name.capitalize()}Options"), **more)
    if kind == "list":
        return fields.List(fields.String(), **more)
    if kind == "dict":
        return fields.Dict(keys=fields.String(), values=fields.String(), **more)
    choices = field.metadata.get("choices")
    return fields.String(validate=validate.OneOf([*choices, None]) if choices else None, **more)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _option(option: Option) -> fields.Field[Any]:
    more: dict[str, Any] = {"allow_none": True, "metadata": {"default": option.default}}
    if option.kind == "bool":
        return _Truth(**more)
    if option.kind == "int":
        return _Whole(validate=validate.Range(*option.limits), **more)
    if option.kind == "float":
        return _Number(validate=validate.Range(*option.limits), **more)
    return fields.String(validate=validate.OneOf([*option.choices, None]) if option.choices else None, **more)


_MOUNT = _Strict.from_dict(
    {
        "source": fields.String(required=True, validate=validate.Regexp(r"^/")),
        "target": fields.String(allow_none=True),
        "mode": fields.String(validate=validate.OneOf(["ro", "rw"])),
    },
    name="Mount",
)
_SPEC = {field.name: _field(field) for field in dataclasses.fields(Spec)}

NewSandbox = _Strict.from_dict(
    {
        "name": _matching(
            NAME,
            required=True,
            metadata={"description": "1 to 63 letters, digits, _ or -, beginning with a letter or a digit."},
        ),
        **_SPEC,
        "api_key": fields.String(
            allow_none=True, load_only=True, metadata={"description": "The agent's key; never shown again."}
        ),
        "secret_env": fields.Dict(
            keys=fields.String(),
            values=fields.String(),
            allow_none=True,
            load_only=True,
            metadata={"description": "Variables for the agent that are never shown again."},
        ),
        "on_change": fields.String(
            validate=validate.OneOf(plan.ON_CHANGE),
            load_default="fail",
            metadata={"description": "What to do where the sandbox is there already and differs."},
        ),
    },
    name="NewSandbox",
)


def _told(field: dataclasses.Field[Any]) -> fields.Field[Any]:
    """How an answer tells a field of the spec."""
    kind, nullable = field.metadata["kind"], _default(field) is None
    more: dict[str, Any] = {"allow_none": nullable, "metadata": {"description": field.metadata["help"]}}
    if kind == "bool":
        return fields.Boolean(**more)
    if field.name == "mounts":
        return fields.List(fields.Nested(_MOUNT), **more)
    if field.name == "grants":
        return fields.Dict(keys=fields.String(), values=fields.Boolean(), **more)
    if kind == "list":
        return fields.List(fields.String(), **more)
    if kind == "dict":
        return fields.Dict(**more)
    return fields.String(**more)


def _moment(**more: Any) -> fields.Field[Any]:
    # As text: where a sandbox is shown, its view is passed on as the engine made it.
    return fields.String(metadata={"format": "date-time"}, **more)


Sandbox = Schema.from_dict(
    {
        "name": fields.String(required=True),
        "status": fields.String(required=True, validate=validate.OneOf(_STATUSES)),
        "id": fields.String(),
        **{field.name: _told(field) for field in dataclasses.fields(Spec)},
        "created_at": _moment(),
        "started_at": _moment(allow_none=True),
        "stopped_at": _moment(allow_none=True),
        "exit_code": fields.Integer(allow_none=True),
        "reason": fields.String(allow_none=True, metadata={"description": "Why it is dead, where that is known."}),
        "pid": fields.Integer(allow_none=True),
        "pid_xvfb": fields.Integer(allow_none=True),
        "display_num": fields.Integer(allow_none=True),
        "tmux_session": fields.String(allow_none=True),
        "tmux_socket": fields.String(allow_none=True),
        "qemu_qmp_socket": fields.String(allow_none=True),
        "scope": fields.String(allow_none=True, metadata={"description": "The systemd unit that it is in."}),
        "accelerator": fields.String(allow_none=True, metadata={"description": "Of a virtual machine: kvm or tcg."}),
        "attach_command": fields.String(allow_none=True),
        "log": fields.String(metadata={"description": "The file on the host with what the terminal was sent."}),
        "given": fields.List(fields.String(), metadata={"description": "What of the host it was given."}),
        "skipped": fields.Dict(
            keys=fields.String(), values=fields.String(), metadata={"description": "What it was not given, and why."}
        ),
        "problem": fields.String(metadata={"description": "Why a record is unreadable."}),
        "folder": fields.String(metadata={"description": "Where an unreadable record lies."}),
    },
    name="Sandbox",
)

Problem = Schema.from_dict(
    {
        "type": fields.String(required=True),
        "title": fields.String(required=True),
        "status": fields.Integer(required=True),
        "detail": fields.String(required=True, metadata={"description": "What went wrong, and why."}),
        "hint": fields.String(metadata={"description": "What to do about it."}),
        "errors": fields.Dict(metadata={"description": "What is wrong with each part of the request."}),
    },
    name="Problem",
)

Job = Schema.from_dict(
    {
        "id": fields.String(required=True),
        "action": fields.String(required=True),
        "name": fields.String(required=True, metadata={"description": "The sandbox's."}),
        "status": fields.String(required=True, validate=validate.OneOf(["running", "done", "failed"])),
        "begun_at": fields.Float(required=True, metadata={"description": "Seconds since the epoch."}),
        "ended_at": fields.Float(required=True, allow_none=True),
        "actions": fields.List(fields.String(), metadata={"description": "What was done."}),
        "warnings": fields.List(fields.String()),
        "problem": fields.Nested(Problem, allow_none=True),
        "sandbox": fields.Nested(Sandbox, allow_none=True),
    },
    name="Job",
)

Log = Schema.from_dict(
    {
        "lines": fields.List(fields.String(), required=True),
        "next": fields.String(required=True, metadata={"description": "Give it as `since` for what comes after."}),
    },
    name="Log",
)

LogQuery = _Strict.from_dict(
    {
        "tail": _WholeWord(load_default=100, validate=validate.Range(0, 10000)),
        "since": _matching(_POSITION),
    },
    name="LogQuery",
)
FrameQuery = _Strict.from_dict(
    {
        "width": _WholeWord(validate=validate.Range(16, 7680), metadata={"description": "Pixels; all by default."}),
        "format": fields.String(validate=validate.OneOf(["png", "jpeg", "webp"]), load_default="png"),
        "mark": _matching(
            _MARK,
            metadata={"description": "What is shown is kept by the browser for as long as this stays."},
        ),
    },
    name="FrameQuery",
)
ScreenQuery = _Strict.from_dict(
    {"history": _WholeWord(load_default=0, validate=validate.Range(0, 2000))}, name="ScreenQuery"
)
DeleteQuery = _Strict.from_dict(
    {
        # marshmallow has more words for them, which the document does not.
        "purge": fields.Boolean(
            truthy={"true"},
            falsy={"false"},
            load_default=False,
            metadata={"description": "Whether to delete what the project keeps, too."},
        )
    },
    name="DeleteQuery",
)
Process = Schema.from_dict(
    {
        "cpu_percent": fields.Float(metadata={"description": "Of one processor, since the look before."}),
        "memory_bytes": fields.Integer(metadata={"description": "Resident; an upper bound."}),
        "processes": fields.Integer(),
    },
    name="Process",
)
Figures = Schema.from_dict(
    {
        "status": fields.String(required=True, validate=validate.OneOf(_STATUSES)),
        "activity": fields.String(required=True, allow_none=True),
        "waiting_for": fields.String(required=True, allow_none=True),
        "process": fields.Nested(Process, required=True, allow_none=True),
        "session": fields.Dict(
            required=True, allow_none=True, metadata={"description": "The agent's tokens; a lower bound."}
        ),
    },
    name="Figures",
)
HostProblem = Schema.from_dict(
    {"what": fields.String(required=True), "hint": fields.String(required=True)}, name="HostProblem"
)
Doctor = Schema.from_dict(
    {name: fields.List(fields.Nested(HostProblem), required=True) for name in BACKENDS}, name="Doctor"
)


def spec_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the spec in a request."""
    return {name: body[name] for name in _SPEC if name in body}
