"""Talking to worker.py."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

_HERE = Path(__file__).parent
ENGINE = Path(__file__).parents[3] / "plugins/module_utils"


_SAID_LINES = 40
# What the dynamic linker says of the planted LD_PRELOAD and LD_AUDIT, each time a program is started.
_OF_THE_LINKER = "ERROR: ld.so: "


class EngineError(Exception):
    """The engine's error, in its own words."""


class BrokenEngineError(Exception):
    """The engine, or the worker, is at fault: never to be taken for an error that a test expects."""


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
        # A file, which unlike a pipe is never full.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it is open for as long as the process
        self._process = subprocess.Popen(
            [python, str(script), str(engine), str(state_dir), json.dumps(keys)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
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
            # What was sent to one that has ended is still to be written.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._process.wait(30)
        self._said.close()

    def kill(self) -> None:
        """End it without giving it a chance to clean up."""
        self._process.kill()
        self._process.wait(30)

    def send(self, do: str, **request: Any) -> None:
        """Ask for something, without waiting for the answer. Raises BrokenEngineError where the engine has ended."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps({"do": do, **request}) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Any:
        """The next answer. Raises EngineError where it is an error, BrokenEngineError where there is none."""
        pipe = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "broken" in answer:
            raise BrokenEngineError(answer["broken"])
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["value"]

    def _ended(self) -> BrokenEngineError:
        code = self._process.wait(30)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        said = [line for line in lines if not line.startswith(_OF_THE_LINKER)][-_SAID_LINES:]
        return BrokenEngineError("\n".join([f"the engine ended with code {code}, and said:", *(said or ["nothing"])]))

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
