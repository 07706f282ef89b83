# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the manager tells of itself: one JSON object a line, on the standard error."""

from __future__ import annotations

import datetime
import logging
import re
import sys
from typing import Any

from gunicorn import glogging
from pythonjsonlogger.json import JsonFormatter

_LOGIN = re.compile(r"^/login/.+")


def set_up(level: int = logging.INFO) -> None:
    """Have everything that is logged written so."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            timestamp="time",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class Logger(glogging.Logger):
    """gunicorn's own log, and one line for each request; no query and no one-time code is in it."""

    def setup(self, _cfg: Any) -> None:
        """Leave the writing to the root logger."""
        self.error_log.setLevel(logging.INFO)
        self.error_log.propagate = self.access_log.propagate = True

    def access(self, resp: Any, _req: Any, environ: Any, request_time: datetime.timedelta) -> None:
        """Log a request that was answered."""
        self.access_log.info(
            "request",
            extra={
                "method": environ.get("REQUEST_METHOD"),
                "path": _LOGIN.sub("/login/…", str(environ.get("PATH_INFO"))),
                "status": int(str(resp.status).split()[0]),
                "milliseconds": round(request_time.total_seconds() * 1000, 1),
                "from": environ.get("REMOTE_ADDR"),
            },
        )
