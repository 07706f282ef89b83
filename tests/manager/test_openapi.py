"""The OpenAPI document, and whether the app that runs is as it says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from claude_sandbox.spec import BACKENDS, GRANT_DEFAULTS, Option, Spec
from tests.manager.served import PLAIN, ROOT, Served

_DOCUMENT = "/api/openapi.json"
_OPERATIONS = (
    "GET /api/sandboxes",
    "POST /api/sandboxes",
    "GET /api/sandboxes/{ref}",
    "DELETE /api/sandboxes/{ref}",
    "POST /api/sandboxes/{ref}/stop",
    "POST /api/sandboxes/{ref}/start",
    "GET /api/sandboxes/{ref}/screenshot",
    "GET /api/sandboxes/{ref}/screen",
    "GET /api/sandboxes/{ref}/logs",
    "GET /api/sandboxes/{ref}/metrics",
    "GET /api/metrics/system",
    "GET /api/doctor",
    "GET /api/jobs/{identity}",
)
_METHODS = ("get", "post", "delete", "put", "patch")
_PROBLEM = "application/problem+json"
_CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
)
_SETTINGS = hypothesis.settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.call("GET", _DOCUMENT).json()
    return found


@pytest.fixture(scope="module")
def described(document: dict[str, Any]) -> BaseSchema:
    return schemathesis.openapi.from_dict(document)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", _OPERATIONS)
def test_the_app_is_as_its_document_says(described: Any, served: Served, label: str, mode: GenerationMode) -> None:
    seen = _statuses(described, served, label, mode)
    # Projects that are made up are not there, so nothing can have been made.
    assert served.engine.registry.names() == []
    if mode is GenerationMode.NEGATIVE and seen:
        assert not any(200 <= status < 300 for status in seen)
    assert seen or mode is GenerationMode.NEGATIVE


@pytest.mark.parametrize("label", [label for label in _OPERATIONS if label.startswith("GET") and "{ref}" in label])
def test_answers_about_a_sandbox_are_as_documented(described: Any, served: Served, label: str) -> None:
    served.make("box", grants={**PLAIN["grants"], "display": True}, geometry="64x64", env={"A": "b"})
    assert 200 in _statuses(described, served, label, GenerationMode.POSITIVE, {"ref": "box"})


def _statuses(described: Any, served: Served, label: str, mode: GenerationMode, of: Any = None) -> set[int]:
    """The statuses of answers to requests that are made up; each answer has been checked."""
    method, path = label.split()
    seen = set()

    @hypothesis.given(case=described[path][method].as_strategy(generation_mode=mode))
    @_SETTINGS
    def call(case: Any) -> None:
        case.path_parameters.update(of or {})
        answer = case.call_and_validate(base_url=served.url, checks=list(_CHECKS), session=served.web, timeout=60)
        seen.add(answer.status_code)

    # Where nothing is taken, nothing can be wrong.
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        call()
    print(label, mode, seen)
    return seen


def test_no_operation_is_left_out(document: dict[str, Any]) -> None:
    found = {f"{method.upper()} {path}" for path, method, _operation in operations(document)}
    assert found == set(_OPERATIONS)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "TRACE", "BREW"])
def test_other_methods_are_refused(document: dict[str, Any], served: Served, method: str) -> None:
    for path, item in document["paths"].items():
        if method.lower() in item:
            continue
        answer = served.call(method, path.format(ref="none", identity="0" * 16))
        assert (answer.status_code, answer.headers["Content-Type"]) == (405, _PROBLEM), path
        allowed = {word.strip().lower() for word in answer.headers["Allow"].split(",")}
        assert allowed - {"head", "options"} == {name for name in item if name in _METHODS}


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
        wanted = {"401", "403", "414", "421", "500"}
        wanted |= {"409", "413", "415", "422", "503"} if method != "get" else set()
        wanted |= {"404", "409", "422", "503"} if "{ref}" in path else set()
        wanted |= {"400"} if "requestBody" in operation else set()
        assert set(errors) >= wanted, (method, path)
        for status, answer in errors.items():
            # The one that flask-smorest adds by itself is a reference.
            told = document["components"]["responses"][answer["$ref"].split("/")[-1]] if "$ref" in answer else answer
            assert list(told["content"]) == [_PROBLEM], (method, path, status)


def test_what_takes_its_time_says_where_to_ask(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert ("202" in operation["responses"]) == (method in ("post", "delete")), path
        if "202" in operation["responses"]:
            assert operation["responses"]["202"]["headers"]["Location"]["required"]


def test_all_that_is_shown_of_a_sandbox_is_documented(document: dict[str, Any], served: Served) -> None:
    known = document["components"]["schemas"]["Sandbox"]["properties"]
    made = served.make("box")
    assert set(made) <= set(known)
    stopped = served.call("POST", "/api/sandboxes/box/stop").json()
    assert set(stopped) <= set(known)
    record = served.state_dir / "sandboxes" / "box" / "spec.json"
    whole = record.read_bytes()
    record.write_bytes(b"torn")
    try:
        assert set(served.engine.views()[0]) <= set(known)
    finally:
        record.write_bytes(whole)


def test_every_field_can_be_asked_for(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["NewSandbox"]["properties"]
    for field in dataclasses.fields(Spec):
        told = properties[field.name]
        assert told["description"] == field.metadata["help"]
        default = field.default_factory() if callable(field.default_factory) else field.default
        assert told.get("default", dataclasses.MISSING) == default, field.name
        if "choices" in field.metadata:
            assert told["enum"] == [*field.metadata["choices"], None]
    assert document["components"]["schemas"]["NewSandbox"]["required"] == ["name", "project_dir"]
    assert document["components"]["schemas"]["NewSandbox"]["additionalProperties"] is False


@pytest.mark.parametrize("name", [name for name in BACKENDS if name in Spec.__dataclass_fields__])
def test_every_option_of_a_backend_can_be_asked_for(document: dict[str, Any], name: str) -> None:
    options: dict[str, Option] = Spec.__dataclass_fields__[name].metadata["options"]
    told = _referred(document, document["components"]["schemas"]["NewSandbox"]["properties"][name])
    assert set(told["properties"]) == set(options)
    assert told["additionalProperties"] is False
    for key, option in options.items():
        each = told["properties"][key]
        assert each["default"] == option.default
        assert each.get("enum") == ([*option.choices, None] if option.choices else None)
        if option.kind == "int":
            assert (each["minimum"], each["maximum"]) == option.limits


def test_every_grant_can_be_asked_for(document: dict[str, Any]) -> None:
    told = _referred(document, document["components"]["schemas"]["NewSandbox"]["properties"]["grants"])
    assert set(told["properties"]) == set(GRANT_DEFAULTS)


def test_the_modules_take_the_same_names(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["NewSandbox"]["properties"]
    options = _module_options()
    # What is to become of it is said by the method and the address; on_change is an option of the module's own.
    assert set(options) - {"state"} | {"on_change"} == set(properties)
    for name, option in options.items():
        if name == "state":
            continue
        told = properties[name]
        if "choices" in option:
            assert told["enum"] == [*option["choices"], None]
        if "options" in option:
            items = _referred(document, told.get("items", told))
            assert set(option["options"]) == set(items["properties"]), name
            for part, each in option["options"].items():
                choices = [word for word in items["properties"][part].get("enum", ()) if word is not None]
                assert choices == each.get("choices", []), (name, part)
        if "default" in option:
            assert told["default"] == option["default"]


def _module_options() -> dict[str, Any]:
    """What the modules take; asked in another process, for there the engine has another name."""
    script = (
        "import json; from ansible_collections.claude_code.nix_sandbox.plugins.module_utils import door;"
        "print(json.dumps(door.sandbox_options()))"
    )
    environ = {"PYTHONPATH": str(ROOT / ".collections")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environ, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _referred(document: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """The schema that one refers to, by itself or beside null."""
    reference = told.get("$ref") or next(each["$ref"] for each in told["anyOf"] if "$ref" in each)
    found: dict[str, Any] = document["components"]["schemas"][reference.split("/")[-1]]
    return found
