# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a virtual machine is told: the script that its first program runs, and the archive of its files.

Pure. The guest's initial file system knows only how to load modules and to mount the share in which both lie.
"""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence

WORK, TOOLS = "work", "tools"  # the names of the two shares
JOB, FILES = "job", "files"  # what lies in the first of them, beside what is bound by number
END, KILL = b"end", b"kill"  # what is said to the control port: ask the agent to end, make it end
REPORT_PORT, AGENT_PORT, CONTROL_PORT = 1, 2, 3
COLUMNS, ROWS = 160, 48  # of the console: as the session's pane
RESOLVER = "/etc/resolv.conf"
ADDRESS, GATEWAY, NAMESERVER = "10.0.2.15", "10.0.2.2", "10.0.2.3"  # QEMU's own user-mode network
SCREEN = ":0"
LOST = 125  # the exit code of a command whose directory is not there; it says so by a word of its own, too
_NEW = "/new"  # where the root is put together
# What programs expect in /dev, and no kernel makes.
_STREAMS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_TOOLS_PATH = "/usr/sbin:/sbin"  # where some distributions keep programs that only root runs
_REPORT_LINE = re.compile(r"(started|exit|failed|missing) ?(.*)\Z")
_MOST_DIGITS = 9

# Runs as the owner: report, have all else start, then become the agent. The words: directory, PATH, program; then what
# env is given.
# Programs that a shell starts in the background ignore the signals of a terminal, which the agent must not.
_BEGIN = """\
cd -- "$0" 2>/dev/null || { echo "failed the directory of the project is not there" >&8; exit 126; }
PATH=$1 command -v -- "$2" >/dev/null || { echo missing >&8; exit 127; }
shift 2
echo "started $$" >&8
echo >&9
exec env -i --default-signal=INT,QUIT "$@" 8>&- 9>&-"""

# The same for a command beside the agent. The words: directory, what is printed where it is not there; then env's.
_BESIDE = f"""\
cd -- "$0" 2>/dev/null || {{ printf %s "$1" >&2; exit {LOST}; }}
shift
exec env -i --default-signal=INT,QUIT "$@\""""

_XORG = """\
Section "ServerFlags"
  Option "AutoAddDevices" "false"
  Option "AutoAddGPU" "false"
  Option "DontVTSwitch" "true"
  Option "BlankTime" "0"
EndSection
Section "Device"
  Identifier "screen"
  Driver "modesetting"
  Option "kmsdev" "/dev/dri/card0"
  Option "ShadowFB" "true"
EndSection
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """A path of the guest's at which one of what is shared is seen. source: where that is mounted in the guest."""

    source: str
    target: str
    is_folder: bool


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom everything inside belongs to."""

    uid: int
    gid: int
    home: str


@dataclasses.dataclass(frozen=True)
class Task:
    """What a guest has to put together, and to run.

    links: (path, what it points to). path: where its programs are looked for. screen: the program of an X server.
    setpriv, guest_agent: those programs, by their paths.
    """

    name: str
    owner: Account
    places: tuple[Place, ...]
    files: Mapping[str, bytes]
    links: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    shell: str
    path: str
    network: bool
    setpriv: str
    guest_agent: str
    screen: str | None = None


@dataclasses.dataclass(frozen=True)
class _Mount:
    source: str
    target: str
    kind: str
    options: str
    is_folder: bool = True


@dataclasses.dataclass(frozen=True)
class Report:
    """What a guest has said about itself so far. missing: whether the program to be run was not there."""

    pid: int | None = None
    exit_code: int | None = None
    failure: str | None = None
    missing: bool = False


def report(content: bytes) -> Report:
    """What the lines of a guest's report mean; those that mean nothing are left out, as is an unfinished one."""
    found = Report()
    for line in content.decode("utf-8", "replace").split("\n")[:-1]:
        match = _REPORT_LINE.match(line.rstrip("\r"))
        if match is None:
            continue
        word, rest = match[1], match[2]
        is_number = rest.isascii() and rest.isdigit() and len(rest) <= _MOST_DIGITS
        if word == "started" and is_number and found.pid is None:
            found = dataclasses.replace(found, pid=int(rest))
        elif word == "exit" and is_number and int(rest) < 256 and found.exit_code is None:
            found = dataclasses.replace(found, exit_code=int(rest))
        elif word == "failed" and found.failure is None:
            found = dataclasses.replace(found, failure="".join(c if c.isprintable() else "?" for c in rest[:200]))
        elif word == "missing":
            found = dataclasses.replace(found, missing=True)
    return found


def programs_path(path: str) -> str:
    """Where the guest's root finds its programs."""
    return f"{path}:{_TOOLS_PATH}"


def script(task: Task) -> bytes:
    """What the guest's first program runs, from the mounting of its root to the end of the machine."""
    parts = [_opening(task), _network(task.network), *_mounting(task), _agent(task), _beside_agent(task)]
    return "\n".join([*parts, _closing(), ""]).encode()


def archive(task: Task) -> bytes:
    """The files and the links of the guest's root as a tar archive: the files are the owner's, and for it alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, points_to in (*_STREAMS, *task.links):
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, points_to
            tar.addfile(link)
        for path, content in _files(task).items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode, member.uid, member.gid = len(content), 0o600, task.owner.uid, task.owner.gid
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _files(task: Task) -> dict[str, bytes]:
    more = {RESOLVER: f"nameserver {NAMESERVER}\n".encode()} if task.network else {}
    if task.screen is not None:
        more["/run/xorg.conf"] = _XORG.encode()
    return {**more, **task.files}


def beside(owner: Account, shell: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, lost: str) -> list[str]:
    """The argv by which the guest's root runs a command as the owner, in a process group of its own.

    lost: what is printed, with the exit code LOST, where the directory is not there.
    """
    # The streams are the guest agent's, who is root: a program may want to open its own by their names.
    give = [shell, "-p", "-c", 'chown "$0" /proc/self/fd/[012]; exec "$@"', f"{owner.uid}:{owner.gid}"]
    return ["setsid", *give, "setpriv", *_as_owner(owner, shell), _BESIDE, cwd, lost, *_env_words(env, shell, argv)]


def _as_owner(owner: Account, shell: str) -> list[str]:
    privileges = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
    return [f"--reuid={owner.uid}", f"--regid={owner.gid}", *privileges, "--", shell, "-p", "-c"]


def _env_words(env: Mapping[str, str], shell: str, argv: Sequence[str]) -> list[str]:
    words = [f"{name}={value}" for name, value in env.items()]
    # env takes a program with a = in its path for another variable.
    through = [shell, "-p", "-c", 'exec -- "$@"', "sh"] if "=" in argv[0] else []
    return [*words, *through, *argv]


def _quoted(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _opening(task: Task) -> str:
    return f"""\
exec 8>/dev/vport0p{REPORT_PORT} 7</dev/vport0p{CONTROL_PORT}
leave() {{
  kill -TERM -1
  busybox usleep 50000
  kill -KILL -1
  busybox sync
  busybox reboot -f
}}
fail() {{
  echo "failed $1" >&8
  leave
}}
busybox mount -t proc proc /proc
echo {shlex.quote(task.name)} >/proc/sys/kernel/hostname
busybox mount -t tmpfs -o mode=0755 root {_NEW}
busybox mkdir /{TOOLS}
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any {TOOLS} /{TOOLS} ||
  fail "the programs cannot be mounted\""""


def _mounts(task: Task) -> list[_Mount]:
    owner = f"uid={task.owner.uid},gid={task.owner.gid},mode=0700"
    found = [
        _Mount("proc", "/proc", "proc", "nosuid,nodev,noexec"),
        _Mount("sys", "/sys", "sysfs", "ro,nosuid,nodev,noexec"),
        _Mount("dev", "/dev", "devtmpfs", "nosuid"),
        _Mount("pts", "/dev/pts", "devpts", "nosuid,noexec,gid=5,mode=0620,ptmxmode=0666"),
        _Mount("shm", "/dev/shm", "tmpfs", "nosuid,nodev,mode=1777"),
        _Mount("home", "/home", "tmpfs", "nosuid,nodev,mode=0755"),
        _Mount("own", task.owner.home, "tmpfs", f"nosuid,nodev,{owner}"),
        # A share takes no socket and no pipe (since QEMU's CVE-2023-2861), which is what programs put here.
        _Mount("tmp", "/tmp", "tmpfs", "nosuid,nodev,mode=1777"),
        _Mount("tmp", "/var/tmp", "tmpfs", "nosuid,nodev,mode=1777"),
        _Mount("run", f"/run/user/{task.owner.uid}", "tmpfs", f"nosuid,nodev,{owner}"),
    ]
    found += [
        _Mount(place.source, place.target, "none", "bind", place.is_folder)
        for place in task.places
        if not (task.network and place.target == RESOLVER)
    ]
    # What the user mounts goes before what we would.
    return list({mount.target: mount for mount in found}.values())


def _mounting(task: Task) -> list[str]:
    """The mounts, outer ones first; those that are within none of the others are made by one program, and so on."""
    mounts = _mounts(task)
    targets = {mount.target for mount in mounts}
    levels: dict[int, list[_Mount]] = {}
    for mount in mounts:
        levels.setdefault(_depth(mount.target, targets), []).append(mount)
    lines = [_level(levels[depth]) for depth in sorted(levels)]
    unpack = f"busybox tar -x -f /{WORK}/{FILES} -C {_NEW} || fail 'the files cannot be written'"
    return [*lines, unpack]


def _depth(target: str, targets: set[str]) -> int:
    """Within how many of the targets one lies."""
    parts = target.split("/")
    return sum("/".join(parts[:end]) in targets for end in range(2, len(parts)))


def _level(mounts: Sequence[_Mount]) -> str:
    folders = {_NEW + (m.target if m.is_folder else m.target.rpartition("/")[0]) for m in mounts}
    lines = [f"busybox mkdir -p -- {_quoted(sorted(folders))} || fail 'a place to mount on cannot be made'"]
    for mount in mounts:
        if not mount.is_folder:
            path = shlex.quote(_NEW + mount.target)
            lines.append(f"[ -e {path} ] || : >{path} || fail 'a place to mount on cannot be made'")
    table = "\n".join(f"{_field(m.source)} {_field(_NEW + m.target)} {m.kind} {m.options} 0 0" for m in mounts)
    lines.append(f"printf '%s\\n' {shlex.quote(table)} >/fstab")
    lines.append("busybox mount -a -T /fstab || fail 'something cannot be mounted'")
    return "\n".join(lines)


def _field(text: str) -> str:
    """A field of fstab(5)."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


def _network(wanted: bool) -> str:
    lines = ["busybox mkfifo /begun", "busybox ifconfig lo 127.0.0.1 up"]
    if wanted:
        lines += [
            'while read -r module; do busybox insmod "$module"; done </lib/net',
            f"busybox ifconfig eth0 {ADDRESS} netmask 255.255.255.0 up && busybox route add default gw {GATEWAY}",
        ]
    # It comes up beside the mounts; the agent waits for it.
    return "{\n" + "\n".join(lines) + "\n} &\nnetwork=$!"


def _agent(task: Task) -> str:
    """Start the agent on the console, as the leader of a session of its own."""
    path = task.env.get("PATH", task.path)
    begin = [task.setpriv, *_as_owner(task.owner, task.shell), _BEGIN, task.cwd, path, task.argv[0]]
    words = _quoted([*begin, *_env_words(task.env, task.shell, task.argv)])
    device = "/dev/hvc0"
    return f"""\
cd {_NEW}
busybox mount --move . /
busybox chown {task.owner.uid}:{task.owner.gid} {device}
exec 6<>{device}
busybox stty rows {ROWS} cols {COLUMNS} sane <&6
wait $network
exec 9<>/begun
programs={shlex.quote(programs_path(task.path))}
PATH=$programs /bin/busybox setsid -c /bin/busybox chroot . {words} <&6 >&6 2>&6 6<&- 7<&- &
agent=$!"""


def _beside_agent(task: Task) -> str:
    """What the agent does not wait for, and would be slowed down by: begun once it has."""
    guest_agent = f"{shlex.quote(task.guest_agent)} -m virtio-serial -p /dev/vport0p{AGENT_PORT} -t /run"
    lines = ["read -r begun <&9", "exec 9<&-", f"PATH=$programs /bin/busybox chroot . {guest_agent} &"]
    if task.screen is not None:
        flags = f"{SCREEN} -config /run/xorg.conf -logfile /run/xorg.log -nolisten tcp -noreset -novtswitch -ac vt7"
        lines += [
            'while read -r module; do busybox insmod "$module"; done </lib/screen',
            f"PATH=$programs exec /bin/busybox chroot . {shlex.quote(task.screen)} {flags}",
        ]
    return "\n".join(["{", *lines, "} </dev/null >/dev/null 2>&1 6<&- 7<&- 8>&- &"])


def _closing() -> str:
    return f"""\
while read -r word <&7; do
  case $word in
    {END.decode()})
      kill -TERM "-$agent"
      kill -HUP "-$agent"
      kill -CONT "-$agent" ;;
    {KILL.decode()}) kill -KILL "-$agent" ;;
  esac
done &
wait $agent
echo "exit $?" >&8
leave"""
