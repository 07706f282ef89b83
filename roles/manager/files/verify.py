# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the manager of this host until it answers: verify.py ADDRESS:PORT TOKEN_FILE SECONDS, as root.

It runs on the host, from the standard input of its Python, so that the token never leaves the host. Says in one line
what is wrong where the manager does not answer within that time, and ends with 1 then.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import sys
import time
from pathlib import Path

_PAUSE = 0.2  # seconds between two attempts
_SECONDS = 5.0  # for one answer


def main(listen: str, token_file: str, seconds: str) -> int:
    """The exit code."""
    end = time.monotonic() + float(seconds)
    while True:
        problem = _problem(listen, token_file)
        if not problem:
            return 0
        if time.monotonic() >= end:
            sys.stdout.write(f"{problem}\n")
            return 1
        time.sleep(_PAUSE)


def _problem(listen: str, token_file: str) -> str:
    """What is wrong just now; empty where nothing is."""
    token = Path(token_file).read_text(encoding="ascii").strip()
    host, _colon, port = listen.rpartition(":")
    for path, headers in (("/healthz", {}), ("/api/sandboxes", {"Authorization": f"Bearer {token}"})):
        try:
            status, content = _get(_reachable(host.strip("[]")), int(port), path, headers)
        except (OSError, http.client.HTTPException) as error:
            return f"{listen} does not answer {path}: {error}."
        if status != 200:
            return f"{listen} answers {path} with {status}: {_detail(content)}"
    return ""


def _reachable(host: str) -> str:
    """Where to ask one that listens everywhere."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "::1"
    return host


def _get(host: str, port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=_SECONDS)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 16)


def _detail(content: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(content).get("detail"))[:500]
    return "no problem is told."


sys.exit(main(*sys.argv[1:]))
