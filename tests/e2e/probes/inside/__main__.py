"""`python3 -m inside NAME PARAMETERS`: make one attempt; print what it got as one line of JSON."""

from __future__ import annotations

import json
import signal
import sys

from . import agent, files, ipc, kernel, network, processes, terminal
from .attempt import ATTEMPTS

MODULES = (agent, files, ipc, kernel, network, processes, terminal)
SECONDS = 30

signal.alarm(SECONDS)
print(json.dumps(ATTEMPTS[sys.argv[1]](**json.loads(sys.argv[2]))))
