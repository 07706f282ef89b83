# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Containers, as far as only root can make, enter and end them. Everything here runs as root.

What is asked for comes from a process of the sandbox's account, and is as hostile as that: what is mounted comes as
open descriptors, of which that account's own rights decide; paths are only of the container's inside, and are walked
there without following a link.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import posixpath
import pwd
import re
import select
import signal
import stat
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import cgroups, commands, files, landlock, limits, mounts, namespaces, procs, seccomp
from .errors import SandboxError, shown
from .host import Account, Host, boot_id, mapped_ranges
from .procs import Process
from .spec import LIMIT_OPTIONS

FOLDER = "/run/claude-sandbox"
_MACHINES = f"{FOLDER}/machines"
_ROOTS = f"{FOLDER}/root"
_START = "/run/claude-sandbox"  # inside: how the program gets its environment
_NAME_RULE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,48}[A-Za-z0-9])?-[0-9a-f]{12}\Z")
_ENDS = 2  # the terminal and the pipe
_RECORD_LIMIT = 1 << 16
# The range in which systemd-nspawn itself looks for free ids (systemd's UIDS-GIDS).
_FIRST_BASE, _LAST_BASE, _RANGE = 0x80000, 0x6FFF0000, 0x10000
_START_SECONDS = 30.0
_END_SECONDS = 5.0
_MOST_GRACE = 30.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_RESERVED = (f"{_START}/", "/run/host/", "/run/systemd/")
_FORBIDDEN_TOPS = ("proc", "sys", "dev")

# Runs inside, as the account: takes the environment, which no argv and no other process' environment may hold, and
# waits for the program, for systemd-nspawn does not tell by which signal one ended. The trap is not inherited.
_SCRIPT = """\
if [ "$1" = wait ]; then
  for name in $(compgen -e); do unset -v "$name"; done
  while IFS= read -r -d '' claude_sandbox_pair; do
    export "$claude_sandbox_pair"
  done <"$0/environment" 2>/dev/null
  trap : INT QUIT
  "$2" -p -c "$BASH_EXECUTION_STRING" "$0" run "${@:3}"
  exit
fi
shopt -s execfail
cd -- "$2" && shift 2 && unset -v SHLVL OLDPWD && exec -- "$@"
echo failed >"$0/failed"
exit 126"""
# Runs outside, as root, for as long as the container: tells its exit code to the pane.
_SUPERVISOR = '"$@" 3>&-\ncode=$?\necho "$code" >&3\nexit "$code"'
_WORDS = _SCRIPT.encode()
# Variables in which bash keeps something of its own, and so passes none on; BASH_ENV it does.
_OF_BASH = re.compile(
    r"BASH(?!_ENV\Z)\w*|COMP_\w+|COPROC|DIRSTACK|EPOCH\w+|EUID|FUNCNAME|GROUPS|HISTCMD|IFS|LINENO|OLDPWD|OPT(ARG|ERR|IND)"
    r"|PIPESTATUS|PPID|PS4|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_"
)


@dataclasses.dataclass(frozen=True)
class Mounted:
    """A descriptor to be mounted: `own` where the account's files are seen as its own through the mapping of ids.

    source: what it was opened by, for messages.
    """

    source: str
    target: str
    writable: bool
    own: bool


@dataclasses.dataclass(frozen=True)
class Order:
    """A container as it is asked for.

    pane: a process of the account's, in whose control group what root starts belongs, too.
    limits: what the container may use, as limits.settings has it.

    Its descriptors are its terminal, its pane's pipe, and then, parents first, what is mounted.
    files: contents at paths inside.
    """

    machine: str
    label: str
    hostname: str
    network: bool
    user_namespace: bool
    mounts: tuple[Mounted, ...]
    links: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    files: Mapping[str, bytes]
    env: Mapping[str, str]
    shell: str
    argv: tuple[str, ...]
    cwd: str
    pane: int
    limits: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it."""
        content = dataclasses.asdict(self)
        content["files"] = {path: base64.b64encode(data).decode() for path, data in self.files.items()}
        return content

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Order:
        """An order from its JSON, checked. Raises KeyError, TypeError or ValueError where it is none."""
        for name in ("mounts", "links", "devices", "argv", "files", "env"):
            if not isinstance(content[name], dict if name in ("files", "env") else (list, tuple)):
                raise TypeError(f"{name} is of another kind")
        if not content["argv"]:
            raise ValueError("there is no program")
        mounted = tuple(_mounted(each) for each in content["mounts"])
        return cls(
            machine=_machine(content["machine"]),
            label=_text(content["label"]),
            hostname=_text(content["hostname"]),
            network=content["network"] is True,
            user_namespace=content["user_namespace"] is not False,
            mounts=mounted,
            links=tuple((_inside(path), _text(points_to)) for path, points_to in content["links"]),
            devices=tuple(_device(path) for path in content["devices"]),
            files={_inside(path): base64.b64decode(data) for path, data in content["files"].items()},
            env={_text(key): _text(value) for key, value in content["env"].items()},
            shell=_inside(content["shell"]),
            argv=tuple(_text(word) for word in content["argv"]),
            cwd=_inside(content["cwd"]),
            pane=int(content["pane"]),
            limits=checked_limits(content["limits"]),
        )


def checked_limits(content: Mapping[str, Any]) -> dict[str, Any]:
    """Limits from JSON, as a spec has them. Raises KeyError, TypeError or ValueError where they are none."""
    for name, value in content.items():
        option = LIMIT_OPTIONS[name]
        kinds = (int, float) if option.kind == "float" else (int,)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise TypeError(f"{name} is no number")
        if value is not None and not option.limits[0] <= value <= option.limits[1]:
            raise ValueError(f"{name} is out of its range")
    return dict(content)


def _mounted(content: Mapping[str, Any]) -> Mounted:
    target = _inside(content["target"])
    if reserved(target):
        raise ValueError(f"nothing can be mounted on {shown(target)}")
    return Mounted(_text(content["source"]), target, content["writable"] is True, content["own"] is True)


def reserved(target: str) -> bool:
    """Whether a path inside is one that systemd-nspawn or we ourselves need."""
    return target == "/run" or f"{target}/".startswith(_RESERVED)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{shown(value)} is no text")
    value.encode()
    return value


def _machine(value: Any) -> str:
    if not isinstance(value, str) or not _NAME_RULE.match(value):
        raise ValueError(f"{shown(value)} is no name of a machine")
    return value


def _inside(value: Any) -> str:
    """An absolute path in its normal form that may be something of ours inside."""
    path = _text(value)
    if not path.startswith("/") or path != posixpath.normpath(path) or path.startswith("//") or path == "/":
        raise ValueError(f"{shown(path)} is no path inside")
    if path.split("/")[1] in _FORBIDDEN_TOPS:
        raise ValueError(f"nothing can be put on {shown(path)}")
    return path


def _device(value: Any) -> str:
    path = _text(value)
    if path != "/dev/dri":
        raise ValueError(f"{shown(path)} is no device that a sandbox gets")
    return path


@dataclasses.dataclass(frozen=True)
class Machine:
    """A container that was started, as root remembers it.

    base: the first id of its range, None where it has none. own: the devices of the file systems made for it.
    lock: the name of the file by which systemd-nspawn keeps others from its root.
    """

    name: str
    uid: int
    label: str
    base: int | None
    boot_id: str
    supervisor: Process
    init: Process | None = None
    own: tuple[int, ...] = ()
    lock: str = ""

    def alive(self) -> bool:
        """Whether anything of it runs."""
        if self.boot_id != boot_id():
            return False
        return self.supervisor.alive() or (self.init is not None and self.init.alive())

    def run_by(self, supervisor: Process, init: Process | None = None) -> Machine:
        """The same with its processes."""
        return dataclasses.replace(self, supervisor=supervisor, init=init)


def name_of(name: str, identity: str) -> str:
    """The machine of a sandbox: a name that `machinectl list` shows, and no other sandbox has."""
    return f"{host_name(name)[:50].rstrip('-')}-{identity}"


def host_name(name: str) -> str:
    """A sandbox's name as one of a host: there is no _ in those, and no - at the end."""
    return name.replace("_", "-").rstrip("-")


def unusable(names: Iterable[str]) -> list[str]:
    """The variables of these that cannot be given to a program in a container."""
    return sorted(name for name in names if _OF_BASH.fullmatch(name))


def _root(machine: Machine) -> str:
    return f"{_ROOTS}/{machine.name}"


# What root remembers


def _path(name: str) -> str:
    return f"{_MACHINES}/{name}.json"


def _read(name: str) -> Machine | None:
    content = files.read_json(_path(name), _RECORD_LIMIT)
    if content is None:
        return None
    supervisor, init = (
        Process(content[key]["pid"], content[key]["start"]) if content[key] else None for key in ("supervisor", "init")
    )
    if supervisor is None:
        raise ValueError("a machine without a supervisor")
    return Machine(**{**content, "supervisor": supervisor, "init": init, "own": tuple(content["own"])})


def _write(machine: Machine) -> None:
    draft = _draft(machine.name)
    # Its name is always the same, so that none stays behind.
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(json.dumps(dataclasses.asdict(machine)).encode())
    os.rename(draft, _path(machine.name))


def _draft(name: str) -> str:
    return f"{_MACHINES}/{name}.new"


def _names() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [entry[:-5] for entry in os.listdir(_MACHINES) if entry.endswith(".json")]
    return []


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Alone with the records."""
    os.makedirs(FOLDER, mode=0o711, exist_ok=True)
    for path in (_MACHINES, _ROOTS):
        os.makedirs(path, mode=0o700, exist_ok=True)
    for path in (FOLDER, _MACHINES, _ROOTS):
        status = os.lstat(path)
        if status.st_uid != 0 or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
            raise SandboxError(f"{path} belongs to another account.", "Remove it.")
    lock = os.open(f"{_MACHINES}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _of(owner: Account, name: str) -> Machine | None:
    """The account's machine of that name. Raises SandboxError where it is another account's."""
    machine = _read(_machine(name))
    if machine is not None and machine.uid != owner.uid:
        raise SandboxError(f"The container {name} belongs to another account.")
    return machine


def _running(owner: Account, name: str) -> tuple[Machine, Process]:
    machine = _of(owner, name)
    if machine is None or machine.init is None or not machine.alive():
        raise SandboxError(f"The container {shown(name)} does not run.", "Start the sandbox first.")
    return machine, machine.init


def init_of(owner: Account, name: Any) -> Process:
    """The first process of a container of the account's that runs. Raises SandboxError where there is none."""
    return _running(owner, name)[1]


def _claim(order: Order, owner: Account) -> Machine:
    """Remember a machine that is about to be made, with a range of ids that is nobody's."""
    us = procs.identify(os.getpid())
    if us is None:
        raise RuntimeError("this process does not exist")
    with _held():
        earlier = _of(owner, order.machine)
        if earlier is not None and earlier.alive():
            raise SandboxError(f"The container {order.machine} runs already.", "Stop the sandbox first.")
        base = _free_base(order.machine) if order.user_namespace else None
        machine = Machine(order.machine, owner.uid, order.label, base, boot_id(), us)
        _write(machine)
    return machine


def _free_base(name: str) -> int:
    others = (machine for machine in map(_read, _names()) if machine is not None and machine.alive())
    taken = [(machine.base, _RANGE) for machine in others if machine.base and machine.name != name]
    taken += mapped_ranges()
    slots = (_LAST_BASE - _FIRST_BASE) // _RANGE + 1
    first = int(name[-12:], 16)
    for attempt in range(slots):
        base = _FIRST_BASE + (first + attempt) % slots * _RANGE
        if all(base + _RANGE <= start or start + size <= base for start, size in taken) and not _account_at(base):
            return base
    raise SandboxError("No range of ids is free for another container.", "Stop some first.")


def _account_at(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    return False


# Starting


def start(content: Mapping[str, Any], descriptors: Sequence[int], owner: Account, trusted: bool) -> dict[str, int]:
    """Make a container and run its program; its first process.

    trusted: whether what is asked for was decided by root. Raises SandboxError, and leaves nothing behind then.
    """
    order = Order.parse(content)
    if len(descriptors) != len(order.mounts) + _ENDS:
        raise ValueError("not as many descriptors as mounts")
    if not order.user_namespace and (not trusted or owner.uid == 0):
        raise SandboxError(
            "A container without a user namespace of its own is for root to give, and never to root's sandboxes.",
            "Leave container.user_namespace out.",
        )
    _check_terminal(descriptors[0], owner)
    if not stat.S_ISFIFO(os.fstat(descriptors[1]).st_mode):
        raise ValueError("this is no pipe")
    _check_rights(order.mounts, descriptors[_ENDS:], owner)
    if not order.user_namespace:
        _check_programs(order.mounts, descriptors[_ENDS:])
    elif max(owner.uid, owner.gid) >= _RANGE:
        raise SandboxError(
            f"The account {owner.name} has an id above {_RANGE - 1}, which is more than a container has of its own.",
            "Give the sandbox another user, or let root set container.user_namespace to false.",
        )
    # Never by the PATH of whoever asks.
    nspawn = Host({}, 0).need("systemd-nspawn")
    machine = _claim(order, owner)
    try:
        init = _started(order, machine, owner, descriptors, nspawn)
    except OSError as error:
        _end(_read(machine.name) or machine, 0)
        raise SandboxError(f"The container could not be made: {error.strerror}.") from None
    except BaseException:
        _end(_read(machine.name) or machine, 0)
        raise
    return dataclasses.asdict(init)


def _check_terminal(descriptor: int, owner: Account) -> None:
    if not os.isatty(descriptor) or os.fstat(descriptor).st_uid != owner.uid:
        raise ValueError("this is no terminal of the account's")


def _check_rights(wanted: Sequence[Mounted], descriptors: Sequence[int], owner: Account) -> None:
    """Have the kernel say whether the account itself could read, and write, what is to be mounted for it."""

    def refused() -> str | None:
        for mounted, descriptor in zip(wanted, descriptors, strict=True):
            mode = os.fstat(descriptor).st_mode
            rights = os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0) | (os.W_OK if mounted.writable else 0)
            if stat.S_ISLNK(mode) or not os.access(f"/proc/self/fd/{descriptor}", rights):
                return mounted.source
        return None

    source = procs.fork(owner if owner.uid != os.geteuid() else None, refused).result()
    if source is not None:
        raise SandboxError(
            f"{owner.name} itself could not use {shown(source)}.",
            "Give the account the right to, or leave it out.",
        )


def _check_programs(wanted: Sequence[Mounted], descriptors: Sequence[int]) -> None:
    """Without ids of its own a container's programs run, for a moment, as the host's root: they must be root's."""
    for mounted, descriptor in zip(wanted, descriptors, strict=True):
        status = os.fstat(descriptor)
        if not mounted.own and (status.st_uid != 0 or status.st_mode & 0o022):
            raise SandboxError(
                f"{shown(mounted.source)} holds programs of a container that shares the host's ids, and is not root's.",
                "Have it belong to root, and to be written by nobody else; or leave container.user_namespace out.",
            )


def _started(order: Order, machine: Machine, owner: Account, descriptors: Sequence[int], nspawn: str) -> Process:
    mapping = None
    if machine.base is not None:
        mapping = mounts.idmap(machine.base, owner.uid, owner.gid)
    trees = [
        _tree(mounted, descriptor, mapping)
        for mounted, descriptor in zip(order.mounts, descriptors[_ENDS:], strict=True)
    ]
    mounts.detach_this_process()
    if not mounts.is_temporary("/run"):
        # systemd-nspawn refuses to clear what it left there on any other file system.
        os.makedirs("/run/systemd", exist_ok=True)
        mounts.temporary("/run/systemd", mode="755")
    _go_along(order.pane, owner)
    with _Tree(order, machine, owner) as tree:
        tree.build(trees)
        for descriptor in trees:
            os.close(descriptor)
        machine = dataclasses.replace(machine, own=tuple(tree.places.own), lock=tree.lock)
        argv = _nspawn_argv(nspawn, order, machine, owner)
        supervisor = _supervise(argv, descriptors[:_ENDS], lambda process: _write(machine.run_by(process)))
        payload = procs.until(lambda: _payload(supervisor), _START_SECONDS)
        if not isinstance(payload, tuple):
            raise SandboxError("systemd-nspawn could not make the sandbox.")
        init: Process = payload[0]
        program: Process = payload[1]
        _write(machine.run_by(supervisor, init))
        trouble = _among_mounts(init, lambda: _hide(order))
        if trouble:
            raise SandboxError(f"What the host shows in a container could not be hidden: {os.strerror(trouble)}.")
        tree.give_environment(program)
        if tree.failed(program, supervisor):
            raise SandboxError(
                f"The agent's program {shown(order.argv[0])} could not be executed in the sandbox.",
                "Give one that is there: of the system's own, or in the project.",
            )
    return init


def _go_along(pane: int, owner: Account) -> None:
    """Have this process, and systemd-nspawn after it, in the control group of the account's session."""
    if os.path.isdir("/run/systemd/system") and procs.uids(pane) == {owner.uid}:
        cgroups.join(pane)


def _tree(mounted: Mounted, descriptor: int, mapping: int | None) -> int:
    attributes = mounts.NOSUID | mounts.NODEV | (0 if mounted.writable else mounts.RDONLY)
    if mapping is None or not mounted.own:
        return mounts.clone(descriptor, attributes)
    try:
        return mounts.clone(descriptor, attributes, mapping)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            raise
    status = os.fstat(descriptor)
    needed = stat.S_IROTH | (stat.S_IWOTH if mounted.writable else 0)
    needed |= stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0
    if status.st_mode & needed != needed:
        raise SandboxError(
            f"{shown(mounted.source)} is on a file system that maps no owner into a container.",
            "Move it to ext4, xfs or btrfs; or set container.user_namespace to false, where root may.",
        )
    return mounts.clone(descriptor, attributes)


class _Places:
    """The inside of a container, in which places can be made on the file systems that are its own."""

    def __init__(self, root: int, own: Iterable[int], base: int, owner: Account) -> None:
        self._root = root
        self.own = set(own)  # devices
        self.root_ids = (base, base)
        self.ids = (base + owner.uid, base + owner.gid)
        self._homes = (f"{owner.home}/", f"/run/user/{owner.uid}/")

    def open(self, path: str, folder: bool) -> int:
        """A descriptor of a path inside, made where it is missing and can be made."""
        with contextlib.suppress(FileNotFoundError):
            return os.dup(self._root) if path == "/" else mounts.below(self._root, path)
        with self.parent(path) as parent:
            name = posixpath.basename(path)
            if folder:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(os.open(name, _NEW_FILE, 0o644, dir_fd=parent))
            ids = self.ids if f"{path}/".startswith(self._homes) else self.root_ids
            os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)
        return mounts.below(self._root, path)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[int]:
        """A descriptor of the folder that something new is to be in: never one of the account's."""
        parent = self.open(posixpath.dirname(path), folder=True)
        try:
            if os.fstat(parent).st_dev not in self.own:
                raise FileNotFoundError(errno.ENOENT, "there is nothing to mount on", path)
            yield parent
        finally:
            os.close(parent)


class _Tree:
    """The root of a container while it is made: a tmpfs in the mounts of this process alone."""

    def __init__(self, order: Order, machine: Machine, owner: Account) -> None:
        self._order, self._owner = order, owner
        self._base = machine.base or 0
        # systemd-nspawn locks a root by a file beside it.
        mounts.temporary(_ROOTS, mode="700", size="1m")
        self._path = _root(machine)
        os.mkdir(self._path)
        self._fifo = self._failure = -1
        os.umask(0)
        self._mount_own("", "64m")
        self._root = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(self._root)
        self.lock = f"inode-{status.st_dev}:{status.st_ino}"
        self.places = _Places(self._root, [status.st_dev], self._base, owner)

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_error: object) -> None:
        for descriptor in (self._fifo, self._failure, self._root):
            if descriptor >= 0:
                os.close(descriptor)

    def build(self, trees: Sequence[int]) -> None:
        """Put everything where it belongs."""
        home, runtime = self._owner.home, f"/run/user/{self._owner.uid}"
        for path, size in {"/run": "64m", "/home": "50%", home: "50%"}.items():
            os.close(self.places.open(path, folder=True))
            if path != home or not home.startswith("/home/"):
                self.places.own.add(self._mount_own(path, size))
        for path in ("/usr", home, runtime, _START):
            os.close(self.places.open(path, folder=True))
        for path in (home, runtime, _START):
            os.chown(f"{self._path}{path}", *self.places.ids)
            os.chmod(f"{self._path}{path}", 0o700)
        self._prepare_start()
        for path, points_to in self._order.links:
            with self.places.parent(path) as parent:
                os.symlink(points_to, posixpath.basename(path), dir_fd=parent)
        for mounted, tree in zip(self._order.mounts, trees, strict=True):
            try:
                target = self.places.open(mounted.target, stat.S_ISDIR(os.fstat(tree).st_mode))
            except OSError as error:
                raise _no_place(mounted, error.errno) from None
            mounts.attach(tree, target)
            os.close(target)
        for path, content in self._order.files.items():
            with self.places.parent(path) as parent:
                descriptor = os.open(posixpath.basename(path), _NEW_FILE, 0o600, dir_fd=parent)
            with open(descriptor, "wb") as file:
                file.write(content)
                os.fchown(file.fileno(), *self.places.ids)

    def _mount_own(self, path: str, size: str) -> int:
        mounts.temporary(f"{self._path}{path}", mode="755", size=size, uid=self._base, gid=self._base)
        return os.stat(f"{self._path}{path}").st_dev

    def _prepare_start(self) -> None:
        fifo, failure = f"{self._path}{_START}/environment", f"{self._path}{_START}/failed"
        os.mkfifo(fifo, 0o600)
        self._failure = os.open(failure, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        for path in (fifo, failure):
            os.chown(path, *self.places.ids)
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def give_environment(self, program: Process) -> None:
        """Let the program go, with its environment."""
        left = memoryview(b"".join(f"{key}={value}\0".encode() for key, value in self._order.env.items()))
        while left and program.alive():
            try:
                left = left[os.write(self._fifo, left) :]
            except BlockingIOError:
                select.select([], [self._fifo], [], 0.05)
        procs.until(lambda: self._drained() or not program.alive(), _START_SECONDS)
        os.close(self._fifo)
        self._fifo = -1

    def _drained(self) -> bool:
        return int.from_bytes(fcntl.ioctl(self._fifo, termios.FIONREAD, b"\0" * 4), sys.byteorder) == 0

    def failed(self, program: Process, supervisor: Process) -> bool:
        """Wait until the program runs or it is clear that it cannot; whether it cannot."""

        def known() -> bool:
            begun = any(_is_ours(child.pid) is False for child in procs.children(program.pid))
            return begun or os.fstat(self._failure).st_size > 0 or not supervisor.alive()

        procs.until(known, _START_SECONDS)
        return os.fstat(self._failure).st_size > 0


def _nspawn_argv(nspawn: str, order: Order, machine: Machine, owner: Account) -> list[str]:
    words = [
        nspawn,
        "--quiet",
        f"--directory={_root(machine)}",
        f"--machine={machine.name}",
        "--settings=no",
        "--as-pid2",
    ]
    words += ["--drop-capability=all", "--no-new-privileges=yes", "--console=interactive"]
    words += ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--setenv=SYSTEMD_LOG_LEVEL=err"]
    if order.hostname:
        words.append(f"--hostname={order.hostname}")
    if machine.base is not None:
        words += [f"--private-users={machine.base}:{_RANGE}", "--private-users-ownership=off"]
    if owner.uid:
        words.append(f"--user={owner.name}")
    if not order.network:
        words.append("--private-network")
    if os.path.isdir("/run/systemd/system"):
        words += ["--register=yes", *(f"--property={each}" for each in limits.settings(order.limits))]
    else:
        words += ["--register=no", "--keep-unit"]
    words += [f"--bind={path}" for path in order.devices]
    return [*words, "--", order.shell, "-c", _SCRIPT, _START, "wait", order.shell, order.cwd, *order.argv]


def _supervise(argv: Sequence[str], descriptors: Sequence[int], remember: Callable[[Process], None]) -> Process:
    """Run systemd-nspawn in the terminal, which becomes that of a session of its own; the session's first process."""
    gate, gate_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(gate_end)
            # What is not remembered must not run.
            if os.read(gate, 1):
                _become_supervisor(argv, descriptors)
        except BaseException as error:  # noqa: BLE001 - whatever it is, only the terminal is left to say it to
            os.write(descriptors[0], f"{error}\r\n".encode())
        finally:
            os._exit(1)
    os.close(gate)
    found = procs.identify(child)
    if found is not None:
        remember(found)
        os.write(gate_end, b"x")
    os.close(gate_end)
    if found is None:
        raise SandboxError("systemd-nspawn could not be started.")
    return found


def _become_supervisor(argv: Sequence[str], descriptors: Sequence[int]) -> None:
    terminal, pane = descriptors
    os.setsid()
    # The pane's own shell, which only waits, loses it: so that resizing and hanging up reach the container.
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 1)
    # Out of the way of the numbers to be given.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 20) for each in (terminal, pane)]
    for number, descriptor in enumerate((high[0], high[0], high[0], high[1])):
        os.dup2(descriptor, number)
    # Whatever else this process was given is nothing for what it becomes.
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    os.umask(0o022)
    landlock.confine()
    calls = seccomp.program(os.uname().machine)
    if calls is not None:
        namespaces.filter_calls(calls)
    environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    environ |= {"TERM": "tmux-256color", "SYSTEMD_LOG_LEVEL": "err"}
    os.execve("/bin/sh", ["/bin/sh", "-c", _SUPERVISOR, "claude-sandbox", *argv], environ)


def _payload(supervisor: Process) -> tuple[Process, Process] | bool:
    """The container's first process and the program, once that stands at its start; True when all is over."""
    if not supervisor.alive():
        return True
    ours = procs.depth(supervisor.pid)
    for nspawn in procs.children(supervisor.pid):
        # Further down a container's own programs could have made what looks like one.
        for process in procs.children(nspawn.pid):
            if procs.innermost_pid(process.pid) == 1 and procs.depth(process.pid) == ours + 1:
                for program in procs.children(process.pid):
                    if _is_ours(program.pid):
                        return process, program
    return False


def _is_ours(pid: int) -> bool | None:
    """Whether a process is still the script that waits for its environment; None where it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read()
    except OSError:
        return None
    # systemd-nspawn has it in its own arguments, and so have its children until they become something else.
    shell, *others = words.split(b"\0")
    return others[:2] == [b"-c", _WORDS] or others[:3] == [b"-p", b"-c", _WORDS] if shell else None


def programs(init: Process) -> list[Process]:
    """What the script in a container has started: the agent."""
    return [child for script in procs.children(init.pid) for child in procs.children(script.pid)]


def _among_mounts(init: Process, function: Callable[[], None]) -> int:
    """Run a function among the container's mounts, with root's rights of outside: 0, or the number of its error.

    What is there is not the host's: no code is loaded and no error is worded while we are among it.
    """
    child = os.fork()
    if child == 0:
        code = errno.EPROTO
        try:
            namespaces.join_mounts(init.pid)
            function()
            code = 0
        except OSError as error:
            code = error.errno or errno.EPROTO
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _no_place(mounted: Mounted, number: int | None) -> SandboxError:
    return SandboxError(
        f"{shown(mounted.source)} cannot be mounted on {shown(mounted.target)}: {os.strerror(number or errno.EPROTO)}.",
        "Make what it stands on, without a link on the way; or give the mount another target.",
    )


def _hide(order: Order) -> None:
    """What systemd-nspawn shows of the host goes, where it is not granted."""
    if not order.devices:
        mounts.temporary("/sys", mode="555", size="4k", nr_inodes=2)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        os.unlink("tun", dir_fd=mounts.below(root, "/dev/net"))
    if not order.user_namespace:
        # The keys there are those of the account's own, outside.
        nothing = mounts.below(root, "/dev/null")
        for name in ("keys", "key-users"):
            with contextlib.suppress(FileNotFoundError):
                mounts.attach(mounts.clone(nothing, mounts.RDONLY), mounts.below(root, f"/proc/{name}"))


# Working inside and ending


def execute(content: Mapping[str, Any], owner: Account) -> dict[str, Any]:
    """Run a command inside as the account, with no more rights than the agent has."""
    init = init_of(owner, content["machine"])
    _count_in(init)
    invocation = commands.Invocation.from_json(content["invocation"])
    return commands.run(invocation, _entrance(init, owner)).to_json()


def interact(content: Mapping[str, Any], descriptors: Sequence[int], owner: Account) -> int:
    """The same in a terminal of the account's; the command's exit code."""
    init = init_of(owner, content["machine"])
    _count_in(init)
    _check_terminal(descriptors[0], owner)
    invocation = commands.Invocation.from_json(content["invocation"])
    return commands.run_in_terminal(invocation, _entrance(init, owner), descriptors[0])


def _count_in(init: Process) -> None:
    """Have the container's limits count for this process, too."""
    if os.path.isdir("/run/systemd/system"):
        cgroups.join(init.pid)


def _entrance(init: Process, owner: Account) -> Callable[[], None]:
    calls = seccomp.program(os.uname().machine)

    def enter() -> None:
        namespaces.join(init.pid)
        landlock.confine()
        os.setgroups([])
        # While it is still root: the account cannot drop what it does not have.
        namespaces.give_up_privileges(calls)
        os.setresgid(owner.gid, owner.gid, owner.gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)

    return enter


def exists(content: Mapping[str, Any], owner: Account) -> bool:
    """Whether a path exists inside, as the account sees it."""
    init = _running(owner, content["machine"])[1]
    path, enter = _text(content["path"]), _entrance(init, owner)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            enter()
            code = 0 if os.path.lexists(path) else 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1):
        raise SandboxError("The sandbox could not be entered: it ended.")
    return code == 0


def add_mounts(content: Mapping[str, Any], descriptors: Sequence[int], owner: Account) -> None:
    """Mount more in a container that runs: all that is asked for, or nothing."""
    machine, init = _running(owner, content["machine"])
    wanted = [_mounted(each) for each in content["mounts"]]
    _check_rights(wanted, descriptors, owner)
    mapping = None if machine.base is None else mounts.idmap(machine.base, owner.uid, owner.gid)
    trees = [_tree(each, descriptor, mapping) for each, descriptor in zip(wanted, descriptors, strict=True)]
    folders = [stat.S_ISDIR(os.fstat(tree).st_mode) for tree in trees]

    def attach() -> None:
        os.umask(0)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        places = _Places(root, machine.own, machine.base or 0, owner)
        targets = [places.open(each.target, folder) for each, folder in zip(wanted, folders, strict=True)]
        for tree, target in zip(trees, targets, strict=True):
            mounts.attach(tree, target)

    trouble = _among_mounts(init, attach)
    if trouble:
        raise _no_place(wanted[0], trouble)


def stop(content: Mapping[str, Any], owner: Account) -> None:
    """End a container, and everything that was made for it. grace: seconds that its program has to end by itself."""
    name, grace = _machine(content["machine"]), float(content["grace"])
    if not 0 <= grace <= _MOST_GRACE:
        raise ValueError(f"{grace} is no number of seconds from 0 to {_MOST_GRACE}")
    machine = _of(owner, name)
    if machine is not None:
        _end(machine, grace)


def stop_labelled(label: str) -> None:
    """End what was made for the sandbox with this label, of which nothing else is known."""
    for machine in map(_read, _names()):
        if machine is not None and machine.label == label:
            _end(machine, 0)


def _end(machine: Machine, grace: float) -> None:
    if machine.boot_id == boot_id() and machine.supervisor.pid != os.getpid():
        # Of a supervisor that is gone, the pid may be anybody's by now.
        below = list(procs.descendants(machine.supervisor.pid)) if machine.supervisor.alive() else []
        _end_program(machine, below, grace)
        for process in (machine.supervisor, *below[:1]):
            if not process.wait(1.0):
                process.signal(signal.SIGKILL)
                process.wait(_END_SECONDS)
        if machine.init is not None:
            machine.init.wait(_END_SECONDS)
    for path in (f"/run/systemd/nspawn/propagate/{machine.name}", f"/run/systemd/nspawn/unix-export/{machine.name}"):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    leftovers = [_path(machine.name), _draft(machine.name)]
    if machine.lock:
        leftovers.append(f"/run/systemd/nspawn/locks/{machine.lock}")
    for path in leftovers:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _end_program(machine: Machine, below: Sequence[Process], grace: float) -> None:
    """End what runs in a container; below: all that its supervisor has started, systemd-nspawn first."""
    init = machine.init
    if init is None or not init.alive():
        # Whatever comes up now has no program yet.
        for process in (*below, machine.supervisor):
            process.signal(signal.SIGKILL)
        return
    for process in programs(init):
        # A shell at its prompt ignores TERM, and takes the loss of its terminal for its end.
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGHUP)
    if not init.wait(grace):
        init.signal(signal.SIGKILL)
        init.wait(_END_SECONDS)
