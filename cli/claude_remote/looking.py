# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands that look: list, metrics, logs, screenshot."""

from __future__ import annotations

import os
import sys
import time

from . import config, text
from .errors import FAILED, OK, USAGE, LostError, RemoteError
from .manager import Manager
from .text import inert, out, out_json, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

_HEAD = ("NAME", "ID", "STATUS", "BACKEND", "AGE", "USER", "PROJECT")
_FIGURES_HEAD = ("NAME", "STATUS", "AGENT", "CPU", "MEMORY", "PROCESSES", "TOKENS", "COST")
_AT_ONCE = 8
_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_PICTURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
_ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def manager_of(options: argparse.Namespace) -> Manager:
    """The manager that the options mean. Raises RemoteError."""
    return Manager(config.chosen(options.host, os.environ))


def list_all(options: argparse.Namespace) -> int:
    """All sandboxes of a server, or of all."""
    if options.all_hosts:
        return _of_all(options, Manager.sandboxes, _print_list)
    found = manager_of(options).sandboxes()
    if options.json:
        out_json(found)
    else:
        _print_list({None: found})
    return OK


def _print_list(found: Mapping[str | None, Any]) -> None:
    rows, kinds, now = [], [], time.time()
    for host, sandboxes in found.items():
        for each in sandboxes:
            kinds.append(str(each.get("status")))
            age = text.age(each.get("created_at"), now)
            values = [each.get(key) for key in ("name", "id", "status", "backend", "user", "project_dir")]
            rows.append([*([] if host is None else [host]), *values[:4], age, *values[4:]])
    if not rows:
        return out("There are no sandboxes. claude-remote create --help says how to make one.")
    return out(text.table(_HEAD if None in found else ("HOST", *_HEAD), rows, kinds))


def _of_all(
    options: argparse.Namespace, ask: Callable[[Manager], Any], show: Callable[[Mapping[str | None, Any]], None]
) -> int:
    """Ask all servers at once, and show what those say that answer. The exit code: that of the first that does not."""
    from concurrent.futures import ThreadPoolExecutor

    found: dict[str | None, Any] = {}
    code = OK
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [
            (each.name, pool.submit(lambda each: ask(Manager(each)), each)) for each in config.everyone(os.environ)
        ]
        for name, answer in asked:
            try:
                found[name] = answer.result()
            except RemoteError as error:
                say(f"{inert(name)}: {error.what} {error.hint}")
                code = code or error.code
    if options.json:
        out_json({str(host): content for host, content in found.items()})
    else:
        show(found)
    return code


def metrics(options: argparse.Namespace) -> int:
    """What sandboxes use, or one, and the server."""
    if options.all_hosts:
        if options.ref is not None:
            raise RemoteError("One sandbox is on one server.", "Leave --all-hosts or the name out.", USAGE)
        return _of_all(options, _figures, _print_hosts)
    manager = manager_of(options)
    found = _figures(manager, options.ref)
    if options.json:
        out_json(found["sandboxes"][0] if options.ref is not None else found)
    else:
        _print_hosts({None: found})
    return OK


def _figures(manager: Manager, ref: str | None = None) -> dict[str, Any]:
    """Of the server and of those sandboxes that can be looked at. Raises RemoteError."""
    chosen = manager.sandboxes() if ref is None else [manager.sandbox(ref)]
    names = [each["name"] for each in chosen if each.get("status") != "unreadable" or ref is not None]
    sandboxes = [{"name": name, **_object(manager.get(f"/api/sandboxes/{name}/metrics"))} for name in names]
    return {"system": None if ref is not None else manager.get("/api/metrics/system"), "sandboxes": sandboxes}


def _print_hosts(found: Mapping[str | None, Any]) -> None:
    for number, (host, figures) in enumerate(found.items()):
        if host is not None:
            out(text.coloured(("\n" if number else "") + inert(host), "head"))
        if figures["system"] is not None:
            out(_system(_object(figures["system"])))
        if figures["sandboxes"]:
            kinds = [str(each.get("status")) for each in figures["sandboxes"]]
            out(text.table(_FIGURES_HEAD, [_row(each) for each in figures["sandboxes"]], kinds))


def _system(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{inert(name)}: {_number(name, value)}" for name, value in values.items())


def _number(name: str, value: Any) -> str:
    if "bytes" in name:
        return text.size(value)
    return f"{value:.1f}" if isinstance(value, float) else inert(value)


def _row(figures: Mapping[str, Any]) -> list[Any]:
    process, session = _object(figures.get("process")), _object(figures.get("session"))
    percent, cost = process.get("cpu_percent"), _object(session.get("cost"))
    tokens = [session.get(name) for name in _TOKENS]
    return [
        figures["name"],
        figures.get("status"),
        figures.get("activity") or "-",
        f"{percent:.0f} %" if isinstance(percent, int | float) else "-",
        text.size(process.get("memory_bytes")),
        process.get("processes", "-"),
        sum(each for each in tokens if isinstance(each, int)) if session else "-",
        _cost(cost),
    ]


def _cost(cost: Mapping[str, Any]) -> str:
    value = cost.get("usd")
    return f"{value:.2f} USD" if isinstance(value, int | float) else "-"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def logs(options: argparse.Namespace) -> int:
    """The last lines of a sandbox's terminal, and those that come."""
    manager = manager_of(options)
    path = f"/api/sandboxes/{manager.sandbox(options.ref)['name']}/logs"
    found = _log(manager, f"{path}?tail={options.tail}")
    _print_log(found, options)
    while options.follow:
        time.sleep(1)
        try:
            found = _log(manager, f"{path}?tail=10000&since={found['next']}")
        except LostError as error:
            say(f"{error.what} Trying again …")
            time.sleep(5)
            manager = manager_of(options)
            continue
        _print_log(found, options)
    return OK


def _log(manager: Manager, path: str) -> dict[str, Any]:
    found = _object(manager.get(path))
    position, lines = found.get("next"), found.get("lines")
    good = isinstance(position, str) and isinstance(lines, list)
    # It becomes a part of the next address.
    if not good or not set(str(position)) <= set("0123456789abcdef."):
        raise RemoteError("The manager's answer is no log.", "It is of another version: make them the same.", FAILED)
    return found


def _print_log(found: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        import json

        # A line each, so that a program can read them as they come.
        out(json.dumps(found))
    elif found["lines"]:
        out("\n".join(inert(line) for line in found["lines"]))


def screenshot(options: argparse.Namespace) -> int:
    """A sandbox's screen as a picture."""
    manager = manager_of(options)
    name = manager.sandbox(options.ref)["name"]
    target = options.output or f"{name}.png"
    kind = _ENDINGS.get(os.path.splitext(target)[1].lower(), "png")
    if target == "-" and sys.stdout.isatty():
        raise RemoteError("A picture is nothing for a terminal.", "Give -o FILE, or a pipe.", USAGE)
    width = f"&width={options.width}" if options.width is not None else ""
    content = manager.call("GET", f"/api/sandboxes/{name}/screenshot?format={kind}{width}").body
    if not content.startswith(_PICTURES[kind]):
        raise RemoteError("What came is no picture.", "Try again.", FAILED)
    if target == "-":
        sys.stdout.buffer.write(content)
        return OK
    _write(target, content)
    say(f"{inert(target)}: {text.size(len(content))}")
    return OK


def _write(path: str, content: bytes) -> None:
    """Write a file, whole or not at all."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "xb") as file:
            file.write(content)
        os.replace(draft, path)
    except OSError as error:
        raise RemoteError(f"{inert(path)} cannot be written: {error.strerror}.", "Give another path.", FAILED) from None
