# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directory of sandboxes on a host: one folder each, written atomically, locked while it changes.

STATE_DIR/sandboxes/NAME/spec.json       what was asked for
                        /instance.json   what was started last
                        /data/           the owner's: log, secrets, runtime files
STATE_DIR/projects/KEY/                  what a project keeps from one sandbox to the next
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

from . import files
from .errors import ConflictError, SandboxError, shown
from .host import Account
from .instance import Instance, moment
from .spec import NAME_RULE, Spec, check_name, parse

_RECORD_LIMIT = 4 << 20  # bytes; a spec with a hundred mounts has 20 KiB
_DRAFT_ATTEMPTS = 10
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Record:
    """A sandbox as the registry knows it; `problem` says why it cannot be read, where that is so."""

    name: str
    folder: str
    id: str = ""
    created_at: float = 0.0  # seconds since the epoch
    spec: Spec | None = None
    instance: Instance | None = None
    problem: str = ""

    @property
    def data(self) -> str:
        """The folder that belongs to the sandbox's account."""
        return f"{self.folder}/data"

    @property
    def log(self) -> str:
        """The file with the pane's output; the part before it is beside it, with .1 behind the name."""
        return f"{self.data}/session.log"

    @property
    def live(self) -> Instance | None:
        """What was started last, where that runs now. Starts no process."""
        instance = self.instance
        return instance if instance is not None and instance.stopped_at is None and instance.running() else None

    def asked(self) -> Spec:
        """The spec; a SandboxError where the record cannot be read."""
        if self.spec is None:
            raise SandboxError(
                f"The record of sandbox {shown(self.name)} cannot be read: {self.problem}.",
                f"Mend or remove {self.folder}; nothing in it was changed.",
            )
        return self.spec


class Registry:
    """The sandboxes recorded under one state directory."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.folder = f"{state_dir}/sandboxes"

    def prepare(self) -> None:
        """Make the directories; others may pass through them to their own, and list nothing."""
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self._check_owner()
        try:
            for path in (self.folder, f"{self.state_dir}/projects"):
                os.makedirs(path, mode=0o755, exist_ok=True)
            for path in (self.state_dir, self.folder, f"{self.state_dir}/projects"):
                os.chmod(path, mode)
        except OSError as error:
            raise SandboxError(f"{self.state_dir} cannot hold the registry: {error.strerror}.") from None

    def _check_owner(self) -> None:
        """Root writes only where nobody else can: another account could put a link in its way."""
        for path in (self.state_dir, self.folder, f"{self.state_dir}/projects"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                uid = os.lstat(path).st_uid
                if uid != os.geteuid():
                    raise SandboxError(
                        f"{path} belongs to the account {uid}.", "Run this as that account, or give another state_dir."
                    )

    def names(self) -> list[str]:
        """The names that are taken, in order."""
        try:
            return sorted(entry for entry in os.listdir(self.folder) if NAME_RULE.match(entry))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SandboxError(f"{self.folder} cannot be read: {error.strerror}.") from None

    def records(self) -> list[Record]:
        """All sandboxes, those with an unreadable record too."""
        found = (self.get(name) for name in self.names())
        return [record for record in found if record is not None]

    def get(self, name: str) -> Record | None:
        """The sandbox of this name, or None."""
        folder = f"{self.folder}/{name}"
        try:
            content = _read(f"{folder}/spec.json")
            if content is None:
                if not os.path.isdir(folder):
                    return None
                raise ValueError("spec.json is missing")
            instance = _read(f"{folder}/instance.json")
            if content.get("format") != FORMAT:
                raise ValueError(f"its format is {shown(content.get('format'))}, and this version reads {FORMAT}")
            return Record(
                name,
                folder,
                str(content["id"]),
                moment(content["created_at"]),
                parse(content["spec"]),
                Instance.parse(instance) if instance is not None else None,
            )
        except OSError as error:
            return Record(name, folder, problem=error.strerror or str(error))
        except SandboxError as error:
            return Record(name, folder, problem=error.what.rstrip("."))
        except KeyError as error:
            return Record(name, folder, problem=f"{error.args[0]} is missing")
        except (ValueError, TypeError, AttributeError) as error:
            return Record(name, folder, problem=str(error) or "not what a record looks like")

    def resolve(self, ref: str) -> Record:
        """The sandbox that an id, the beginning of one, or a name means; names come first.

        Raises SandboxError where there is none, or more than one.
        """
        record = self.get(check_name(ref))
        if record is not None:
            return record
        matches = [record for record in self.records() if record.id.startswith(ref)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(f"{record.name} ({record.id})" for record in matches)
            raise SandboxError(f"{shown(ref)} could mean several sandboxes: {names}.", "Give more of the id.")
        raise SandboxError(f"There is no sandbox {shown(ref)} in {self.state_dir}.")

    @contextlib.contextmanager
    def claim(self, name: str, spec: Spec, owner: Account, lasting: bool = True) -> Iterator[Record]:
        """Take a name that is free, and hold it: the folder appears whole, locked, under its name.

        lasting: whether it has to outlive a power cut. Raises SandboxError where another process was quicker.
        """
        self.clear()
        identity = os.urandom(6).hex()
        record = Record(name, f"{self.folder}/{name}", identity, time.time(), spec)
        draft = f"{self.folder}/.new-{identity}"
        with contextlib.ExitStack() as held:
            try:
                self._claim(record, draft, owner, held, lasting)
            except OSError as error:
                raise _write_error(draft, error) from None
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            yield record

    def clear(self) -> None:
        """Delete what killed processes have left half made or half deleted: nobody holds it."""
        with contextlib.suppress(OSError), self._gate(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for entry in os.listdir(self.folder):
                if entry.startswith((".new-", ".old-")):
                    self._clear_one(f"{self.folder}/{entry}")

    def _clear_one(self, path: str) -> None:
        with contextlib.suppress(OSError, SandboxError):
            descriptor = _lock(path, path)
            try:
                remove_tree(path)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _gate(self, operation: int) -> Iterator[None]:
        """Shared by those who make a draft and do not hold it yet, so that nobody clears it away meanwhile."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)

    def _draft(self, path: str) -> int:
        """Make the folder of a draft; a descriptor that holds it."""
        for _attempt in range(_DRAFT_ATTEMPTS):
            self.prepare()
            # Another process may just have given up the directories as empty.
            with contextlib.suppress(FileNotFoundError), self._gate(fcntl.LOCK_SH):
                os.mkdir(path, 0o711)
                return _lock(path, path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def discard(self) -> None:
        """Remove the directories again where nothing is in them."""
        with contextlib.suppress(OSError), self._gate(fcntl.LOCK_EX | fcntl.LOCK_NB):
            os.rmdir(self.folder)
            os.rmdir(f"{self.state_dir}/projects")

    def _claim(self, record: Record, draft: str, owner: Account, held: contextlib.ExitStack, lasting: bool) -> None:
        held.callback(os.close, self._draft(draft))
        os.mkdir(f"{draft}/data", 0o700)
        if owner.uid != os.geteuid():
            os.chown(f"{draft}/data", owner.uid, owner.gid)
        _write(f"{draft}/spec.json", _spec_content(record), lasting)
        try:
            os.rename(draft, record.folder)
        except OSError as error:
            if not os.path.isdir(record.folder):
                raise
            raise ConflictError(
                f"Another process made sandbox {shown(record.name)} just now ({error.strerror}).",
                "Run this again to work with that one.",
            ) from None
        if lasting:
            files.sync_folder(self.folder)

    @contextlib.contextmanager
    def locked(self, record: Record) -> Iterator[Record]:
        """Hold the sandbox against every other process; the record as it stands once held.

        Raises SandboxError where another process holds it, or has removed it.
        """
        descriptor = _lock(record.folder, record.name)
        try:
            current = self.get(record.name)
            if current is None or current.id != record.id:
                raise _removed(record.name)
            yield current
        finally:
            os.close(descriptor)

    def write_spec(self, record: Record) -> None:
        """Record what is asked for now."""
        _write(f"{record.folder}/spec.json", _spec_content(record))

    def write_instance(self, record: Record, instance: Instance) -> None:
        """Record what runs now, or ended."""
        # In the foreground it ends with this process, and with the machine all the more.
        _write(f"{record.folder}/instance.json", instance.to_dict(), lasting=not instance.foreground)

    def remove(self, record: Record) -> None:
        """Free the name, then delete the folder: what a crash leaves is no sandbox."""
        grave = f"{self.folder}/.old-{record.id or record.name}-{os.getpid()}"
        try:
            os.rename(record.folder, grave)
            if record.instance is None or not record.instance.foreground:
                files.sync_folder(self.folder)
            remove_tree(grave)
        except OSError as error:
            raise SandboxError(f"{record.folder} cannot be removed: {error.strerror}.") from None

    def store_of(self, spec: Spec, owner: Account) -> str:
        """Where that is which this account's project keeps (home directories' parts, /tmp)."""
        import hashlib

        key = hashlib.sha256(f"{owner.uid}\0{spec.project_dir}".encode()).hexdigest()[:16]
        return f"{self.state_dir}/projects/{key}"

    def project_store(self, spec: Spec, owner: Account) -> str:
        """The folder of what this account's project keeps; made where missing."""
        path = self.store_of(spec, owner)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
                if owner.uid != os.geteuid():
                    os.chown(path, owner.uid, owner.gid)
        except OSError as error:
            raise _write_error(path, error) from None
        return path


def _spec_content(record: Record) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "id": record.id,
        "created_at": record.created_at,
        "spec": record.asked().to_dict(),
    }


def _write_error(path: str, error: OSError) -> SandboxError:
    return SandboxError(f"{path} cannot be written: {error.strerror}.", "What was recorded before still stands.")


def _lock(folder: str, name: str) -> int:
    """A descriptor that holds the folder until it is closed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _removed(name) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"Another process is changing sandbox {shown(name)} right now.", "Wait for it, then try again."
        ) from None
    return descriptor


def _removed(name: str) -> SandboxError:
    return ConflictError(f"Another process removed sandbox {shown(name)} just now.")


def _read(path: str) -> Any:
    """The JSON of a file, or None where there is no file. Raises ValueError where it is something else."""
    if not os.path.lexists(path):
        return None
    content = files.read_json(path, _RECORD_LIMIT)
    if not isinstance(content, dict):
        raise ValueError(f"{os.path.basename(path)} is not what a record looks like")
    return content


def _write(path: str, content: dict[str, Any], lasting: bool = True) -> None:
    try:
        files.replace(path, json.dumps(content, indent=1).encode() + b"\n", lasting=lasting)
    except OSError as error:
        raise _write_error(path, error) from None


def remove_tree(path: str) -> None:
    """Delete a tree, also where a program took away the permission to write in it."""
    try:
        shutil.rmtree(path)
    except PermissionError:
        # Only in one's own tree: os.walk and chmod can be raced, and root needs no permission.
        if os.geteuid() == 0:
            raise
        os.chmod(path, 0o700)
        for folder, folders, _files in os.walk(path):
            for name in folders:
                if not os.path.islink(f"{folder}/{name}"):
                    os.chmod(f"{folder}/{name}", 0o700)
        shutil.rmtree(path)
