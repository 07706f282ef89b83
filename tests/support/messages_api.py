"""A test double of Anthropic's Messages API, scripted by the text of the prompt.

The real Claude Code runs against it unchanged, so that a test sees a real agent at work without a model:

    with MessagesApi() as api:
        subprocess.run([claude, "-p", "RUN: echo hi > file"], env=claude_env(api.url, DUMMY_KEY))
        assert api.prompts() == ["RUN: echo hi > file"]

What a prompt may say (the last text of a user's turn decides; a directive stands at the start of a line and reaches
to the next directive, so commands may have several lines):

    RUN: <shell command>      one Bash tool_use; its result comes back as text, after "tool said: "
    TOOL: <name> <JSON>       one tool_use of any tool
    SAY: <text>               that text
    FAIL: <status>            an API error of that HTTP status
    SLOW: <seconds> …         before any of the above: the answer takes that long to stream
    anything else             "ok"

Several directives make one message of several blocks, as when a model says what it is about to do.

Run as a script it serves until it is interrupted; `GET /recorded` then shows what was asked.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import http.server
import itertools
import json
import re
import signal
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

MAX_BODY = 32 * 1024 * 1024
MAX_RECORDED = 1000
MAX_SLOW = 600.0
IDLE_TIMEOUT = 120.0
TOOL_PREFIX = "tool said: "
SUMMARY = "<summary>nothing of note</summary>"

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_SLOW = re.compile(r"^\s*SLOW:[ \t]*(\d{1,6}(?:\.\d{1,6})?)[ \t]*", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*(RUN|TOOL|SAY|FAIL):", re.MULTILINE)
_COMPACTION = re.compile(r"^Your task is to create a detailed summary", re.MULTILINE)


class ApiError(Exception):
    """An answer in the API's error format."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def body(self) -> dict[str, Any]:
        kind = _ERRORS.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(self)}}


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of one answer, estimated at four characters a token."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    def as_json(self, output_tokens: int | None = None) -> dict[str, Any]:
        usage: dict[str, Any] = dataclasses.asdict(self)
        usage["cache_creation"] = {
            "ephemeral_5m_input_tokens": self.cache_creation_input_tokens,
            "ephemeral_1h_input_tokens": 0,
        }
        usage["service_tier"] = "standard"
        if output_tokens is not None:
            usage["output_tokens"] = output_tokens
        return usage


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the user's side said since the assistant's last message."""

    texts: tuple[str, ...] = ()
    tool_output: str | None = None

    @property
    def prompt(self) -> str | None:
        """The text to act on: the last one after the last tool result (an interrupt merges older ones in front)."""
        return self.texts[-1] if self.texts else None


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One request as it came in, and how it was understood."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any
    kind: str
    """`prompt`, `tool_result`, `title`, `compaction`, `count_tokens`, `invalid` or `other`."""
    turn: Turn = Turn()
    usage: Usage | None = None
    message_id: str | None = None

    @property
    def system(self) -> str:
        """The whole system prompt: the top-level field and any message of role `system`."""
        if not isinstance(self.body, dict):
            return ""
        parts = [_plain_text(self.body.get("system"))]
        parts += [_plain_text(message["content"]) for message in _messages(self.body) if message["role"] == "system"]
        return "\n".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "system": self.system}


@dataclasses.dataclass(frozen=True)
class Answer:
    """The content blocks of one message, and how long it takes to say them."""

    blocks: tuple[dict[str, Any], ...]
    seconds: float = 0.0

    @property
    def stop_reason(self) -> str:
        return "tool_use" if any(block["type"] == "tool_use" for block in self.blocks) else "end_turn"


def payload(block: Mapping[str, Any]) -> str:
    """The part of a content block that is streamed in deltas."""
    return str(block["text"]) if block["type"] == "text" else json.dumps(block["input"])


# --- reading a request ------------------------------------------------------------------------------------------------


def _plain_text(content: Any) -> str:
    """The text of a `content` or `system` field, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [block.get("text") for block in content if isinstance(block, dict) and block.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    return [message for message in messages if isinstance(message, dict) and {"role", "content"} <= message.keys()]


def check_body(body: Any) -> dict[str, Any]:
    """The body as a request for a message, or an ApiError as the real API would answer."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    if not isinstance(body.get("model"), str):
        raise ApiError(400, "model: Field required")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ApiError(400, f"messages.{index}: role must be user, assistant or system")
        if not isinstance(message.get("content"), str | list):
            raise ApiError(400, f"messages.{index}.content: must be a string or a list")
    return body


def last_turn(body: Mapping[str, Any]) -> Turn:
    """What was said after the assistant's last message, without the client's own reminders and notes."""
    said: list[dict[str, Any]] = []
    for message in _messages(body):
        if message["role"] == "assistant":
            said = []
        elif message["role"] == "user":
            said += _blocks(message["content"])
    results = [index for index, block in enumerate(said) if block.get("type") == "tool_result"]
    after = said[results[-1] + 1 :] if results else said
    texts = (_REMINDER.sub("", _plain_text([block])).strip() for block in after)
    return Turn(
        texts=tuple(text for text in texts if text and not text.startswith("[Request interrupted")),
        tool_output="\n".join(_plain_text(said[index].get("content")) for index in results) if results else None,
    )


def kind_of(body: Mapping[str, Any], turn: Turn) -> str:
    """What the client wants: its title and compaction requests carry the user's words, yet must not be acted on."""
    if _schema(body) is not None:
        return "title"
    if turn.prompt is None:
        return "tool_result" if turn.tool_output is not None else "other"
    if _COMPACTION.search(turn.prompt) and not _DIRECTIVE.match(turn.prompt):
        return "compaction"
    return "prompt"


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    schema = wanted.get("schema")
    return schema if isinstance(schema, dict) else {}


# --- deciding the answer ----------------------------------------------------------------------------------------------


def answer_to(body: Mapping[str, Any], kind: str, turn: Turn) -> Answer:
    if kind == "title":
        return Answer((_text(json.dumps(_fill(_schema(body) or {}))),))
    if kind == "compaction":
        return Answer((_text(SUMMARY),))
    if kind == "tool_result":
        return Answer((_text(TOOL_PREFIX + (turn.tool_output or "")),))
    return _obey(turn.prompt or "")


def _obey(prompt: str) -> Answer:
    slow = _SLOW.search(prompt)
    _before, *script = _DIRECTIVE.split(_SLOW.sub("", prompt, count=1))
    blocks = tuple(_block(verb, rest.strip()) for verb, rest in zip(script[::2], script[1::2], strict=True))
    return Answer(blocks or (_text("ok"),), min(float(slow.group(1)), MAX_SLOW) if slow else 0.0)


def _block(verb: str, rest: str) -> dict[str, Any]:
    if verb == "RUN":
        return _tool("Bash", {"command": rest, "description": "Run the command of the prompt"})
    if verb == "TOOL":
        return _named_tool(rest)
    if verb == "FAIL":
        raise ApiError(_status(rest), "the prompt asked for this error")
    return _text(rest)


def _text(text: str) -> dict[str, Any]:
    # The API never sends an empty text block, and clients may reject one.
    return {"type": "text", "text": text or "(nothing)"}


def _tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": "", "name": name, "input": arguments}


def _named_tool(rest: str) -> dict[str, Any]:
    name, _space, arguments = rest.partition(" ")
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        return _text(f"TOOL: not JSON: {error}")
    return _tool(name, parsed) if isinstance(parsed, dict) else _text("TOOL: not a JSON object")


def _status(rest: str) -> int:
    return int(rest) if re.fullmatch(r"[45]\d\d", rest) else 500


def _fill(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object with every property of a flat JSON schema; a schema that names none is taken for a title's."""
    samples: dict[str, Any] = {"boolean": False, "integer": 0, "number": 0, "array": [], "object": {}}
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return {"title": "Test title"}
    kinds = {name: rule.get("type") if isinstance(rule, dict) else None for name, rule in properties.items()}
    return {
        name: samples.get(kind, f"Test {name}") if isinstance(kind, str) else f"Test {name}"
        for name, kind in kinds.items()
    }


# --- writing it down --------------------------------------------------------------------------------------------------


def _tokens(value: Any) -> int:
    text = value if isinstance(value, str) else json.dumps(value)
    return max(1, -(-len(text) // 4))


def _pieces(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def message_json(message_id: str, model: str, answer: Answer, usage: Usage) -> dict[str, Any]:
    """The whole message, as a request without `stream` gets it."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(answer.blocks),
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        "usage": usage.as_json(),
    }


def events(message: Mapping[str, Any], answer: Answer, usage: Usage) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events of a stream, each with the seconds to wait before it."""
    start = {**message, "content": [], "stop_reason": None, "usage": usage.as_json(output_tokens=1)}
    yield 0.0, {"type": "message_start", "message": start}
    yield 0.0, {"type": "ping"}
    for index, block in enumerate(answer.blocks):
        yield from _block_events(index, block, answer.seconds / len(answer.blocks))
    end = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    yield 0.0, {"type": "message_delta", "delta": end, "usage": usage.as_json()}
    yield 0.0, {"type": "message_stop"}


def _block_events(index: int, block: Mapping[str, Any], seconds: float) -> Iterator[tuple[float, dict[str, Any]]]:
    is_text = block["type"] == "text"
    empty = {**block, "text": ""} if is_text else {**block, "input": {}}
    yield 0.0, {"type": "content_block_start", "index": index, "content_block": empty}
    # A slow answer comes in short steps, so that the client never takes the stream for stalled.
    text = payload(block)
    pieces = _pieces(text, max(3, min(len(text), int(seconds * 4))))
    for piece in pieces:
        delta = (
            {"type": "text_delta", "text": piece} if is_text else {"type": "input_json_delta", "partial_json": piece}
        )
        yield seconds / len(pieces), {"type": "content_block_delta", "index": index, "delta": delta}
    yield 0.0, {"type": "content_block_stop", "index": index}


# --- serving ----------------------------------------------------------------------------------------------------------


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], api: MessagesApi) -> None:
        self.api = api
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for its name, which can hang for seconds in a sandbox without network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep a test's output clean of clients that hang up in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class gave it
        """Say nothing: what came in is recorded."""

    def do_HEAD(self) -> None:
        self._record("other", None)
        self._send(200, b"", {"Content-Length": "0"})

    def do_GET(self) -> None:
        if self._path == "/recorded":
            self._send_json(200, [request.as_json() for request in self.server.api.requests])
            return
        self._record("other", None)
        status = 200 if self._path == "/" else 404
        self._send_json(status, {} if status == 200 else ApiError(404, "Not found").body())

    def do_POST(self) -> None:
        try:
            self._post()
        except ApiError as error:
            self._send_json(error.status, error.body())

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _post(self) -> None:
        raw = self._read_body()
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            self._record("invalid", None)
            raise ApiError(400, f"the body is not valid JSON: {type(error).__name__}") from error
        serve = {"/v1/messages": self._message, "/v1/messages/count_tokens": self._count}.get(self._path)
        if serve is None:
            self._record("other", body)
            raise ApiError(404, "Not found")
        try:
            self._check_key()
            checked = check_body(body)
        except ApiError:
            self._record("invalid", body)
            raise
        serve(checked)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > MAX_BODY:
            # The unread body would be taken for the next request.
            self.close_connection = True
            too_large = length.isdigit()
            raise ApiError(413, "Request too large") if too_large else ApiError(400, "Content-Length is required")
        return self.rfile.read(int(length))

    def _check_key(self) -> None:
        wanted = self.server.api.key
        given = (self.headers.get("x-api-key"), self.headers.get("Authorization"))
        if wanted is not None and wanted != given[0] and f"Bearer {wanted}" != given[1]:
            raise ApiError(401, "invalid x-api-key")

    def _count(self, body: dict[str, Any]) -> None:
        self._record("count_tokens", body)
        self._send_json(200, {"input_tokens": _tokens(body)})

    def _message(self, body: dict[str, Any]) -> None:
        api = self.server.api
        turn = last_turn(body)
        kind = kind_of(body, turn)
        message_id = api.next_id("msg")
        try:
            answer = answer_to(body, kind, turn)
        except ApiError:
            self._record(kind, body, turn)
            raise
        for block in answer.blocks:
            if block["type"] == "tool_use":
                block["id"] = api.next_id("toolu")
        usage = api.usage_of(body, answer)
        self._record(kind, body, turn, usage, message_id)
        message = message_json(message_id, body["model"], answer, usage)
        if body.get("stream") is True:
            self._stream(events(message, answer, usage))
        else:
            api.closing.wait(answer.seconds)
            self._send_json(200, message)

    def _record(
        self, kind: str, body: Any, turn: Turn = Turn(), usage: Usage | None = None, message_id: str | None = None
    ) -> None:
        parts = urllib.parse.urlsplit("//host" + self.path if self.path.startswith("/") else "//host/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        recorded = Recorded(self.command, self._path, parts.query, headers, body, kind, turn, usage, message_id)
        self.server.api.record(recorded)

    def _send_json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self._send(status, data, {"Content-Type": "application/json", "Content-Length": str(len(data))})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("request-id", self.server.api.next_id("req"))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, stream: Iterator[tuple[float, dict[str, Any]]]) -> None:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        self._send(200, b"", {**headers, "Transfer-Encoding": "chunked"})
        for seconds, event in stream:
            if self.server.api.closing.wait(seconds):
                self.close_connection = True
                return
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")


class MessagesApi:
    """The double itself: a context manager that serves from its own thread."""

    def __init__(self, *, bind: str = "127.0.0.1", port: int = 0, key: str | None = None) -> None:
        """With a `key`, requests without exactly that key (or bearer token) are answered 401."""
        self.key = key
        self.closing = threading.Event()
        self._recorded: collections.deque[Recorded] = collections.deque(maxlen=MAX_RECORDED)
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        # Ids must differ between two doubles too: transcripts of both may be read together.
        self._salt = hashlib.sha256(f"{time.time_ns()}-{id(self)}".encode()).hexdigest()[:12]
        self._cached: set[str] = set()
        self._server = _Server((bind, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        host = self._server.server_name
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    # What tests ask.

    @property
    def requests(self) -> Sequence[Recorded]:
        """What came in so far, oldest first (the newest thousand)."""
        with self._changed:
            return tuple(self._recorded)

    def of_kind(self, *kinds: str) -> list[Recorded]:
        return [request for request in self.requests if request.kind in kinds]

    def prompts(self) -> list[str]:
        """The prompts acted on, in order; title and compaction requests and tool results are left out."""
        return [request.turn.prompt or "" for request in self.of_kind("prompt")]

    def tool_outputs(self) -> list[str]:
        """What the tools gave back, in order."""
        return [request.turn.tool_output or "" for request in self.of_kind("tool_result")]

    def system_prompts(self) -> list[str]:
        """The whole system prompt of each prompt acted on."""
        return [request.system for request in self.of_kind("prompt")]

    def usage(self) -> Usage:
        """The sum over every answer given, and so the truth a transcript is measured against."""
        given = [request.usage for request in self.requests if request.usage]
        return Usage(
            input_tokens=sum(usage.input_tokens for usage in given),
            output_tokens=sum(usage.output_tokens for usage in given),
            cache_creation_input_tokens=sum(usage.cache_creation_input_tokens for usage in given),
            cache_read_input_tokens=sum(usage.cache_read_input_tokens for usage in given),
        )

    def wait_for(self, wanted: Callable[[Recorded], bool], timeout: float = 10.0) -> Recorded:
        """The first request that fits, or a TimeoutError that names what came instead."""

        def found() -> Recorded | None:
            return next((request for request in self._recorded if wanted(request)), None)

        with self._changed:
            request = self._changed.wait_for(found, timeout)
            if request is None:
                came = [f"{each.method} {each.path} ({each.kind})" for each in self._recorded]
                raise TimeoutError(f"no such request in {timeout} s; came: {came}")
            return request

    def wait_for_prompt(self, text: str, timeout: float = 10.0) -> Recorded:
        return self.wait_for(lambda request: request.kind == "prompt" and text in (request.turn.prompt or ""), timeout)

    # What the handler needs.

    def record(self, request: Recorded) -> None:
        with self._changed:
            self._recorded.append(request)
            self._changed.notify_all()

    def next_id(self, prefix: str) -> str:
        return f"{prefix}_01{self._salt}{next(self._ids):010d}"

    def usage_of(self, body: Mapping[str, Any], answer: Answer) -> Usage:
        """As with prompt caching: system prompt and tools are written once, then read."""
        prefix = {"system": body.get("system"), "tools": body.get("tools")}
        digest = hashlib.sha256(json.dumps(prefix, sort_keys=True).encode()).hexdigest()
        with self._changed:
            known = digest in self._cached
            self._cached.add(digest)
        cached = _tokens(prefix) if any(prefix.values()) else 0
        return Usage(
            input_tokens=_tokens(body["messages"]),
            output_tokens=sum(_tokens(payload(block)) for block in answer.blocks),
            cache_creation_input_tokens=0 if known else cached,
            cache_read_input_tokens=cached if known else 0,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve a test double of the Messages API.")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDR")
    parser.add_argument("--port", type=int, default=0, help="default: any free one; the URL is printed")
    parser.add_argument("--key", help="answer 401 to any other key")
    options = parser.parse_args(arguments)
    # Made before the threads, which inherit the mask: the signal then only ever reaches sigwait below.
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with MessagesApi(bind=options.bind, port=options.port, key=options.key) as api:
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
