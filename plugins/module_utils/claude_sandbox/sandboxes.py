# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The facade: what every door calls to make, observe, change and destroy the sandboxes of a host."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import files, plan, procs
from .errors import SandboxError, shown
from .host import Account, Host, account
from .instance import Instance
from .registry import Record, Registry, remove_tree
from .spec import Spec, check_name, environment, parse

if TYPE_CHECKING:
    from .inside import Completed, Wait

_SECRETS_LIMIT = 1 << 20
_SOCKET_LIMIT = 107  # bytes of a UNIX socket's path, unix(7)
API_KEY = "ANTHROPIC_API_KEY"


@dataclasses.dataclass(frozen=True)
class Request:
    """What a door asks for.

    params: the fields of a spec, or None to take the sandbox as it is recorded.
    api_key, secret_env: None leaves what is stored; an empty one takes it away.
    purge: with state absent, delete what the project keeps for its sandboxes, too.
    """

    name: str
    state: str = "started"
    params: Mapping[str, Any] | None = None
    on_change: str = "fail"
    api_key: str | None = None
    secret_env: Mapping[str, str] | None = None
    purge: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was done, or in check mode would be.

    before, after: the spec and the status, for a diff; no secret is in either.
    sandbox: as `Sandboxes.view` gives it; None where there is none.
    """

    actions: tuple[str, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    sandbox: dict[str, Any] | None
    warnings: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, done."""
        return bool(self.actions)


class Sandboxes:
    """The sandboxes of one registry on this host."""

    def __init__(self, host: Host | None = None, state_dir: str | None = None) -> None:
        self.host = host or Host.this()
        self.registry = Registry(os.path.abspath(state_dir or self.host.state_dir()))

    # Observing

    def status(self, record: Record) -> str:
        """running, stopped (asked to), dead (ended by itself, or never came up), or unreadable."""
        if record.problem:
            return "unreadable"
        instance = record.instance
        if instance is None:
            return plan.DEAD
        if instance.stopped_at is not None:
            return plan.STOPPED
        from . import lifecycle

        return plan.RUNNING if lifecycle.running(instance) else plan.DEAD

    def view(self, record: Record) -> dict[str, Any]:
        """A sandbox as every door shows it."""
        if record.spec is None:
            return {"name": record.name, "status": "unreadable", "problem": record.problem, "folder": record.folder}
        from . import view

        return view.of(self.host, record, self.status(record))

    def views(self) -> list[dict[str, Any]]:
        """All sandboxes, in the order of their names."""
        return [self.view(record) for record in self.registry.records()]

    def owner(self, spec: Spec) -> Account:
        """The account whose sandbox it is. Raises SandboxError where this process cannot act for it."""
        found = account(spec.user) if spec.user is not None else self._default_owner(spec)
        if self.host.uid not in (0, found.uid):
            raise SandboxError(
                f"{self.host.account.name} cannot run a sandbox for {found.name}.",
                f"Run this as {found.name} or as root, or leave user out.",
            )
        return found

    def _default_owner(self, spec: Spec) -> Account:
        if self.host.uid != 0:
            return self.host.account
        try:
            return account(os.stat(spec.project_dir).st_uid)
        except OSError as error:
            raise SandboxError(
                f"project_dir {shown(spec.project_dir)}: {error.strerror}.", "Create it, owned by who works in it."
            ) from None

    # Changing

    def ensure(self, request: Request, check: bool = False) -> Outcome:
        """Bring one sandbox to the state asked for; with `check`, only say what that would take.

        Raises SandboxError, and then leaves the sandbox as it was, or (where it had to be stopped) stopped.
        """
        check_name(request.name)
        if request.state not in plan.STATES or request.on_change not in plan.ON_CHANGE:
            raise SandboxError(f"There is no state {shown(request.state)} or on_change {shown(request.on_change)}.")
        desired = self._desired(request)
        record = self.registry.get(request.name)
        planned = self._plan(request, record, desired)
        before = self._shown(record)
        spec = self._result_spec(request, record, desired)
        if "start" in planned.actions and spec is not None:
            self._preflight(spec)
        if not check and planned.actions:
            self._carry_out(request, planned.actions, record, spec)
            record = self.registry.get(request.name)
        after = self._predicted(planned.actions, before, spec) if check else self._shown(record)
        view = self.view(record) if record is not None else None
        return Outcome(planned.actions, before, after, view, tuple(self._warnings(request, record, spec)))

    def ensure_all(
        self, requests: Sequence[Request], prune: bool = False, check: bool = False, workers: int | None = None
    ) -> dict[str, Outcome | SandboxError]:
        """Bring many sandboxes to their states, some at a time; with `prune`, destroy all others.

        A sandbox that fails has its error in its place, and does not keep the others from theirs.
        Raises SandboxError where two requests have one name.
        """
        wanted = {request.name: request for request in requests}
        if len(wanted) != len(requests):
            names = [request.name for request in requests]
            raise SandboxError(f"Sandbox {shown(next(n for n in names if names.count(n) > 1))} is in the list twice.")
        if prune:
            wanted |= {name: Request(name, "absent") for name in self.registry.names() if name not in wanted}
        results: dict[str, Outcome | SandboxError] = {}
        for name, request in wanted.items():
            try:
                results[name] = self.ensure(request, check=True)
            except SandboxError as error:
                results[name] = error
        todo = [name for name, result in results.items() if isinstance(result, Outcome) and result.changed]
        if not check:
            jobs = [functools.partial(self._ensured, wanted[name]) for name in todo]
            results |= zip(todo, map(_outcome, procs.in_parallel(workers or os.cpu_count() or 1, jobs)), strict=True)
        return results

    def _ensured(self, request: Request) -> dict[str, Any]:
        return dataclasses.asdict(self.ensure(request))

    def _desired(self, request: Request) -> Spec | None:
        if request.state in ("stopped", "absent") or request.params is None:
            return None
        spec = parse(request.params)
        return dataclasses.replace(spec, user=self.owner(spec).name)

    def _plan(self, request: Request, record: Record | None, desired: Spec | None) -> plan.Plan:
        if record is None:
            return plan.make(request.name, request.state, plan.ABSENT, None, desired)
        if record.problem and request.state != "absent":
            record.asked()
        differ = desired is not None and _secrets(record) != self._secrets_after(request, record)
        return plan.make(
            request.name, request.state, self.status(record), record.spec, desired, request.on_change, differ
        )

    def _result_spec(self, request: Request, record: Record | None, desired: Spec | None) -> Spec | None:
        """The spec that will be in force."""
        if record is not None and record.spec is not None and (desired is None or request.on_change == "ignore"):
            return record.spec
        return desired

    def _preflight(self, spec: Spec) -> None:
        from . import lifecycle

        owner = self.owner(spec)
        self._as(owner, spec, lambda: lifecycle.preflight(self.host, spec, owner, self.registry.state_dir))

    def _carry_out(self, request: Request, actions: Sequence[str], record: Record | None, spec: Spec | None) -> None:
        with contextlib.ExitStack() as held:
            if record is not None:
                current = held.enter_context(self.registry.locked(record))
                if self._plan(request, current, self._desired(request)).actions != tuple(actions):
                    raise SandboxError(f"Another process changed sandbox {shown(request.name)} just now.", "Try again.")
                record = current
            for action in actions:
                if action == "create" and spec is not None:
                    record = held.enter_context(self._created(request, spec))
                elif record is not None:
                    record = self._act(action, request, record, spec)

    @contextlib.contextmanager
    def _created(self, request: Request, spec: Spec) -> Iterator[Record]:
        """A new sandbox, held while it comes up; one that never does leaves no record."""
        with self.registry.claim(request.name, spec, self.owner(spec)) as record:
            try:
                self._store_secrets(request, record)
                yield record
            except BaseException:
                # What made this necessary is the error to be told, not a second one.
                with contextlib.suppress(SandboxError):
                    self._destroy(record, purge=False)
                raise

    def _act(self, action: str, request: Request, record: Record, spec: Spec | None) -> Record:
        if action == "destroy":
            self._destroy(record, request.purge)
            return record
        if action == "update":
            record = dataclasses.replace(record, spec=spec)
            self.registry.write_spec(record)
            self._store_secrets(request, record)
            return record
        instance = self._start(record) if action == "start" else self._stop(record)
        return dataclasses.replace(record, instance=instance)

    def _start(self, record: Record) -> Instance:
        from . import lifecycle

        spec = record.asked()
        owner = self.owner(spec)
        store = self.registry.project_store(spec, owner)
        if record.instance is not None and record.instance.stopped_at is None:
            self._stop(record)
        folder = self._runtime_folder(record, owner)
        task = lifecycle.Start(record, owner, folder, store, self._secret_env(record), record.instance is not None)
        try:
            instance = Instance.parse(self._as(owner, spec, lambda: lifecycle.start(self.host, task).to_dict()))
        except BaseException:
            _remove_empty(folder)
            raise
        self.registry.write_instance(record, instance)
        return instance

    def _stop(self, record: Record) -> Instance | None:
        from . import lifecycle

        spec, instance = record.asked(), record.instance
        owner = self.owner(spec)
        if instance is None:
            folder = self._runtime_path(record, owner)
            self._as(owner, spec, lambda: lifecycle.sweep(folder, owner))
            _remove_empty(folder)
            return None
        ended = Instance.parse(self._as(owner, spec, lambda: lifecycle.stop(spec, instance, owner).to_dict()))
        _remove_empty(instance.folder)
        self.registry.write_instance(record, ended)
        return ended

    def _destroy(self, record: Record, purge: bool) -> None:
        if record.spec is not None:
            self._stop(record)
            owner, spec = self.owner(record.spec), record.spec
            # As the owner: root would follow what the owner may have put in its own folders.
            self._as(owner, spec, lambda: _empty(record.data))
            if purge:
                store = self.registry.project_store(spec, owner)
                self._as(owner, spec, lambda: _empty(store))
                _remove_empty(store)
        self.registry.remove(record)

    def _runtime_folder(self, record: Record, owner: Account) -> str:
        """An empty folder of the owner's for sockets and the framebuffer."""
        from . import lifecycle

        spec, folder = record.asked(), self._runtime_path(record, owner)
        if os.path.lexists(folder):
            self._as(owner, spec, lambda: lifecycle.sweep(folder, owner))
            _remove_empty(folder)
        parent = os.path.dirname(folder)
        try:
            if parent != record.data:
                os.makedirs(parent, mode=0o711 if self.host.uid == 0 else 0o700, exist_ok=True)
                status = os.lstat(parent)
                if status.st_uid != self.host.uid or status.st_mode & 0o022:
                    raise SandboxError(f"{parent} belongs to another account.", "Remove it, or move the registry.")
                os.mkdir(folder, 0o700)
                if owner.uid != self.host.uid:
                    os.chown(folder, owner.uid, owner.gid)
            else:
                self._as(owner, spec, lambda: os.mkdir(folder, 0o700))
        except OSError as error:
            raise SandboxError(f"{folder} cannot be made: {error.strerror}.") from None
        return folder

    def _runtime_path(self, record: Record, owner: Account) -> str:
        """Where that folder is: in memory where it lives as long as the sandbox, and short enough for a socket."""
        if self.host.uid == 0:
            return f"/run/claude-sandbox/{record.id}"
        # Without lingering, systemd takes the account's runtime directory away at logout.
        runtime = f"/run/user/{owner.uid}"
        if os.path.exists(f"/var/lib/systemd/linger/{owner.name}") and os.access(runtime, os.W_OK):
            return f"{runtime}/claude-sandbox/{record.id}"
        near = f"{record.data}/run"
        if len(f"{near}/tmux".encode()) <= _SOCKET_LIMIT:
            return near
        return f"/tmp/claude-sandbox-{owner.uid}/{record.id}"

    # Working inside

    def execute(
        self,
        ref: str,
        argv: Sequence[str],
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> Completed:
        """Run a command in a running sandbox, with the agent's environment and `env` beside it.

        timeout: seconds. Raises SandboxError where the sandbox does not run.
        """
        from . import inside

        record = self.registry.resolve(ref)
        instance, spec = inside.live_instance(record), record.asked()
        whole = {**instance.env, **self._secret_env(record), **environment("env", env or {})}
        folder = cwd or spec.project_dir

        def work() -> dict[str, Any]:
            return inside.execute(record, argv, whole, folder, stdin, timeout).to_json()

        return inside.Completed.from_json(self._as(self.owner(spec), spec, work, always_fork=True))

    def exists(self, ref: str, path: str) -> bool:
        """Whether a path exists inside a running sandbox."""
        from . import inside

        record = self.registry.resolve(ref)
        inside.live_instance(record)
        spec = record.asked()
        return bool(self._as(self.owner(spec), spec, lambda: inside.exists(record, path)))

    def converse(self, ref: str, text: str | None, keys: Sequence[str], wait: Wait) -> dict[str, Any]:
        """Type into the agent's terminal, wait for an answer, read the screen (see inside.converse)."""
        from . import inside

        record = self.registry.resolve(ref)
        inside.live_instance(record)
        spec = record.asked()
        owner = self.owner(spec)
        found: dict[str, Any] = self._as(owner, spec, lambda: inside.converse(self.host, record, text, keys, wait))
        return found

    def usage(self, record: Record) -> dict[str, Any]:
        """What a sandbox uses: its processes now, and its agent's tokens since it was made."""
        from . import inside, usage

        spec = record.asked()
        running = self.status(record) == plan.RUNNING
        instance = inside.live_instance(record) if running else None
        owner = self.owner(spec)
        shared = record.instance is None or "claude" in record.instance.given
        claude_dir = f"{owner.home}/.claude"
        if not shared:
            claude_dir = f"{self.registry.project_store(spec, owner)}/claude"
        tokens = self._as(
            owner, spec, lambda: dataclasses.asdict(usage.measure(claude_dir, spec.project_dir, record.created_at))
        )
        processes = procs.namespace_usage(instance.init.pid) if instance else procs.Usage(0.0, 0, 0)
        return {
            "process": dataclasses.asdict(processes),
            "session": tokens,
            "activity": inside.activity_of(record) if running else None,
        }

    # Secrets

    def _secrets_after(self, request: Request, record: Record) -> dict[str, Any]:
        stored = dict(_secrets(record))
        for key, given in (("api_key", request.api_key), ("secret_env", request.secret_env)):
            if given is not None:
                stored.pop(key, None)
                if given:
                    stored[key] = environment("secret_env", given) if key == "secret_env" else given
        return stored

    def _store_secrets(self, request: Request, record: Record) -> None:
        content = self._secrets_after(request, record)
        if content == _secrets(record):
            return
        import json

        spec, path = record.asked(), _secrets_file(record)
        self._as(self.owner(spec), spec, lambda: files.replace(path, json.dumps(content).encode()))

    def _secret_env(self, record: Record) -> dict[str, str]:
        stored = _secrets(record)
        key = {API_KEY: stored["api_key"]} if "api_key" in stored else {}
        return {**key, **stored.get("secret_env", {})}

    def _as(self, owner: Account, spec: Spec, function: Callable[[], Any], always_fork: bool = False) -> Any:
        """The function's value, worked out under the sandbox's account, in a child where that is another one.

        always_fork: for what changes its process for good, or must be the only thread.
        """
        from . import lifecycle

        # Everything is imported before: that account may not be able to read what we were started from.
        lifecycle.backend(spec)
        if owner.uid != self.host.uid:
            return procs.fork(owner, function).result()
        return procs.fork(None, function).result() if always_fork else function()

    # Telling

    def _shown(self, record: Record | None) -> dict[str, Any]:
        if record is None:
            return {"status": plan.ABSENT}
        spec = record.spec.to_dict() if record.spec else {}
        return {"status": self.status(record), **spec}

    def _predicted(self, actions: Sequence[str], before: dict[str, Any], spec: Spec | None) -> dict[str, Any]:
        if not actions:
            return before
        if actions[-1] == "destroy":
            return {"status": plan.ABSENT}
        status = {"start": plan.RUNNING, "stop": plan.STOPPED}.get(actions[-1], before["status"])
        return {"status": status, **(spec.to_dict() if spec else {})}

    def _warnings(self, request: Request, record: Record | None, spec: Spec | None) -> Iterable[str]:
        if record is None and request.state == "stopped":
            yield f"There is no sandbox {request.name!r} to stop."
        if spec is not None and spec.user == "root" and request.state in ("started", "restarted"):
            yield "This sandbox runs as root: give it a user of its own, for an agent that gets out would be root."
        if record is not None and record.instance is not None and spec is not None:
            # Without ~/.claude there is no login: that is news to whoever did not ask for it by name, too.
            missed = {name for name, given in spec.grants.items() if given} | {"claude"}
            for name, why in record.instance.skipped.items():
                if name in missed or name.startswith("mount "):
                    yield f"{name} is not in the sandbox: {why}."


def _outcome(content: Mapping[str, Any] | SandboxError) -> Outcome | SandboxError:
    """What a worker made of an outcome, as an Outcome again."""
    if isinstance(content, SandboxError):
        return content
    values = dict(content)
    return Outcome(**{**values, "actions": tuple(values["actions"]), "warnings": tuple(values["warnings"])})


def _secrets_file(record: Record) -> str:
    return f"{record.data}/secrets.json"


def _secrets(record: Record) -> dict[str, Any]:
    content = files.read_json(_secrets_file(record), _SECRETS_LIMIT)
    return content if isinstance(content, dict) else {}


def _empty(path: str) -> None:
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)
