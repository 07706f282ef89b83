"""The probes as data: what is tried, how its effect is seen at the target, and what shows that both work."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.listener import Canary

from .stage import (
    GRANTED_FILES,
    NEIGHBOURS,
    OBEYED,
    OBEYED_FOLDERS,
    OTHER,
    ROOT,
    SECRET_FILES,
    STARTED,
    SYSTEM_SOCKETS,
    Stage,
)

ACCOUNT_AND_ROOT = ("account", "root")
CONTAINER = ("container",)
VM = ("vm",)
# Where it is the host's that the sandbox has; a virtual machine's is its own.
SHARED_KERNEL = ("bubblewrap", "container")
_BURST = "/proc/sys/kernel/printk_ratelimit_burst"
_SWITCHES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
)
_DEVICES = ("mem", "port", "kmem", "kmsg", "kvm", "fuse", "loop", "sd", "vd", "nvme", "xvd", "tun", "vhost", "vsock")
_DEVICES_MORE = ("uinput", "hpet", "event", "card", "render", "video", "snd", "btrfs-control", "cpu_dma_latency")
_VSOCK_PORT = 0x00C0FFEE
_HOST_OF_MACHINE = "10.0.2.2"
_LOST_ADDRESS = "192.0.2.77"  # of a network that exists in books only
_SETTLE = 0.03  # seconds


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where a probe is tried. kind: inside a sandbox, outside as a control, or in a sandbox without its protection.

    facts: of the sandbox that is tried (also where the control tries the same from outside), sibling: of another one.
    """

    stage: Stage
    owner: str
    network: str
    kind: str
    facts: Mapping[str, Any]
    sibling: Mapping[str, Any]

    @property
    def home(self) -> Path:
        """The account's."""
        return self.stage.home

    def home_files(self, names: Iterable[str]) -> list[str]:
        """Absolute paths of files in the account's home."""
        return [str(self.home / name) for name in names]


@dataclasses.dataclass(frozen=True)
class Bare:
    """The same in a bubblewrap that protects nothing, and shares all.

    who: account or root, where not as the control. capable: with all capabilities, and this read-only or hidden.
    """

    who: str = ""
    capable: Callable[[Scene], tuple[str, ...]] | None = None

    def flags(self, scene: Scene) -> tuple[str, ...]:
        """bwrap's options."""
        more = (*self.capable(scene), "--cap-add", "ALL") if self.capable else ()
        return ("--dev-bind", "/", "/", *more)


@dataclasses.dataclass(frozen=True)
class Granted:
    """The same in a sandbox of ours to which more is given."""

    params: Mapping[str, Any]


Given = Callable[[Scene], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Probe:
    """One thing that is tried.

    number: of shared/facts/probes.md. given: the attempt's parameters. target: what is looked at before and after: a
    difference means that it was reached; without a target, `reached` judges what came back.
    variant: main (default grants), few (none), own (the account runs the engine itself).
    pane: also typed into the agent's terminal. by_design: the networks with which it may be reached.
    known_in: the backends that are known not to hold it; docs/isolation.md says what that means.
    control: as whom it succeeds on the host, or why that is not tried. away: how the protection is taken away, or why
    it cannot be. unless: why it cannot be tried on this machine at all. watched: files that are put back afterwards.
    backends: where it is tried, if not everywhere.
    """

    key: str
    number: int | None
    words: str
    attempt: str
    given: Given
    target: Callable[[Scene], Any] | None = None
    reached: Callable[[Scene, Any], bool] = lambda _, evidence: bool(evidence)
    owners: tuple[str, ...] = ("account",)
    variant: str = "main"
    pane: bool = False
    by_design: tuple[str, ...] = ()
    known_in: tuple[str, ...] = ()
    control: str = "account"
    away: Bare | Granted | str = Bare()
    restore: Callable[[Scene], None] = lambda _: None
    watched: Callable[[Scene], list[Path]] = lambda _: []
    unless: Callable[[Stage], str] = lambda _: ""
    backends: tuple[str, ...] = ()

    def applies(self, backend: str) -> bool:
        """Whether it is about something that a backend has."""
        return not self.backends or backend in self.backends


def _in_machine(scene: Scene) -> bool:
    return scene.kind == "inside" and scene.facts["view"]["backend"] == "vm"


def holds_token(scene: Scene, evidence: Any) -> bool:
    """Whether a canary's text came back."""
    return scene.stage.token in str(evidence)


def tree(paths: Iterable[Path]) -> dict[str, tuple[int, str]]:
    """What stands at paths and below: types, and digests of contents."""
    found = {}
    for top in paths:
        for path in [top, *sorted(top.rglob("*"))] if top.is_dir() and not top.is_symlink() else [top]:
            if os.path.lexists(path):
                found[str(path)] = (stat.S_IFMT(path.lstat().st_mode), _digest(path))
    return found


def _digest(path: Path) -> str:
    if path.is_symlink():
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def counts(canaries: Iterable[Canary]) -> list[int]:
    """What the listeners have counted, when their threads had the time to."""
    time.sleep(_SETTLE)
    return [canary.count for canary in canaries]


def _watching(paths: Callable[[Scene], list[Path]]) -> dict[str, Any]:
    """A target of files, which are put back after the effect."""
    return {"target": lambda scene: tree(paths(scene)), "watched": paths}


def _nothing(_: Scene) -> Mapping[str, Any]:
    return {}


# Files


def _start_files(scene: Scene) -> list[str]:
    """Where the container's start takes place; elsewhere a pipe that somebody left full."""
    if scene.kind != "inside":
        return [scene.stage.full_pipe()]
    folder = "/run/claude-sandbox"
    return [folder, *(f"{folder}/{name}" for name in ("environment", "failed"))]


def _places(facts: Mapping[str, Any]) -> list[str]:
    """What is the sandbox's own on the host."""
    folder = facts["instance"]["folder"]
    files = [f"{facts['record']}/spec.json", f"{facts['record']}/instance.json", f"{facts['data']}/secrets.json"]
    files += [f"{facts['data']}/session.log", f"{folder}/xauth", f"{folder}/screen/Xvfb_screen0", f"{folder}/launch"]
    files += [f"{folder}/launch/vm/{name}" for name in ("log", "report")]
    return [*files, facts["store"], facts["record"], facts["data"], folder]


def _machine_sockets(scene: Scene) -> dict[str, Any]:
    """By which QEMU, and what runs programs in a guest, are told what to do."""
    folders = [facts["instance"]["folder"] for facts in (scene.facts, scene.sibling)]
    return {"paths": [f"{folder}/launch/vm/{name}" for folder in folders for name in ("qmp", "agent")]}


def _machine_files(scene: Scene) -> dict[str, Any]:
    """What the engine and the guest tell each other by, and the devices by which the guest does."""
    folders = [facts["instance"]["folder"] for facts in (scene.facts, scene.sibling)]
    paths = [f"{folder}/launch/vm/{name}" for folder in folders for name in ("control", "report", "log")]
    ports = [f"/dev/vport{card}p{port}" for card in range(2) for port in range(8)]
    return {"paths": paths + (ports if scene.kind == "inside" else [])}


def _out_of_share(scene: Scene, name: str) -> dict[str, Any]:
    """A folder of the project with two links that lead to a secret of the account, and place for more."""
    folder, secret = _leaving(scene) / name, _left_to(scene)[0]
    scene.stage.plant(folder / "inner/credentials", "harmless\n")
    os.symlink(secret, folder / "absolute")
    os.symlink(os.path.relpath(secret, folder), folder / "relative")
    return {"folder": str(folder), "target": str(secret), "text": "evil\n"}


def _leaving(scene: Scene) -> Path:
    return _project(scene) / "leaving"


def _left_to(scene: Scene) -> list[Path]:
    return [scene.home / ".aws/credentials"]


def _remove_leaving(scene: Scene) -> None:
    shutil.rmtree(_leaving(scene), ignore_errors=True)


def _records(scene: Scene) -> dict[str, Any]:
    return {"paths": [*_places(scene.facts), *_places(scene.sibling)]}


def _record_folders(scene: Scene) -> list[Path]:
    """New names in the folders, so that the control breaks no record."""
    folders = [facts[key] for facts in (scene.facts, scene.sibling) for key in ("record", "data", "store")]
    return [Path(folder) / scene.stage.token for folder in folders]


def _written_home(scene: Scene) -> list[Path]:
    names = [".bashrc", ".profile", ".config/autostart/evil.desktop", ".ssh/authorized_keys", ".gitconfig"]
    names += [".config/gh/hosts.yml", ".config/git/hooks/post-commit", ".local/bin/ls", NEIGHBOURS[0]]
    return [*(scene.home / name for name in names), Path(f"{scene.facts['view']['project_dir']}-evil/file")]


def _written_system(scene: Scene) -> list[Path]:
    new = [Path(f"{folder}/{scene.stage.token}-new") for folder in ("/usr/local/bin", "/etc", "/opt", "")]
    return [scene.stage.system_file, *new]


def _obeyed(scene: Scene) -> list[Path]:
    return [scene.home / ".claude" / name for name in (*OBEYED, *OBEYED_FOLDERS)]


def _obeyed_new(scene: Scene) -> list[str]:
    folder = scene.home / ".claude"
    return [*(str(folder / name) for name in OBEYED), *(f"{folder}/{name}/evil.md" for name in OBEYED_FOLDERS)]


def _late_secret(scene: Scene) -> dict[str, Any]:
    """A file that only root may read, made while the sandbox already runs."""
    scene.stage.plant(scene.stage.root_secrets[2].with_suffix(".late"), owner=ROOT)
    return {"paths": [f"{scene.stage.root_secrets[2]}.late"]}


def _remove_late_secret(scene: Scene) -> None:
    scene.stage.root_secrets[2].with_suffix(".late").unlink(missing_ok=True)


def _project(scene: Scene) -> Path:
    return Path(scene.facts["view"]["project_dir"])


def _foreign(scene: Scene) -> list[Path]:
    """Files of others in the project: for a sandbox of root's, those of an account; for others root's, too."""
    names = ["other", "other-open"] + (["root", "root-open"] if scene.owner == "account" else [])
    return [_project(scene) / f"of-{name}" for name in names]


def _plant_foreign(scene: Scene) -> list[str]:
    for path in _foreign(scene):
        mode = 0o644 if path.name.endswith("open") else 0o600
        scene.stage.plant(path, mode=mode, owner=ROOT if "root" in path.name else OTHER)
    return [str(path) for path in _foreign(scene)]


def _remove_foreign(scene: Scene) -> None:
    for path in _foreign(scene):
        path.unlink(missing_ok=True)


def _closed_foreign(scene: Scene) -> dict[str, Any]:
    return {"paths": [path for path in _plant_foreign(scene) if not path.endswith("open")]}


def _states(paths: Iterable[Path]) -> list[tuple[Any, ...]]:
    """What can be changed of files."""
    found = []
    for path in paths:
        status = path.stat()
        attributes = os.listxattr(path)
        found.append((status.st_uid, status.st_gid, status.st_mode, status.st_mtime, _digest(path), attributes))
    return found


def _made_in(scene: Scene) -> Path:
    return _project(scene) / "made-for-others"


def _made(scene: Scene) -> Iterable[tuple[Path, os.stat_result]]:
    for path in _made_in(scene).rglob("*"):
        yield path, path.lstat()


def _not_ours(scene: Scene) -> list[str]:
    """What in the project is not the account's, or carries a capability."""
    uid = scene.stage.account.uid
    return [
        str(path)
        for path, status in _made(scene)
        if status.st_uid != uid or "security.capability" in os.listxattr(path, follow_symlinks=False)
    ]


def _setuid(scene: Scene) -> list[str]:
    return [str(path) for path, status in _made(scene) if status.st_mode & (stat.S_ISUID | stat.S_ISGID)]


def _sibling_file(scene: Scene) -> Path:
    return Path(scene.sibling["view"]["project_dir"]) / "plans"


def _sibling_project(scene: Scene) -> dict[str, Any]:
    return {"paths": [str(scene.stage.plant(_sibling_file(scene)))]}


def _machines(_: Scene) -> dict[str, Any]:
    """What root remembers of containers."""
    folders = ["/run/claude-sandbox/machines", "/run/systemd/nspawn", "/run/systemd/machines"]
    return {"paths": [*folders, *(str(path) for path in Path(folders[0]).glob("*.json"))]}


def _handle(scene: Scene) -> dict[str, Any]:
    """By what number a secret of root's lies in the file system; whoever is inside would try them all."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle, mount = (ctypes.c_uint * 34)(128, 0), ctypes.c_int()
    path = str(scene.stage.root_secrets[0]).encode()
    if libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(mount), 0) < 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    kind = ctypes.c_int.from_buffer(handle, 4).value
    data = ctypes.string_at(ctypes.addressof(handle) + 8, handle[0])
    return {"folder": str(_project(scene)), "handle": data.hex(), "kind": kind}


def _other_file_system(stage: Stage) -> str:
    same = stage.account.root.stat().st_dev == stage.root_top.stat().st_dev == stage.root_secrets[0].stat().st_dev
    return "" if same else "the secret is on another file system than the projects"


FILES = (
    Probe(
        "root-files",
        1,
        "read /etc/shadow, and canaries in /root, /etc and /usr/local/share that only root may read",
        "read",
        lambda scene: {"paths": ["/etc/shadow", *map(str, scene.stage.root_secrets)]},
        reached=lambda scene, evidence: bool(evidence),
        owners=ACCOUNT_AND_ROOT,
        control="root",
    ),
    Probe(
        "late-root-file",
        1,
        "read a file under /usr that only root may read, made after the sandbox was started",
        "read",
        _late_secret,
        reached=holds_token,
        restore=_remove_late_secret,
        # Not root's: what is hidden from its sandbox is worked out when that starts (docs/isolation.md).
        control="root",
    ),
    Probe(
        "home-secrets",
        2,
        "read ~/.aws, ~/.gnupg, ~/.netrc, ~/.docker, browser profiles, keyrings, shell history",
        "read",
        lambda scene: {"paths": scene.home_files(SECRET_FILES)},
        reached=holds_token,
    ),
    Probe(
        "ungranted",
        2,
        "read ~/.ssh, ~/.gitconfig and ~/.config/gh where they are not granted",
        "read",
        lambda scene: {"paths": scene.home_files(GRANTED_FILES)},
        reached=holds_token,
        variant="few",
        away=Granted({"grants": {"ssh": True, "git": True, "gh": True}}),
    ),
    Probe(
        "neighbours",
        3,
        "read what is named like something granted: ~/.sshfoo, ~/.config/gh-evil, PROJECT-evil",
        "read",
        lambda scene: {"paths": [*scene.home_files(NEIGHBOURS), f"{scene.facts['view']['project_dir']}-evil/file"]},
        reached=holds_token,
    ),
    Probe(
        "write-home",
        4,
        "write to ~/.bashrc, ~/.ssh/authorized_keys, autostart, git hooks, a neighbouring project",
        "write",
        lambda scene: {"paths": [str(path) for path in _written_home(scene)], "text": "evil\n"},
        **_watching(_written_home),
    ),
    Probe(
        "write-system",
        4,
        "write below /usr, /etc, /opt and /, also where the account may write on the host",
        "write",
        lambda scene: {"paths": [str(path) for path in _written_system(scene)], "text": "evil\n"},
        owners=ACCOUNT_AND_ROOT,
        **_watching(_written_system),
    ),
    Probe(
        "replace-system",
        4,
        "rename, link and exchange something else into the place of a file below /usr",
        "replace",
        lambda scene: {"paths": [str(scene.stage.system_file)], "text": "evil\n"},
        owners=ACCOUNT_AND_ROOT,
        # The account may write the file, but not the folder that it is in.
        **_watching(lambda scene: [scene.stage.system_file]),
    ),
    Probe(
        "read-records",
        7,
        "read its own and a sibling's record, secrets, log, cookie, framebuffer and store on the host",
        "read",
        _records,
        owners=ACCOUNT_AND_ROOT,
        control="root",
    ),
    Probe(
        "write-records",
        7,
        "write to its own and a sibling's record, data and store on the host",
        "write",
        lambda scene: {"paths": [str(path) for path in _record_folders(scene)], "text": "evil\n"},
        owners=ACCOUNT_AND_ROOT,
        control="root",
        **_watching(_record_folders),
    ),
    Probe(
        "tmux-socket",
        7,
        "connect to its own and a sibling's tmux server",
        "unix",
        lambda scene: {"paths": [f"{facts['instance']['folder']}/tmux" for facts in (scene.facts, scene.sibling)]},
        owners=ACCOUNT_AND_ROOT,
        control="root",
    ),
    Probe(
        "write-obeyed",
        None,
        "write ~/.claude/settings.json, CLAUDE.md, agents, commands, hooks, plugins, rules, skills",
        "write",
        lambda scene: {"paths": _obeyed_new(scene), "text": "evil\n"},
        **_watching(_obeyed),
    ),
    Probe(
        "replace-obeyed",
        None,
        "rename, unlink, link, exchange and hard-link them, and rename ~/.claude itself",
        "replace",
        lambda scene: {"paths": [str(path) for path in _obeyed(scene)], "text": "evil\n"},
        **_watching(_obeyed),
    ),
    Probe(
        "write-started",
        None,
        "write what else of ~/.claude is run or obeyed outside: local/claude, shell-snapshots, chrome, statusline, …",
        "write",
        lambda scene: {"paths": scene.home_files(f".claude/{name}" for name in STARTED), "text": "evil\n"},
        **_watching(lambda scene: [scene.home / ".claude" / name for name in STARTED]),
    ),
    Probe(
        "write-sessions",
        None,
        "write into the sessions of the host and of a sibling",
        "write",
        lambda scene: {
            "paths": [str(scene.home / ".claude/sessions/1.json"), f"{scene.sibling['data']}/sessions/1.json"],
            "text": "evil\n",
        },
        **_watching(lambda scene: [scene.home / ".claude/sessions", Path(scene.sibling["data"]) / "sessions"]),
    ),
    Probe(
        "foreign-files",
        None,
        "read a file in the project that only root, or only another account, may read",
        "read",
        _closed_foreign,
        reached=holds_token,
        restore=_remove_foreign,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
    ),
    Probe(
        "change-foreign",
        None,
        "change a file in the project that is root's or another account's: content, mode, owner, times",
        "change",
        lambda scene: {"paths": _plant_foreign(scene)},
        target=lambda scene: _states(_foreign(scene)),
        restore=_remove_foreign,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
    ),
    Probe(
        "made-for-others",
        17,
        "make a file in the project that is root's or another account's on the host, or has capabilities; a device",
        "make_for_others",
        lambda scene: {"folder": str(_made_in(scene))},
        target=_not_ours,
        watched=lambda scene: [_made_in(scene)],
        control="root",
        away=Bare("root", lambda _: ()),
    ),
    Probe(
        "setuid-left",
        17,
        "leave a setuid file in the project: whoever runs it outside, from another sandbox say, becomes its owner",
        "leave_setuid",
        lambda scene: {"folder": str(_made_in(scene))},
        target=_setuid,
        watched=lambda scene: [_made_in(scene)],
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "handles",
        None,
        "open a secret by its number in the file system that the project is on, by way of the project's folder",
        "open_by_handle",
        _handle,
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
        unless=_other_file_system,
    ),
    Probe(
        "read-sibling-project",
        None,
        "read a file in the project of another sandbox of the account's",
        "read",
        _sibling_project,
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "write-sibling-project",
        None,
        "write to it",
        "write",
        lambda scene: _sibling_project(scene) | {"text": "evil\n"},
        owners=ACCOUNT_AND_ROOT,
        **_watching(lambda scene: [_sibling_file(scene)]),
    ),
    Probe(
        "machines",
        7,
        "read what root remembers of containers, and what systemd-nspawn keeps",
        "read",
        _machines,
        reached=lambda _, evidence: "supervisor" in str(evidence),
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=CONTAINER,
    ),
    Probe(
        "start-folder",
        28,
        "find the API key in what the container's first program was started by",
        "read",
        lambda scene: {"paths": _start_files(scene)},
        reached=lambda scene, evidence: scene.stage.api_key in str(evidence),
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        backends=CONTAINER,
    ),
    Probe(
        "machine-sockets",
        7,
        "connect to the sockets of its own and of a sibling's QEMU: QMP, the guest's agent",
        "unix",
        _machine_sockets,
        backends=VM,
    ),
    Probe(
        "machine-files",
        7,
        "open for writing what QEMU reads and writes there, and the guest's devices that lead to it",
        "open_for_writing",
        _machine_files,
        backends=VM,
    ),
    Probe(
        "out-of-share",
        5,
        "read a secret from the project by links, hard links, `..`, and a folder exchanged for a link meanwhile",
        "out_of_share",
        lambda scene: _out_of_share(scene, "read"),
        reached=holds_token,
        restore=_remove_leaving,
        watched=_left_to,
        backends=VM,
    ),
    Probe(
        "write-out-of-share",
        5,
        "write to it by the same ways",
        "out_of_share",
        lambda scene: _out_of_share(scene, "write"),
        restore=_remove_leaving,
        backends=VM,
        **_watching(_left_to),
    ),
)

# Processes and kernel


def _rights(_: Scene, evidence: Any) -> bool:
    powers = [evidence[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    return any(int(power, 16) for power in powers) or (evidence["NoNewPrivs"], evidence["Seccomp"]) != ("1", "2")


def _cgroups(scene: Scene) -> list[Path]:
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")]
    return [path for top in tops for path in top.glob(scene.stage.token)]


def _remove_cgroups(scene: Scene) -> None:
    for path in _cgroups(scene):
        path.rmdir()


def _set_back(_: Scene) -> None:
    Path(_BURST).write_text("10")


def _no_keyctl(stage: Stage) -> str:
    return "" if os.path.exists("/proc/keys") else "this kernel has no keyrings"


def _no_tiocsti(_: Stage) -> str:
    switch = Path("/proc/sys/dev/tty/legacy_tiocsti")
    return "dev.tty.legacy_tiocsti is 0" if switch.exists() and switch.read_text().strip() == "0" else ""


def _no_i386(stage: Stage) -> str:
    argv = stage.attempt_argv("keys_by_foreign_abi", {})
    done = stage.engine.outside(argv, stage.ids, {"PYTHONPATH": str(stage.code)})
    return "" if done["code"] == 0 and _called(None, done["out"]) else "this kernel runs no 32-bit programs"


def _tried_by_account(stage: Stage, name: str) -> Any:
    """What an attempt that takes nothing gets on the host."""
    done = stage.engine.outside(stage.attempt_argv(name, {}), stage.ids, {"PYTHONPATH": str(stage.code)})
    return json.loads(done["out"])


def _no_ring(stage: Stage) -> str:
    return "" if _tried_by_account(stage, "rings") == "ok" else "this kernel gives no io_uring to an account"


def _no_families(stage: Stage) -> str:
    return "" if _tried_by_account(stage, "families") else "this kernel has no such sockets"


def _called(_: Scene | None, evidence: Any) -> bool:
    found = json.loads(evidence) if isinstance(evidence, str) else evidence
    return any(number > 0 for number in found.values())


def _device_nodes(_: Scene) -> dict[str, Any]:
    names = (*_DEVICES, *_DEVICES_MORE)
    nodes = [path for path in Path("/dev").rglob("*") if path.name.startswith(names) and not path.is_dir()]
    return {"paths": [str(path) for path in nodes if stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK)]}


def _attack(scene: Scene) -> dict[str, Any]:
    state = scene.stage.victim.state()
    return {"pid": state["pid"], "address": state["address"], "text": "owned\0"}


def _harm(scene: Scene) -> Any:
    state = scene.stage.victim.state()
    return [state[name] for name in ("memory", "signals", "shared")]


def _segment(scene: Scene) -> dict[str, Any]:
    victim = scene.stage.victim
    return {"segment": victim.state()["segment"], "key": victim.key, "name": victim.name}


def _foreign_key(scene: Scene) -> dict[str, Any]:
    return {"description": scene.stage.token}


def _got_key(scene: Scene, evidence: Any) -> bool:
    """A virtual machine's kernel has keyrings of its own."""
    return bool(evidence["payload"]) or (evidence["keyring"] == "ok" and not _in_machine(scene))


def _own_settings(scene: Scene) -> str:
    return str(scene.home / ".claude/settings.json")


def _route(_: Scene) -> str:
    argv = ["ip", "route", "show", "table", "all", _LOST_ADDRESS]
    return subprocess.run(argv, check=False, capture_output=True, text=True).stdout


def _drop_route(_: Scene) -> None:
    subprocess.run(["ip", "route", "del", "blackhole", _LOST_ADDRESS], check=False, capture_output=True)


def _no_tun(_: Stage) -> str:
    return "" if os.path.exists("/dev/net/tun") else "this machine has no /dev/net/tun"


def _no_address(stage: Stage) -> str:
    argv = stage.attempt_argv("kernel_addresses", {})
    done = stage.engine.outside(argv, ROOT, {"PYTHONPATH": str(stage.code)})
    return "" if "[]" not in done["out"] else "this kernel tells nobody its addresses"


KERNEL = (
    Probe(
        "descriptors",
        8,
        "use an inherited descriptor above 2",
        "descriptors",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        pane=True,
    ),
    Probe(
        "processes",
        9,
        "find a process of the host or of a sibling by its command line or environment",
        "processes_with",
        lambda scene: {"pieces": [[text[:9], text[9:]] for text in (scene.stage.token, scene.stage.sibling_token)]},
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "attack",
        10,
        "ptrace, process_vm_writev, /proc/PID/mem, pidfd_getfd, kill on a process of the host",
        "attack",
        _attack,
        target=_harm,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "proc-roots",
        None,
        "read files through /proc/PID/root, cwd and fd of every process, bwrap's own among them",
        "by_way_of_processes",
        lambda scene: {"paths": [str(scene.home / ".netrc"), *map(str, scene.stage.root_secrets)]},
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "tiocsti",
        11,
        "type into a terminal by TIOCSTI",
        "type_into_terminal",
        lambda _: {"text": "evil"},
        reached=lambda _, evidence: bool(evidence["typed"]),
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        unless=_no_tiocsti,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "tioclinux",
        11,
        "reach TIOCLINUX, which pastes into consoles",
        "type_into_terminal",
        lambda _: {"text": ""},
        reached=lambda _, evidence: evidence["linux"] != "EPERM",
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "rights",
        12,
        "have a capability, gain privileges, go without the filter of system calls",
        "status",
        _nothing,
        reached=_rights,
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "mounts",
        13,
        "remount /usr writable, unmount it, pivot_root, setns; the same in a user namespace of one's own",
        "mounts",
        lambda scene: {"readonly": "/usr", "target": str(scene.stage.system_file), "text": "evil\n"},
        owners=ACCOUNT_AND_ROOT,
        # As root it would mount over this machine: the account shows that the file can be written at all.
        away=Bare(capable=lambda _: ("--ro-bind", "/usr", "/usr")),
        **_watching(lambda scene: [scene.stage.system_file]),
    ),
    Probe(
        "obeyed-mounts",
        13,
        "the same on ~/.claude/settings.json",
        "mounts",
        lambda scene: dict.fromkeys(("readonly", "target"), _own_settings(scene)) | {"text": "x"},
        away=Bare(capable=lambda scene: ("--ro-bind", _own_settings(scene), _own_settings(scene))),
        **_watching(lambda scene: [scene.home / ".claude/settings.json"]),
    ),
    Probe(
        "masks",
        13,
        "uncover a file under /usr that is hidden from root's sandbox",
        "mounts",
        lambda scene: dict.fromkeys(("readonly", "target"), str(scene.stage.root_secrets[2])) | {"text": ""},
        reached=holds_token,
        owners=("root",),
        control="as root it would mount over this machine; root-files shows that root can read the file",
        away=Bare("root", lambda scene: ("--ro-bind", "/dev/null", str(scene.stage.root_secrets[2]))),
        backends=SHARED_KERNEL,
    ),
    Probe(
        "namespaces",
        13,
        "find a process in other namespaces, to be joined",
        "foreign_namespaces",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        # The processes of a container with ids of its own are nobody's to look at but root's.
        control="root",
        # Even a bare bwrap has a user namespace, which has no rights over a sibling's; root needs none.
        away=Bare("root"),
        backends=SHARED_KERNEL,
    ),
    Probe(
        "switches",
        14,
        "open core_pattern, modprobe, sysrq-trigger, drop_caches for writing",
        "open_for_writing",
        lambda _: {"paths": list(_SWITCHES)},
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "sysctl",
        14,
        "change a value in /proc/sys",
        "set_switch",
        lambda _: {"path": _BURST, "value": "11"},
        target=lambda _: Path(_BURST).read_text(),
        restore=_set_back,
        owners=ACCOUNT_AND_ROOT,
        control="root",
    ),
    Probe(
        "proc-for-root",
        14,
        "read what of /proc others may not read (slabinfo, kpageflags, vmallocinfo)",
        "root_only_in_proc",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "cgroup",
        14,
        "make a cgroup on the host, also by mounting cgroup2 in a namespace of one's own",
        "make_cgroup",
        lambda scene: {"name": scene.stage.token},
        target=_cgroups,
        restore=_remove_cgroups,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        unless=lambda _: "" if os.path.isdir("/sys/fs/cgroup") else "no cgroups are mounted here",
    ),
    Probe(
        "keyring",
        15,
        "read a key from the session keyring of whoever ran the engine",
        "session_key",
        _foreign_key,
        reached=_got_key,
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        unless=_no_keyctl,
    ),
    Probe(
        "key-names",
        15,
        "find the names of those keys in /proc/keys",
        "session_key",
        _foreign_key,
        reached=lambda _, evidence: bool(evidence["listed"]),
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        unless=_no_keyctl,
        # As with sysfs: a new /proc is not covered as the old one is.
        known_in=("container-host-ids",),
    ),
    Probe(
        "foreign-abi",
        15,
        "call keyctl by the tables of i386 and x32, round the filter",
        "keys_by_foreign_abi",
        _nothing,
        reached=_called,
        owners=ACCOUNT_AND_ROOT,
        unless=_no_i386,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "devices",
        16,
        "open /dev/mem, kvm, disks, loop devices, input, fuse, tun, vsock",
        "devices",
        _device_nodes,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "mknod",
        16,
        "make a device node",
        "make_device",
        lambda scene: {"folder": scene.facts["view"]["project_dir"]},
        reached=lambda _, evidence: evidence == "ok",
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "setuid",
        17,
        "become root by a setuid program",
        "run",
        lambda scene: {"argv": [str(scene.stage.setuid), "-u"]},
        reached=lambda _, evidence: evidence == "0",
        away="bwrap forbids new privileges whatever its options are",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "kernel-log",
        14,
        "read the kernel's log",
        "kernel_log",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
        backends=SHARED_KERNEL,
    ),
    Probe(
        "kernel-addresses",
        14,
        "learn at what addresses the kernel's functions are",
        "kernel_addresses",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
        unless=_no_address,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "sysfs",
        14,
        "see /sys: as it is, with what covers it taken away, mounted anew in namespaces of one's own",
        "sysfs",
        _nothing,
        reached=lambda _, evidence: any(evidence.values()),
        owners=ACCOUNT_AND_ROOT,
        # systemd-nspawn before 254 leaves the host's mounts beneath the container's: the kernel then lets a new one be.
        known_in=("container", "container-host-ids"),
        backends=SHARED_KERNEL,
    ),
    Probe(
        "io-uring",
        None,
        "make an io_uring, by which the kernel is called past the filter of system calls",
        "rings",
        _nothing,
        reached=lambda _, evidence: evidence == "ok",
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        unless=_no_ring,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "tunnel",
        16,
        "make a network interface by /dev/net/tun",
        "tunnel",
        lambda _: {"name": "probe-tunnel"},
        reached=lambda _, evidence: evidence == "ok",
        owners=ACCOUNT_AND_ROOT,
        control="root",
        away=Bare("root", lambda _: ()),
        unless=_no_tun,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "beneath",
        13,
        "read a file that everybody may read from what lies under the root: chroot, unmount, move, clone, pivot_root",
        "beneath",
        lambda scene: {"path": str(scene.stage.open_file)},
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "terminals",
        11,
        "get at a terminal of the host: the pane's, its own way out, or another one",
        "terminals",
        _nothing,
        reached=lambda _, evidence: os.stat("/dev/pts").st_dev in evidence,
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        backends=CONTAINER,
    ),
)

# What processes of one account share


def _sockets(names: Iterable[str], more: Iterable[str] = ()) -> dict[str, Any]:
    """Connections to sockets of the host, counted where they listen; more: by the names that a grant gives them."""
    chosen, renamed = tuple(names), tuple(more)

    def present(scene: Scene) -> list[str]:
        return [name for name in chosen if name in scene.stage.sockets]

    return {
        "attempt": "unix",
        "given": lambda scene: {
            "paths": [scene.stage.sockets[name].path for name in present(scene)]
            + [f"/run/user/{scene.stage.account.uid}/{name}" for name in renamed]
        },
        "target": lambda scene: counts(scene.stage.sockets[name] for name in present(scene)),
    }


def _display(facts: Mapping[str, Any]) -> str:
    return f"/tmp/.X11-unix/X{facts['instance']['display']}"


def _by_display(scene: Scene) -> dict[str, Any]:
    given = {"segment": scene.stage.victim.state()["segment"], "text": "owned"}
    if scene.kind == "inside":
        return given
    return given | scene.stage.display


def _no_cookie(scene: Scene) -> dict[str, Any]:
    cookie = "" if scene.kind == "inside" else f"{scene.facts['instance']['folder']}/xauth"
    return {"path": _display(scene.facts), "cookie": cookie}


IPC = (
    Probe(
        "shared-memory",
        18,
        "read shared memory of the host, System V and POSIX",
        "shared_memory",
        _segment,
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "shared-memory-by-display",
        18,
        "have the X server, which runs outside, read and write shared memory of the host (MIT-SHM)",
        "shared_memory_by_display",
        _by_display,
        target=_harm,
        owners=ACCOUNT_AND_ROOT,
        away="the control's X server is one without protection",
    ),
    Probe(
        "abstract",
        19,
        "connect to an abstract socket of the host, a D-Bus one among them",
        "unix",
        lambda scene: {"paths": [f"@{canary.name}" for canary in scene.stage.abstract]},
        target=lambda scene: counts(scene.stage.abstract),
        owners=ACCOUNT_AND_ROOT,
        pane=True,
        # Landlock keeps a sandbox with the network from them, where the kernel has it (6.12).
        by_design=("on",),
    ),
    Probe(
        "abstract-display",
        20,
        "connect to the abstract socket of its own and of a sibling's display",
        "unix",
        lambda scene: {
            "paths": [f"@{_display(facts)}" for facts in (scene.facts, scene.sibling)]
            if scene.kind == "inside"
            else [f"@{scene.stage.abstract[2].name}"]
        },
        owners=ACCOUNT_AND_ROOT,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "sibling-display",
        20,
        "be let in by a sibling's display",
        "display",
        lambda scene: {"path": _display(scene.sibling), "cookie": f"{scene.sibling['instance']['folder']}/xauth"},
        owners=ACCOUNT_AND_ROOT,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "host-display",
        20,
        "be let in by the display of the host, whose cookie the account may read",
        "display",
        lambda scene: scene.stage.display,
        owners=ACCOUNT_AND_ROOT,
    ),
    Probe(
        "no-cookie",
        20,
        "be let in by its own display without the cookie",
        "display",
        _no_cookie,
        away="the cookie is the X server's, not the sandbox's; the control shows that it opens",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "dbus",
        21,
        "reach the session bus, by which systemd starts programs",
        variant="few",
        away=Granted({"grants": {"dbus": True}}),
        **_sockets(["dbus"]),
    ),
    Probe(
        "sockets",
        22,
        "reach the sockets of docker, podman, libvirt, tmux, QMP, Wayland, keyring, gpg-agent",
        owners=ACCOUNT_AND_ROOT,
        **_sockets(
            [*"docker podman libvirt tmux qmp wayland keyring gpg_agent".split(), "docker system", "libvirt system"]
        ),
    ),
    Probe(
        "system-sockets",
        22,
        "reach the sockets of the system: D-Bus, systemd, the journal, udev, machined",
        owners=ACCOUNT_AND_ROOT,
        **_sockets(SYSTEM_SOCKETS),
    ),
    Probe(
        "ssh-agent",
        23,
        "reach the ssh-agent that the engine's own environment names",
        variant="own",
        away=Granted({"grants": {"ssh_agent": True}}),
        **_sockets(["ssh_agent"], more=["ssh-agent"]),
    ),
    Probe(
        "audio",
        24,
        "reach PulseAudio or PipeWire",
        variant="few",
        away=Granted({"grants": {"audio": True}}),
        **_sockets(["audio", "pipewire"]),
    ),
)

# Network


def _addresses(scene: Scene, canaries: Iterable[Any]) -> list[tuple[str, int]]:
    """Theirs, and where a virtual machine finds what is on the host's loopback."""
    found = [canary.address for canary in canaries]
    return found + ([(_HOST_OF_MACHINE, port) for _, port in found] if _in_machine(scene) else [])


def _inet(canaries: str) -> dict[str, Any]:
    return {
        "given": lambda scene: {"addresses": _addresses(scene, getattr(scene.stage, canaries)), "text": "probe"},
        "target": lambda scene: counts(getattr(scene.stage, canaries)),
    }


def _no_vsock(_: Stage) -> str:
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError as error:
        return f"this kernel has no AF_VSOCK ({error.strerror})"
    return ""


def _no_second_interface(_: Stage) -> str:
    return "" if len(socket.if_nameindex()) > 1 else "this machine itself has no interface but lo"


def _drop_address(_: Scene) -> None:
    subprocess.run(["ip", "address", "del", "127.7.7.7/32", "dev", "lo"], check=False, capture_output=True)


NETWORK = (
    Probe(
        "tcp",
        25,
        "connect by TCP to loopback (IPv4, IPv6) and to the host's address",
        "tcp",
        **_inet("tcp"),
        owners=ACCOUNT_AND_ROOT,
        by_design=("on",),
    ),
    Probe(
        "udp",
        25,
        "send UDP to loopback (IPv4, IPv6) and to the host's address",
        "udp",
        **_inet("udp"),
        owners=ACCOUNT_AND_ROOT,
        by_design=("on",),
    ),
    Probe(
        "interfaces",
        25,
        "find an interface besides lo",
        "interfaces",
        _nothing,
        reached=lambda _, evidence: evidence != ["lo"],
        owners=ACCOUNT_AND_ROOT,
        by_design=("on",),
        unless=_no_second_interface,
    ),
    Probe(
        "ping",
        25,
        "ping the host's loopback by a raw or an ICMP socket",
        "ping",
        lambda scene: {"host": _HOST_OF_MACHINE if _in_machine(scene) else scene.stage.tcp[-1].host},
        reached=lambda _, evidence: evidence == "answered",
        owners=ACCOUNT_AND_ROOT,
        # Where net.ipv4.ping_group_range lets everybody ping.
        by_design=("on",),
        control="root",
    ),
    Probe(
        "raw",
        25,
        "open raw and packet sockets, give an interface an address",
        "raw",
        _nothing,
        reached=lambda _, evidence: "ok" in evidence.values(),
        restore=_drop_address,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        backends=SHARED_KERNEL,
    ),
    Probe(
        "route",
        25,
        "have the host lose what goes to an address, by netlink",
        "lose_route",
        lambda _: {"address": _LOST_ADDRESS},
        target=_route,
        restore=_drop_route,
        owners=ACCOUNT_AND_ROOT,
        control="root",
        # Rights over the host's network are not to be had in a user namespace.
        away="even root has no right to it in bwrap's namespace; the control shows that it works",
    ),
    Probe(
        "families",
        25,
        "open a socket of a family that no namespace parts: vsock, Bluetooth, the kernel's ciphers",
        "families",
        _nothing,
        owners=ACCOUNT_AND_ROOT,
        unless=_no_families,
        backends=SHARED_KERNEL,
    ),
    Probe(
        "vsock",
        25,
        "use the host's AF_VSOCK ports, by which a virtual machine talks to what runs it",
        "hypervisor_port",
        lambda _: {"port": _VSOCK_PORT},
        reached=lambda _, evidence: evidence == "EADDRINUSE",
        owners=ACCOUNT_AND_ROOT,
        by_design=("on",),
        unless=_no_vsock,
    ),
    Probe(
        "nix-daemon",
        27,
        "have the Nix daemon fetch",
        "unix",
        lambda _: {"paths": ["/nix/var/nix/daemon-socket/socket"]},
        unless=lambda _: "" if os.path.exists("/nix/var/nix/daemon-socket/socket") else "no Nix daemon runs here",
    ),
    Probe(
        "environment",
        29,
        "inherit LD_PRELOAD, NODE_OPTIONS, BUN_OPTIONS, BASH_ENV, tokens from whoever ran the engine",
        "environment",
        _nothing,
        reached=holds_token,
        owners=ACCOUNT_AND_ROOT,
        pane=True,
    ),
    Probe(
        "own-environment",
        29,
        "the same where the account runs the engine itself",
        "environment",
        _nothing,
        reached=holds_token,
        variant="own",
        pane=True,
    ),
)

PROBES = (*FILES, *KERNEL, *IPC, *NETWORK)


def hold_vsock() -> socket.socket | None:
    """The port of the probe, taken by the host."""
    with contextlib.ExitStack() as stack:
        try:
            taken = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            taken.bind((socket.VMADDR_CID_ANY, _VSOCK_PORT))
        except OSError:
            return None
        stack.pop_all()
        return taken
