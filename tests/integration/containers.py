"""What the tests of the backend container share: the search for what one leaves, and an account that has the helper.

As a program it is mishaps.py for containers:

    python -m tests.integration.containers MISHAP ACCOUNT STATE_DIR PROJECT
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import machines
from tests.integration import mishaps, playing
from tests.integration.arena import PLAIN, RUNTIME, Arena, arena_of_kind
from tests.support.account import Account

HELPER = Path("/usr/local/libexec/claude-sandbox/container-helper")
_ENGINE = Path("/usr/local/lib/claude-sandbox/engine")
_SOURCE = playing.CLONE / "plugins/module_utils/claude_sandbox"
_HELPER_TEXT = f"""\
#!/usr/bin/python3 -I
import sys
sys.path.insert(0, "{_ENGINE}")
from claude_sandbox.helper import main
main()
"""
# What of the host is changed for the account is changed among the mounts of one process, and gone with that.
_INSTALL = f"""\
set -e
mount -t tmpfs none /mnt
mkdir /mnt/up /mnt/work
mount -t overlay -o lowerdir=/usr/local,upperdir=/mnt/up,workdir=/mnt/work none /usr/local
umount -l /mnt
rm -rf {_ENGINE}
mkdir -p {HELPER.parent} {_ENGINE}
cp -r {_SOURCE} {_ENGINE}
printf %s "$2" >{HELPER}
chmod 755 {HELPER}
mount -t tmpfs -o mode=755 none /etc/sudoers.d
echo "$1 ALL=(root) NOPASSWD: {HELPER}" >/etc/sudoers.d/test
chmod 440 /etc/sudoers.d/test
echo ready
exec sleep infinity
"""
# Of the engine as it is installed for the helper, run by the account: STATE_DIR, then JSON of what to do.
_DRIVER = f"""\
import json, sys
sys.path.insert(0, "{_ENGINE}")
from claude_sandbox.errors import SandboxError
from claude_sandbox.sandboxes import Request, Sandboxes
engine, asked, found = Sandboxes(state_dir=sys.argv[1]), json.loads(sys.argv[2]), {{}}
try:
    if "argv" in asked:
        done = engine.execute(asked["name"], asked["argv"])
        found = {{"code": done.code, "out": done.stdout.decode(errors="replace")}}
    else:
        found["actions"] = engine.ensure(Request(on_change="restart", **asked)).actions
except SandboxError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


class ContainerArena(Arena):
    """An arena whose sandboxes are containers: what is left of one belongs to root and to ids that nobody has."""

    settings: Mapping[str, Any] = {"backend": "container"}
    stride = 2

    def processes(self) -> Iterator[tuple[int, str]]:
        """The account's own, and whatever has the project among its mounts."""
        yield from super().processes()
        for pid in _pids():
            with contextlib.suppress(OSError):
                folder = Path(f"/proc/{pid}")
                if str(self.project) in (folder / "mountinfo").read_text() and folder.stat().st_uid != self.account.uid:
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if words:
                        yield pid, words

    def left_behind(self) -> list[str]:
        """What there still is, root's part included."""
        return super().left_behind() + self.of_root()

    def of_root(self) -> list[str]:
        """Machines that are remembered, lock files, and what systemd-nspawn keeps."""
        found = [str(path) for path in (RUNTIME / "machines").glob("*.json") if self._is_ours(path)]
        found += self._drafts()
        found += [str(path) for path in (RUNTIME / "root").iterdir()] if (RUNTIME / "root").exists() else []
        names = [path.name for path in (self.state_dir / "sandboxes").glob("*")] or ["box"]
        for path in Path("/run/systemd/nspawn").rglob("*"):
            if any(path.name.startswith(f"{name}-") for name in names) and str(path) not in found:
                found.append(str(path))
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return found + [line for line in mounts if str(RUNTIME) in line or str(self.project) in line]

    def beside(self, name: str) -> Path:
        """A path beside the project, which no other test has."""
        return self.project.parent / f"{self.project.name}-{name}"

    def new_project(self, name: str) -> Path:
        """Another project of the same account."""
        return super().new_project(self.beside(name).name)

    def _drafts(self) -> list[str]:
        """Half written records; those of other tests that run at the same time do not stay."""
        drafts = [*(RUNTIME / "machines").glob("*.tmp")]
        if drafts:
            time.sleep(0.2)
        return [str(path) for path in drafts if path.exists()]

    def _is_ours(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return bool(json.loads(path.read_bytes())["uid"] == self.account.uid)
        return False

    def end_processes(self) -> None:
        """Kill what is still there, and forget it."""
        super().end_processes()
        for path in (RUNTIME / "machines").glob("*.json"):
            if self._is_ours(path):
                path.unlink(missing_ok=True)
        for draft in self._drafts():
            Path(draft).unlink(missing_ok=True)

    def machine(self, name: str = "box") -> dict[str, Any]:
        """What root remembers of a container."""
        record = self.engine.registry.resolve(name)
        path = RUNTIME / "machines" / f"{machines.name_of(record.name, record.id)}.json"
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content

    def root_of(self, name: str = "box") -> Path:
        """The container's root, as the host can look at it."""
        return Path(f"/proc/{self.pids(name)['init']}/root")


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


class Sudoer:
    """An account that may run the helper by sudo, which is installed for it alone, and its own registry."""

    def __init__(self, account: Account, holder: int, folder: Path) -> None:
        self.account, self._holder = account, holder
        self.folder = folder
        self.state_dir = folder / "registry"

    def prefix(self) -> list[str]:
        """What brings a command among the mounts where the helper is."""
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", f"--wd={playing.CLONE}"]

    def run(
        self, *argv: str, stdin: bytes = b"", seconds: float = 60, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[bytes]:
        """A command of the account's."""
        words = [*self.command(env), *argv]
        # As the engine does, its end stays open until there is an answer: closing it says that nobody waits for one.
        source, sink = os.pipe()
        with subprocess.Popen(words, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            os.close(source)
            writer = threading.Thread(target=_written, args=(sink, stdin + b"\n"), daemon=True)
            writer.start()
            try:
                out, err = process.communicate(timeout=seconds)
            finally:
                process.kill()
                writer.join(5)
                os.close(sink)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def command(self, env: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """What makes a command one of the account's."""
        ids = [f"--reuid={self.account.uid}", f"--regid={self.account.gid}", "--init-groups"]
        variables = {"HOME": str(self.account.home), "PATH": "/usr/bin:/bin", **env}
        words = [f"{key}={value}" for key, value in variables.items()]
        return [*self.prefix(), "setpriv", *ids, "env", "-i", *words]

    def does(self, **asked: Any) -> dict[str, Any]:
        """The engine of the account's: argv runs a command in a sandbox, a state brings one to it."""
        return self.answer(self.run(*self.driver(**asked)))

    def driver(self, **asked: Any) -> list[str]:
        """The command for that."""
        return ["/usr/bin/python3", "-I", "-c", _DRIVER, str(self.state_dir), json.dumps({"name": "box", **asked})]

    def answer(self, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
        """What it says."""
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def starts(self, project: Path, **params: Any) -> dict[str, Any]:
        """Start a sandbox of that project."""
        return self.does(params=self.params(project, **params))

    def params(self, project: Path, **params: Any) -> dict[str, Any]:
        """A plain container of that project."""
        return {"project_dir": str(project), **PLAIN, "backend": "container", **params}

    def helper(
        self,
        operation: str = "start",
        name: str = "box",
        content: Any = None,
        *,
        state_dir: Path | None = None,
        seconds: float = 60,
    ) -> tuple[dict[str, Any], str]:
        """What the helper answers, asked without the engine, and what sudo has to say."""
        stdin = content if isinstance(content, bytes) else json.dumps(content if content is not None else {}).encode()
        where = str(state_dir or self.state_dir)
        done = self.run("sudo", "-n", str(HELPER), operation, where, name, stdin=stdin, seconds=seconds)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        reply: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return reply, done.stderr.decode()

    def record(self, content: Mapping[str, Any] | bytes, name: str = "box", file: str = "spec.json") -> Path:
        """Write a record as only the account itself would want it."""
        path = self.state_dir / "sandboxes" / name / file
        (path.parent / "data").mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        self.account.own(self.folder)
        return path


@contextlib.contextmanager
def sudoer_of(account: Account) -> Iterator[Sudoer]:
    """The helper installed for an account, for as long as this lasts."""
    # Short, for a socket's path has to fit below it.
    folder = Path(tempfile.mkdtemp(prefix="csh-"))
    folder.chmod(0o755)
    account.own(folder)
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSTALL, "sh", account.name, _HELPER_TEXT],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n", "the helper could not be installed"
        yield Sudoer(account, holder.pid, folder)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        shutil.rmtree(folder)


@contextlib.contextmanager
def container_arena(account: Account, name: str) -> Iterator[ContainerArena]:
    """A registry and a project for one test of containers, which may leave sandboxes but nothing else."""
    with arena_of_kind(ContainerArena, account, name) as made:
        yield made


if __name__ == "__main__":
    mishaps.main(*sys.argv[1:], kind=ContainerArena)


def _written(sink: int, content: bytes) -> None:
    """Write all that is taken."""
    left = memoryview(content)
    with contextlib.suppress(OSError):
        while left:
            left = left[os.write(sink, left) :]
