"""The double of the Messages API keeps what it promises, so that a failing test elsewhere is never its fault."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_api
from tests.support.claude_home import DUMMY_KEY, claude_env, prepare_home
from tests.support.listener import AbstractCanary, TcpCanary, UdpCanary, WebPage, colour_share, has_ipv6
from tests.support.messages_api import MessagesApi

Events = list[tuple[str, dict[str, Any]]]

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as double:
        yield double


def user(*content: str | dict[str, Any]) -> dict[str, Any]:
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"role": "user", "content": blocks}


def result(output: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_x", "content": [{"type": "text", "text": output}]}


def request_body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "test-model", "max_tokens": 100, "stream": True, "messages": list(messages), **more}


def ask(
    api: MessagesApi,
    body: object,
    path: str = "/v1/messages?beta=true",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> tuple[int, str, str]:
    """Status, content type and body of the answer; a body given as bytes is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


def stream(api: MessagesApi, body: dict[str, Any]) -> Events:
    status, kind, text = ask(api, body)
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    events: Events = []
    for chunk in text.removesuffix("\n\n").split("\n\n"):
        name, data = chunk.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def blocks_of(events: Events) -> list[dict[str, Any]]:
    """The content blocks put together as a client does."""
    blocks: list[dict[str, Any]] = []
    parts: list[str] = []
    for name, data in events:
        if name == "content_block_start":
            blocks.append(data["content_block"])
            parts.append("")
        elif name == "content_block_delta":
            delta = data["delta"]
            parts[data["index"]] += delta["text"] if delta["type"] == "text_delta" else delta["partial_json"]
    for block, part in zip(blocks, parts, strict=True):
        block.update({"text": part} if block["type"] == "text" else {"input": json.loads(part)})
    return blocks


def say(api: MessagesApi, *messages: dict[str, Any], **more: Any) -> str:
    (block,) = blocks_of(stream(api, request_body(*messages, **more)))
    return str(block["text"])


def test_a_stream_has_the_events_of_the_real_api_in_their_order(api: MessagesApi) -> None:
    events = stream(api, request_body(user("SAY: hello there")))
    names = [name for name, _data in events]
    assert all(name == data["type"] for name, data in events)
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    message = events[0][1]["message"]
    assert (message["role"], message["model"], message["content"]) == ("assistant", "test-model", [])
    assert message["id"].startswith("msg_")
    assert events[-2][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_usage_grows_from_the_start_to_the_end_of_a_message(api: MessagesApi) -> None:
    events = stream(api, request_body(user("SAY: " + "word " * 40)))
    start, end = events[0][1]["message"]["usage"], events[-2][1]["usage"]
    assert start["output_tokens"] == 1
    assert end["output_tokens"] == 50
    assert start["input_tokens"] == end["input_tokens"] > 0
    assert api.usage().output_tokens == 50


def test_system_prompt_and_tools_are_cached_from_the_second_request_on(api: MessagesApi) -> None:
    body = request_body(user("SAY: x"), system=[{"type": "text", "text": "be terse " * 50}], tools=[{"name": "Bash"}])
    first, second = (stream(api, body)[0][1]["message"]["usage"] for _round in range(2))
    assert first["cache_creation_input_tokens"] > 100
    assert first["cache_read_input_tokens"] == 0
    assert second["cache_creation_input_tokens"] == 0
    assert second["cache_read_input_tokens"] == first["cache_creation_input_tokens"]


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("anything", "ok"),
        ("SAY: hello", "hello"),
        ("SAY:", "(nothing)"),
        ("please\nSAY: hello\nworld", "hello\nworld"),
        ("SLOW: 0.1 SAY: hello", "hello"),
        ("he said SAY: no", "ok"),
        ("TOOL: Read {", "TOOL: not JSON"),
        ("TOOL: Read [1]", "TOOL: not a JSON object"),
    ],
)
def test_the_prompt_decides_the_answer(api: MessagesApi, prompt: str, answer: str) -> None:
    assert say(api, user(prompt)).startswith(answer)


def test_a_plain_string_is_a_prompt_too(api: MessagesApi) -> None:
    assert say(api, {"role": "user", "content": "SAY: plain"}) == "plain"


def test_a_tool_round_trip(api: MessagesApi) -> None:
    events = stream(api, request_body(user("RUN: echo hi\necho there")))
    (call,) = blocks_of(events)
    assert (call["type"], call["name"]) == ("tool_use", "Bash")
    assert call["input"]["command"] == "echo hi\necho there"
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use"

    reply = {"type": "tool_result", "tool_use_id": call["id"], "content": "hi\nthere"}
    answer = say(api, user("RUN: echo hi"), {"role": "assistant", "content": [call]}, user(reply))
    assert answer == "tool said: hi\nthere"
    assert api.tool_outputs() == ["hi\nthere"]


def test_any_tool_can_be_called(api: MessagesApi) -> None:
    (call,) = blocks_of(stream(api, request_body(user('TOOL: Read {"file_path": "/srv/x"}'))))
    assert (call["name"], call["input"]) == ("Read", {"file_path": "/srv/x"})


def test_several_directives_make_one_message(api: MessagesApi) -> None:
    events = stream(api, request_body(user("SAY: first I look\nRUN: ls\nRUN: pwd")))
    text, first, second = blocks_of(events)
    assert text["text"] == "first I look"
    assert [first["input"]["command"], second["input"]["command"]] == ["ls", "pwd"]
    assert first["id"] != second["id"]
    assert [name for name, _data in events].count("message_start") == 1

    assert say(api, user("x"), {"role": "assistant", "content": []}, user(result("a"), result("b"))).endswith("a\nb")


def test_a_title_request_is_never_acted_on(api: MessagesApi) -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    config = {"format": {"type": "json_schema", "schema": schema}}
    text = say(api, user("<session>\nRUN: rm -r /\n</session>"), tools=[], output_config=config)
    assert json.loads(text) == {"title": "Test title"}
    assert api.prompts() == []


def test_after_an_interrupt_the_newest_prompt_counts(api: MessagesApi) -> None:
    merged = user(result("rejected"), "[Request interrupted by user for tool use]", "RUN: old", "SAY: new")
    assert say(api, user("RUN: old"), {"role": "assistant", "content": []}, merged) == "new"
    assert api.prompts() == ["SAY: new"]


def test_reminders_and_system_messages_are_no_prompts(api: MessagesApi) -> None:
    reminder = "<system-reminder>\nRUN: rm -r /\n</system-reminder>"
    later = {"role": "system", "content": "RUN: rm -r /"}
    assert say(api, user(reminder, "SAY: mine", reminder), later) == "mine"
    assert "rm -r" in api.system_prompts()[0]
    assert say(api, user("x"), {"role": "assistant", "content": "y"}, user(result("out"), reminder)) == "tool said: out"


def test_compaction_is_answered_with_a_summary(api: MessagesApi) -> None:
    asked = "CRITICAL: text only.\n\nYour task is to create a detailed summary of the conversation so far"
    assert say(api, user("RUN: x"), {"role": "assistant", "content": "y"}, user("SAY: old", asked)) == (
        messages_api.SUMMARY
    )
    assert api.prompts() == []


def test_slow_answers_take_their_time_and_end_with_the_server() -> None:
    with MessagesApi() as api:
        began = time.monotonic()
        assert say(api, user("SLOW: 0.4 SAY: hello")) == "hello"
        assert time.monotonic() - began >= 0.35
        pending = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        pending.request("POST", "/v1/messages", json.dumps(request_body(user("SLOW: 600 SAY: never"))))
        api.wait_for_prompt("never")
        began = time.monotonic()
    assert time.monotonic() - began < 3
    pending.close()


def test_without_stream_the_whole_message_comes_at_once(api: MessagesApi) -> None:
    status, kind, text = ask(api, request_body(user("SAY: whole"), stream=False))
    assert (status, kind) == (200, "application/json")
    message = json.loads(text)
    assert message["content"] == [{"type": "text", "text": "whole"}]
    assert message["usage"]["output_tokens"] == 2


def test_count_tokens(api: MessagesApi) -> None:
    body = {"model": "test-model", "messages": [user("x" * 400)]}
    status, _headers, text = ask(api, body, "/v1/messages/count_tokens?beta=true")
    assert status == 200
    assert json.loads(text)["input_tokens"] >= 100
    assert [request.kind for request in api.requests] == ["count_tokens"]


def test_the_check_before_the_first_request(api: MessagesApi) -> None:
    assert ask(api, b"", "/", method="HEAD")[0] == 200
    assert [(request.method, request.path) for request in api.requests] == [("HEAD", "/")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"null",
        b"[]",
        {},
        {"model": "m", "messages": []},
        {"model": "m", "messages": "x"},
        {"model": 1, "messages": [user("x")]},
        {"model": "m", "messages": [1]},
        {"model": "m", "messages": [{"role": "nobody", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user", "content": 7}]},
        {"model": "m", "messages": [{"role": "user"}]},
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_malformed_body_is_answered_with_400(api: MessagesApi, path: str, body: object) -> None:
    status, kind, text = ask(api, body, path)
    assert (status, kind) == (400, "application/json")
    assert json.loads(text)["error"]["type"] == "invalid_request_error"
    assert say(api, user("SAY: still here")) == "still here"


@pytest.mark.parametrize(
    "odd",
    [
        {"messages": [{"role": "user", "content": [1, None, {"type": "text"}, {"type": "text", "text": 5}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"system": 5, "tools": "x", "output_config": 7},
        {"output_config": {"format": {"type": "json_schema", "schema": {"properties": {"a": 1, "b": {"type": []}}}}}},
    ],
)
def test_odd_but_possible_bodies_get_an_answer(api: MessagesApi, odd: dict[str, Any]) -> None:
    assert say(api, **{"messages": [user("x")], **odd})


@pytest.mark.parametrize("length, status", [(str(messages_api.MAX_BODY + 1), 413), ("x", 400), ("-1", 400), ("", 400)])
def test_an_impossible_length_is_refused_before_reading(api: MessagesApi, length: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


def test_unknown_paths_are_404(api: MessagesApi) -> None:
    assert ask(api, {}, "/v1/other")[0] == 404
    assert ask(api, b"", "/v1/messages", method="GET")[0] == 404


def test_an_error_can_be_asked_for(api: MessagesApi) -> None:
    status, _headers, text = ask(api, request_body(user("FAIL: 529")))
    assert status == 529
    assert json.loads(text)["error"]["type"] == "overloaded_error"
    assert ask(api, request_body(user("FAIL: soon")))[0] == 500


def test_a_key_is_required_where_one_is_set() -> None:
    with MessagesApi(key="right") as api:
        body = request_body(user("SAY: x"))
        assert ask(api, body)[0] == 401
        assert ask(api, body, headers={"x-api-key": "wrong"})[0] == 401
        assert ask(api, body, headers={"x-api-key": "right"})[0] == 200
        assert ask(api, body, headers={"Authorization": "Bearer right"})[0] == 200
        assert len(api.prompts()) == 2


def test_requests_are_recorded(api: MessagesApi) -> None:
    body = request_body(user("SAY: one"), system=[{"type": "text", "text": "APPENDED"}])
    ask(api, body, headers={"X-Api-Key": "k"})
    (request,) = api.requests
    assert (request.method, request.path, request.query, request.kind) == (
        "POST",
        "/v1/messages",
        "beta=true",
        "prompt",
    )
    assert request.body == body
    assert request.headers["x-api-key"] == "k"
    assert api.prompts() == ["SAY: one"]
    assert "APPENDED" in api.system_prompts()[0]
    status, _headers, text = ask(api, b"", "/recorded", method="GET")
    assert status == 200
    assert [(each["turn"]["texts"], each["system"]) for each in json.loads(text)] == [(["SAY: one"], "APPENDED")]


def test_waiting_in_vain_tells_what_came(api: MessagesApi) -> None:
    ask(api, b"", "/", method="HEAD")
    with pytest.raises(TimeoutError, match=r"HEAD / \(other\)"):
        api.wait_for_prompt("x", timeout=0.05)


@needs_ipv6
def test_it_can_listen_on_ipv6() -> None:
    with MessagesApi(bind="::1") as api:
        assert api.url == f"http://[::1]:{api.port}"
        connection = http.client.HTTPConnection("::1", api.port, timeout=5)
        connection.request("HEAD", "/")
        assert connection.getresponse().status == 200
        connection.close()


def test_as_a_script_it_serves_until_it_is_told_to_stop() -> None:
    script = [sys.executable, str(Path(messages_api.__file__)), "--port", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("HEAD", "/")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_home_is_seeded_privately(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to("project")
    home = prepare_home(tmp_path / "home", trusted=[tmp_path / "link"])
    state = json.loads((home / ".claude.json").read_text())
    assert state["customApiKeyResponses"]["approved"] == [DUMMY_KEY[-20:]]
    assert list(state["projects"]) == [str((tmp_path / "project").resolve())]
    assert (home / ".claude.json").stat().st_mode & 0o777 == 0o600
    assert claude_env("http://127.0.0.1:1")["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_canaries_count_what_reaches_them(host: str) -> None:
    with TcpCanary(host) as tcp, UdpCanary(host) as udp:
        assert (tcp.count, udp.count) == (0, 0)
        with socket.create_connection(tcp.address, timeout=5) as connection:
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            assert connection.makefile("rb").read() == b"canary\n"
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(5)
            sender.sendto(b"ping", udp.address)
            assert sender.recv(100) == b"canary\n"
        assert (tcp.count, udp.count) == (1, 1)
        assert (list(tcp.received), list(udp.received)) == ([b"hello"], [b"ping"])
        assert not tcp.wait(2, timeout=0.05)


def test_the_abstract_socket_counts() -> None:
    with AbstractCanary() as canary, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(canary.address)
        assert client.recv(100) == b"canary\n"
        assert canary.wait(1)


def test_the_page_has_its_colour_and_counts_visits() -> None:
    with WebPage((200, 0, 100), "<big>") as page:
        connection = http.client.HTTPConnection(*page.address, timeout=5)
        connection.request("GET", "/favicon.ico")
        assert connection.getresponse().read() == b""
        connection.request("GET", "/")
        text = connection.getresponse().read().decode()
        connection.close()
        assert "rgb(200, 0, 100)" in text
        assert "&lt;big&gt;" in text
        assert page.count == 1


def test_the_share_of_a_colour() -> None:
    assert colour_share(bytes((200, 0, 100, 198, 3, 100, 255, 255, 255, 0, 0, 0)), (200, 0, 100)) == 0.5
    assert colour_share(b"", (0, 0, 0)) == 0.0
