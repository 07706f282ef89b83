# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The facade: what every door calls to make, observe, change and destroy the sandboxes of a host."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import files, plan, procs
from .errors import SandboxError, shown
from .host import Account, Host, account
from .instance import Instance
from .registry import Record, Registry
from .spec import Spec, check_name, environment, parse

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
    ) -> list[Outcome | SandboxError]:
        """Bring many sandboxes to their states, some at a time; with `prune`, destroy all others.

        A sandbox that fails has its error in its place, and does not keep the others from theirs.
        """
        wanted = list(requests)
        if prune:
            named = {request.name for request in wanted}
            wanted += [Request(name, "absent") for name in self.registry.names() if name not in named]
        pending = [index for index, request in enumerate(wanted) if not self._settled(request)]
        results: dict[int, Outcome | SandboxError] = {}
        jobs = [lambda request=wanted[index]: dataclasses.asdict(self.ensure(request, check)) for index in pending]
        for index, result in zip(pending, procs.in_parallel(workers or os.cpu_count() or 1, jobs), strict=True):
            results[index] = result if isinstance(result, SandboxError) else _outcome(result)
        return [results[index] if index in results else self.ensure(wanted[index], check=True) for index in range(len(wanted))]

    def _settled(self, request: Request) -> bool:
        """Whether nothing is to be done: worked out here, for it costs less than a fork."""
        try:
            return not self.ensure(request, check=True).changed
        except SandboxError:
            return False

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
        procs.as_account(owner, lambda: lifecycle.preflight(self.host, spec, owner, self.registry.state_dir))

    def _carry_out(
        self, request: Request, actions: Sequence[str], record: Record | None, spec: Spec | None
    ) -> None:
        with contextlib.ExitStack() as held:
            if record is not None:
                current = held.enter_context(self.registry.locked(record))
                if self._plan(request, current, self._desired(request)).actions != tuple(actions):
                    raise SandboxError(f"Another process changed sandbox {shown(request.name)} just now.", "Try again.")
                record = current
            for action in actions:
                record = self._act(action, request, record, spec, held)

    def _act(
        self, action: str, request: Request, record: Record | None, spec: Spec | None, held: contextlib.ExitStack
    ) -> Record | None:
        if action == "create":
            assert spec is not None
            record = held.enter_context(self.registry.claim(request.name, spec, self.owner(spec)))
            # A sandbox that never came up leaves no record; what follows a start keeps it.
            held.push(lambda kind, error, trace: self._forget(record) if error is not None else None)
            self._store_secrets(request, record)
            return record
        assert record is not None
        if action == "destroy":
            self._destroy(record, request.purge)
            return None
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
            instance = Instance.parse(
                procs.as_account(owner, lambda: lifecycle.start(self.host, task).to_dict())
            )
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
            procs.as_account(owner, lambda: lifecycle.sweep(folder, owner))
            _remove_empty(folder)
            return None
        ended = Instance.parse(procs.as_account(owner, lambda: lifecycle.stop(spec, instance, owner).to_dict()))
        _remove_empty(instance.folder)
        self.registry.write_instance(record, ended)
        return ended

    def _destroy(self, record: Record, purge: bool) -> None:
        if record.spec is not None:
            self._stop(record)
            owner, spec = self.owner(record.spec), record.spec
            # As the owner: root would follow what the owner may have put in its own folders.
            procs.as_account(owner, lambda: _empty(record.data))
            if purge:
                store = self.registry.project_store(spec, owner)
                procs.as_account(owner, lambda: _empty(store))
                _remove_empty(store)
        self.registry.remove(record)

    def _forget(self, record: Record) -> None:
        with contextlib.suppress(SandboxError):
            self._destroy(record, purge=False)

    def _runtime_folder(self, record: Record, owner: Account) -> str:
        """An empty folder of the owner's for sockets and the framebuffer."""
        from . import lifecycle

        folder = self._runtime_path(record, owner)
        if os.path.lexists(folder):
            procs.as_account(owner, lambda: lifecycle.sweep(folder, owner))
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
                procs.as_account(owner, lambda: os.mkdir(folder, 0o700))
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

        owner, path = self.owner(record.asked()), _secrets_file(record)
        procs.as_account(owner, lambda: files.replace(path, json.dumps(content).encode()))

    def _secret_env(self, record: Record) -> dict[str, str]:
        stored = _secrets(record)
        key = {API_KEY: stored["api_key"]} if "api_key" in stored else {}
        return {**key, **stored.get("secret_env", {})}

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
            asked = {name for name, given in spec.grants.items() if given}
            for name, why in record.instance.skipped.items():
                if name in asked or name.startswith("mount "):
                    yield f"{name} is not in the sandbox: {why}."


def _outcome(content: Mapping[str, Any]) -> Outcome:
    values = dict(content)
    return Outcome(**{**values, "actions": tuple(values["actions"]), "warnings": tuple(values["warnings"])})


def _secrets_file(record: Record) -> str:
    return f"{record.data}/secrets.json"


def _secrets(record: Record) -> dict[str, Any]:
    content = files.read_json(_secrets_file(record), _SECRETS_LIMIT)
    return content if isinstance(content, dict) else {}


def _empty(path: str) -> None:
    from .registry import remove_tree

    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)
