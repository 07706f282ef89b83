# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Carrying out what is planned for one sandbox."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

from . import keys, lifecycle
from .errors import SandboxError, shown
from .host import Account, Host, account
from .instance import Instance, socket
from .keys import Keys
from .registry import Record, Registry, remove_tree
from .spec import Spec

_SOCKET_LIMIT = 107  # bytes of a UNIX socket's path, unix(7)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What can be done to a sandbox that is held; `owner` tells whose sandbox a spec is."""

    host: Host
    registry: Registry
    owner: Callable[[Spec], Account]
    keys: Keys

    @contextlib.contextmanager
    def created(self, name: str, spec: Spec, lasting: bool = True) -> Iterator[Record]:
        """A new sandbox, held while it comes up; one that never does leaves no record.

        lasting: whether its record has to outlive a power cut.
        """
        with self.registry.claim(name, spec, self.owner(spec), lasting) as record:
            try:
                self._store_keys(record, lasting)
                yield record
            except BaseException:
                # What made this necessary is the error to be told, not a second one.
                with contextlib.suppress(SandboxError):
                    self._destroy(record, purge=False)
                self.registry.discard()
                raise

    def act(self, action: str, record: Record, spec: Spec | None, purge: bool) -> Record:
        """Carry one action of a plan out, on a sandbox that is held; the record as it is then."""
        if action == "destroy":
            self._destroy(record, purge)
            return record
        if action == "mount" and spec is not None:
            self._mount(record, spec)
            return record
        if action == "limit" and spec is not None:
            self._limit(record, spec)
            return record
        if action == "update":
            record = dataclasses.replace(record, spec=spec)
            self.registry.write_spec(record)
            self._store_keys(record)
            return record
        instance = self._start(record) if action == "start" else self._stop(record)
        return dataclasses.replace(record, instance=instance)

    def start_here(self, record: Record) -> Instance:
        """Start a new sandbox in the terminal of this process, which is its account's."""
        return self._start(record, foreground=True)

    def _start(self, record: Record, foreground: bool = False) -> Instance:
        spec = record.asked()
        owner = self.owner(spec)
        store = self.registry.project_store(spec, owner)
        if record.instance is not None and record.instance.stopped_at is None:
            self._stop(record)
        folder = self._runtime_folder(record, owner)
        first = record.instance is None
        task = lifecycle.Start(
            record=record,
            owner=owner,
            folder=folder,
            store=store,
            secrets=keys.variables(record),
            resumes=not first,
            state_dir=self.registry.state_dir if first else "",
            foreground=foreground,
        )
        try:
            instance = Instance.parse(self._as(owner, spec, lambda: lifecycle.start(self.host, task).to_dict()))
        except BaseException:
            _remove_empty(folder)
            _remove_empty(store)
            raise
        try:
            self.registry.write_instance(record, instance)
        except SandboxError:
            # What is not recorded must not run.
            self._end(dataclasses.replace(record, instance=instance))
            raise
        return instance

    def _mount(self, record: Record, spec: Spec) -> None:
        """Mount what is new in a sandbox that runs."""
        instance, owner = record.instance, self.owner(spec)
        if instance is None:
            raise SandboxError(f"Sandbox {shown(record.name)} is not running.", "Start it first (state: started).")
        added = [mount for mount in spec.mounts if mount not in record.asked().mounts]
        task = lifecycle.Start(
            record=dataclasses.replace(record, spec=spec),
            owner=owner,
            folder=instance.folder,
            store=self.registry.project_store(spec, owner),
            secrets={},
            resumes=False,
            state_dir=self.registry.state_dir,
        )
        self._as(owner, spec, lambda: lifecycle.add_mounts(self.host, task, instance, added))

    def _limit(self, record: Record, spec: Spec) -> None:
        """Have what runs keep other limits; those it had, where one of the new ones cannot be kept."""
        instance, owner, before = record.instance, self.owner(spec), record.asked()
        if instance is None:
            raise SandboxError(f"Sandbox {shown(record.name)} is not running.", "Start it first (state: started).")
        try:
            self._as(owner, spec, lambda: lifecycle.limit(self.host, record, spec, owner, instance))
        except SandboxError:
            self._as(owner, spec, lambda: lifecycle.limit(self.host, record, before, owner, instance))
            raise

    def _stop(self, record: Record) -> Instance | None:
        ended = self._end(record)
        if ended is not None:
            self.registry.write_instance(record, ended)
        return ended

    def _end(self, record: Record) -> Instance | None:
        """End what runs, and record nothing: a full disk must not keep a sandbox from being removed."""
        spec, instance = record.asked(), record.instance
        owner = self.owner(spec)
        if instance is None:
            self._sweep(self._runtime_path(record, owner), record, owner)
            return None
        live = lifecycle.running(record, instance, owner)
        ended = Instance.parse(self._as(owner, spec, lambda: lifecycle.stop(self.host, live, instance).to_dict()))
        _remove_empty(instance.folder)
        return ended

    def _sweep(self, folder: str, record: Record, owner: Account) -> None:
        """End what still uses a runtime folder, and remove it: its owner may empty it, and not always remove it."""
        live = lifecycle.running(record, None, owner)
        self._as(owner, live.spec, lambda: lifecycle.sweep(self.host, folder, live))
        _remove_empty(folder)

    def _sweep_unread(self, record: Record) -> None:
        """End what belongs to a sandbox of which nothing but its folder can be read."""
        try:
            owner = account(os.lstat(record.data).st_uid)
        except OSError:
            return
        if self.host.uid == 0:
            from . import machines

            machines.stop_labelled(record.folder)
        for folder in lifecycle.as_owner(self.host, owner, None, lambda: lifecycle.sweep_logging_to(record.log, owner)):
            _remove_empty(folder)

    def _destroy(self, record: Record, purge: bool) -> None:
        if record.spec is None:
            self._sweep_unread(record)
        else:
            self._end(record)
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
        spec, folder = record.asked(), self._runtime_path(record, owner)
        if os.path.lexists(folder):
            self._sweep(folder, record, owner)
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
        if len(socket(near).encode()) <= _SOCKET_LIMIT:
            return near
        return f"/tmp/claude-sandbox-{owner.uid}/{record.id}"

    def _store_keys(self, record: Record, lasting: bool = True) -> None:
        before = keys.stored(record)
        content = self.keys.over(before)
        if content == before:
            return
        spec = record.asked()

        def store() -> None:
            try:
                keys.store(record, content, lasting)
            except OSError as error:
                raise SandboxError(f"{record.data} cannot be written: {error.strerror}.") from None

        self._as(self.owner(spec), spec, store)

    def _as(self, owner: Account, spec: Spec, function: Callable[[], Any]) -> Any:
        return lifecycle.as_owner(self.host, owner, spec, function)


def _empty(path: str) -> None:
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)
