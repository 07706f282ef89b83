# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The facade: what every door calls to make, observe, change and destroy the sandboxes of a host."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import keys, plan, procs
from .errors import ConflictError, SandboxError, shown
from .host import Account, Host, Problem, account, boot_id
from .keys import Keys
from .registry import Record, Registry
from .spec import BACKENDS, Spec, check_name, parse

if TYPE_CHECKING:
    from .commands import Completed
    from .inside import Wait


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

    @property
    def keys(self) -> Keys:
        """The secrets given. Raises SandboxError where they cannot be variables."""
        return Keys(self.api_key, self.secret_env)


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
        """running, stopped (asked to, or never came up), dead (ended by itself), or unreadable."""
        if record.problem:
            return "unreadable"
        instance = record.instance
        if instance is None or instance.stopped_at is not None:
            return plan.STOPPED
        return plan.RUNNING if instance.running() else plan.DEAD

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
        return self._ensure(request, check, preflight=True)

    def _ensure(self, request: Request, check: bool, preflight: bool) -> Outcome:
        check_name(request.name)
        if request.state not in plan.STATES or request.on_change not in plan.ON_CHANGE:
            raise SandboxError(f"There is no state {shown(request.state)} or on_change {shown(request.on_change)}.")
        desired = self._desired(request)
        record = self.registry.get(request.name)
        planned = self._plan(request, record, desired)
        before = self._shown(record)
        spec = self._result_spec(request, record, desired)
        if spec is not None and spec.backend == "container":
            self._check_names(request.keys)
        # One that is yet to be made is looked at where it is started: there is nothing to lose before.
        looks = {"start", "mount", "limit"} & {*planned.actions} and (check or record is not None)
        if preflight and spec is not None and looks:
            self._preflight(spec)
        if not check and record is None:
            self.registry.clear()
        if not check and planned.actions:
            self._carry_out(request, planned.actions, record, spec)
            record = self.registry.get(request.name)
        after = self._predicted(planned.actions, before, spec) if check else self._shown(record)
        view = self.view(record) if record is not None else None
        return Outcome(
            planned.actions, before, after, view, tuple(self._warnings(request, record, spec, planned.actions))
        )

    def _check_names(self, given: Keys) -> None:
        from .machines import unusable

        for name in unusable(given.secret_env or {}):
            raise SandboxError(f"secret_env: {name} cannot be set in a container.", "Give the variable another name.")

    def ensure_all(
        self, requests: Sequence[Request], prune: bool = False, check: bool = False, workers: int | None = None
    ) -> dict[str, Outcome | SandboxError]:
        """Bring many sandboxes to their states, some at a time; with `prune`, destroy all others.

        A sandbox that fails has its error in its place, and does not keep the others from theirs.
        Raises SandboxError where two requests have one name.
        """
        wanted = {request.name: request for request in requests}
        named = set(wanted)
        if len(wanted) != len(requests):
            names = [request.name for request in requests]
            raise SandboxError(f"Sandbox {shown(next(n for n in names if names.count(n) > 1))} is in the list twice.")
        results: dict[str, Outcome | SandboxError] = {}
        if prune:
            wanted |= {name: Request(name, "absent") for name in self.registry.names() if name not in wanted}
        for name, request in wanted.items():
            try:
                if request.state == "absent" and name not in named:
                    # What cannot be read is not deleted unless it is named.
                    self.registry.resolve(name).asked()
                results[name] = self._ensure(request, check=True, preflight=check)
            except SandboxError as error:
                results[name] = error
        todo = [name for name, result in results.items() if isinstance(result, Outcome) and result.changed]
        if todo and not check:
            # Loaded once here, and not in every worker.
            from . import changes, lifecycle, view  # noqa: F401
            from .backends import bubblewrap, container, vm  # noqa: F401

            jobs = [functools.partial(self._ensured, wanted[name]) for name in todo]
            results |= zip(todo, map(_outcome, procs.in_parallel(workers or os.cpu_count() or 1, jobs)), strict=True)
        return results

    def resume(self) -> dict[str, Outcome | SandboxError]:
        """Start again what was not stopped when the host went down; for each of those what became of it."""
        now = boot_id()
        ended = [
            record.name
            for record in self.registry.records()
            if record.instance is not None
            and record.instance.stopped_at is None
            and record.instance.boot_id != now
            and not record.instance.foreground
        ]
        return self.ensure_all([Request(name) for name in ended])

    def run_here(self, request: Request) -> int:
        """Make a sandbox in the terminal of this process, wait until its program ends, and remove it; the exit code.

        For the account of this process alone. Raises SandboxError where it cannot be, or cannot be made.
        """
        from . import foreground
        from .changes import Changes

        check_name(request.name)
        spec = self._desired(request)
        if spec is None or self.owner(spec).uid != self.host.uid or spec.backend != "bubblewrap":
            raise SandboxError(
                "Only a bubblewrap sandbox of your own can run in your own terminal.",
                "Run this as the account whose project it is.",
            )
        changes = Changes(self.host, self.registry, self.owner, request.keys)
        try:
            with foreground.signals():
                with changes.created(request.name, spec, lasting=False) as record:
                    pane = changes.start_here(record).pane
                    foreground.hold()
                code = foreground.wait(pane)
                # Whoever holds it now has ended it, and does the rest.
                with contextlib.suppress(ConflictError), self.registry.locked(record) as current:
                    changes.act("destroy", current, None, purge=False)
                return code
        except foreground.AskedToEndError as asked:
            return 128 + asked.number

    def _ensured(self, request: Request) -> dict[str, Any]:
        return dataclasses.asdict(self.ensure(request))

    def _desired(self, request: Request) -> Spec | None:
        if request.state in ("stopped", "absent") or request.params is None:
            return None
        spec = parse(request.params)
        return dataclasses.replace(spec, user=self.owner(spec).name)

    def _plan(self, request: Request, record: Record | None, desired: Spec | None) -> plan.Plan:
        # What cannot be stored is to be known before anything is made, and in check mode.
        request.keys.over({})
        if record is None:
            return plan.make(request.name, request.state, plan.ABSENT, None, desired)
        if record.problem and request.state != "absent":
            record.asked()
        stored = keys.stored(record)
        differ = desired is not None and stored != request.keys.over(stored)
        live = record.live
        scoped = live is not None and live.scope != ""
        return plan.make(
            request.name, request.state, self.status(record), record.spec, desired, request.on_change, differ, scoped
        )

    def _result_spec(self, request: Request, record: Record | None, desired: Spec | None) -> Spec | None:
        """The spec that will be in force."""
        if record is not None and record.spec is not None and (desired is None or request.on_change == "ignore"):
            return record.spec
        return desired

    def _preflight(self, spec: Spec) -> None:
        from . import lifecycle

        owner = self.owner(spec)
        lifecycle.as_owner(
            self.host, owner, spec, lambda: lifecycle.preflight(self.host, spec, owner, self.registry.state_dir)
        )

    def _carry_out(self, request: Request, actions: Sequence[str], record: Record | None, spec: Spec | None) -> None:
        from .changes import Changes

        with contextlib.ExitStack() as held:
            if record is not None:
                current = held.enter_context(self.registry.locked(record))
                if self._plan(request, current, self._desired(request)).actions != tuple(actions):
                    who = f"Another process changed sandbox {shown(request.name)}"
                    raise ConflictError(f"{who} just now.", "Try again.")
                record = current
            changes = Changes(self.host, self.registry, self.owner, request.keys)
            for action in actions:
                if action == "create" and spec is not None:
                    record = held.enter_context(changes.created(request.name, spec))
                elif record is not None:
                    record = changes.act(action, record, spec, request.purge)

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
        from . import working

        record = self.registry.resolve(ref)
        return working.execute(self.host, record, self._owner_of(record), argv, cwd, env or {}, stdin, timeout)

    def enter(self, ref: str, argv: Sequence[str] = ()) -> int:
        """Run a command, or a shell, in a running sandbox in the terminal of this process; its exit code."""
        from . import working

        record = self.registry.resolve(ref)
        return working.enter(self.host, record, self._owner_of(record), argv)

    def join(self, ref: str, arguments: Sequence[str] = ()) -> int:
        """Run another agent of the same kind in a running sandbox, in the terminal of this process; its exit code."""
        from . import working

        record = self.registry.resolve(ref)
        owner = self._owner_of(record)
        return working.enter(self.host, record, owner, working.agent_argv(record, owner, arguments))

    def exists(self, ref: str, path: str) -> bool:
        """Whether a path exists inside a running sandbox."""
        from . import working

        record = self.registry.resolve(ref)
        return working.exists(self.host, record, self._owner_of(record), path)

    def converse(self, ref: str, text: str | None, keys: Sequence[str], wait: Wait) -> dict[str, Any]:
        """Type into the agent's terminal, wait for an answer, read the screen (see inside.converse)."""
        from . import working

        record = self.registry.resolve(ref)
        return working.converse(self.host, record, self._owner_of(record), text, keys, wait)

    def frame(self, ref: str) -> bytes:
        """What the screen of a running sandbox shows now, as PNG. Raises SandboxError where it has none."""
        from . import working

        record = self.registry.resolve(ref)
        return working.frame(self.host, record, self._owner_of(record))

    def preview(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What a sandbox would get of this host, were it made now (see preview.of). Raises SandboxError."""
        from . import preview

        spec = parse(params)
        owner = self.owner(spec)
        return preview.of(self.host, dataclasses.replace(spec, user=owner.name), owner, self.registry)

    def problems(self, user: str | None = None) -> dict[str, list[Problem]]:
        """For each backend, what on this host keeps the account's sandboxes from working, and what mends it."""
        from . import lifecycle

        owner = account(user) if user is not None else self.host.account
        found = {}
        for name in BACKENDS:
            spec = Spec(project_dir=owner.home, backend=name, user=owner.name)

            def look(spec: Spec = spec) -> list[tuple[str, str]]:
                return [(each.what, each.hint) for each in lifecycle.problems(self.host, spec, owner)]

            found[name] = [Problem(*words) for words in lifecycle.as_owner(self.host, owner, spec, look)]
        return found

    def usage(self, record: Record) -> dict[str, Any]:
        """What a sandbox uses: its processes now, and its agent's tokens since it was made."""
        from . import working

        spec, owner = record.asked(), self._owner_of(record)
        store = self.registry.project_store(spec, owner)
        return working.usage(self.host, record, owner, store, self.registry.state_dir)

    def _owner_of(self, record: Record) -> Account:
        return self.owner(record.asked())

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

    def _warnings(
        self, request: Request, record: Record | None, spec: Spec | None, actions: Sequence[str]
    ) -> Iterable[str]:
        if record is None and request.state == "stopped":
            yield f"There is no sandbox {request.name!r} to stop."
        if spec is not None and spec.user == "root" and request.state in ("started", "restarted"):
            yield "This sandbox runs as root: give it a user of its own, for an agent that gets out would be root."
        if record is not None and record.instance is not None and record.instance.not_kvm and "start" in actions:
            yield f"The virtual machine runs without KVM, and slowly: {record.instance.not_kvm}."
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
