"""Talking to worker.py."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

_HERE = Path(__file__).parent
ENGINE = Path(__file__).parents[3] / "plugins/module_utils"


class EngineError(Exception):
    """The engine's error, in its own words."""


class Engine:
    """An engine that runs under some account, with some things planted in its process."""

    def __init__(
        self,
        python: str,
        state_dir: Path,
        *,
        keys: Mapping[str, str],
        env: Mapping[str, str],
        descriptor: int,
        engine: Path = ENGINE,
        script: Path = _HERE / "worker.py",
        account: tuple[int, int] | None = None,
    ) -> None:
        uid, gid = account or (None, None)
        self.state_dir = state_dir
        self._process = subprocess.Popen(
            [python, str(script), str(engine), str(state_dir), json.dumps(keys)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What the dynamic linker says of the planted LD_PRELOAD, and nothing else, would stand here.
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ["PATH"], **env},
            pass_fds=(descriptor,),
            user=uid,
            group=gid,
            extra_groups=None if account is None else [],
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(30)

    def kill(self) -> None:
        """End it without giving it a chance to clean up."""
        self._process.kill()
        self._process.wait(30)

    def send(self, do: str, **request: Any) -> None:
        """Ask for something, without waiting for the answer."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps({"do": do, **request}) + "\n")
        pipe.flush()

    def answer(self) -> Any:
        """The next answer. Raises EngineError where it is an error."""
        pipe = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise EngineError(f"the engine ended with code {self._process.wait(30)}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["value"]

    def ask(self, do: str, **request: Any) -> Any:
        """Ask, and wait for the answer."""
        self.send(do, **request)
        return self.answer()

    def start(self, name: str, api_key: str | None = None, **params: Any) -> list[str]:
        """Make sure that a sandbox runs; what was done for it."""
        found: list[str] = self.ask("ensure", name=name, state="started", params=params, api_key=api_key)
        return found

    def again(self, name: str) -> None:
        """Restart a sandbox as it is recorded."""
        self.ask("ensure", name=name, state="restarted", params=None, api_key=None)

    def remove(self, name: str) -> None:
        """Destroy a sandbox and what its project keeps."""
        self.ask("ensure", name=name, state="absent", params=None, api_key=None)

    def outside(self, argv: Sequence[str], account: tuple[int, int], env: Mapping[str, str]) -> dict[str, Any]:
        """Run a program on the host."""
        uid, gid = account
        found: dict[str, Any] = self.ask("outside", argv=list(argv), env=dict(env), uid=uid, gid=gid)
        return found
