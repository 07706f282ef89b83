# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is at the other end of a connection: a program of this host, one inside a sandbox, or another machine.

A sandbox with the network on shares the host's loopback, so an address says nothing. The kernel names the socket at the
other end, and /proc who holds it. A process of a deeper pid namespace than ours is inside: of a
sandbox, or of any container.

An agent may try to hide its socket: it can have it on its way through a socket of its own, where no process holds it,
or hand it to a program outside that takes whatever it is sent, as an X server does. So whoever is not found is doubted
where anybody of the same account is inside.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import errno
import ipaddress
import os
import pwd
import re
import socket
import struct
import threading
from collections.abc import Collection, Iterable, Iterator

from claude_sandbox import host, procs

_SO_COOKIE = 57  # asm-generic/socket.h
_REMEMBERED = 1024
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # linux/proc_ns.h
# Ids that systemd, and our engine, give to containers; nobody on the host has them but accounts of large directories.
_CONTAINER_IDS = range(0x80000, 0x70000000)
# They keep descriptors that a client inside sent them unasked, and call no manager themselves.
_RECEIVERS = frozenset(
    "Xvfb Xorg Xwayland Xephyr Xvnc dbus-daemon dbus-broker pipewire pipewire-pulse wireplumber pulseaudio".split()
)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_End = tuple[_Address, int]


class Kind(enum.Enum):
    """What is at the other end.

    OUTSIDE: a process of this host that is in no sandbox. INSIDE: one that is, or may be nothing else.
    UNSEEN: nobody was found, and nobody of its account is in a sandbox. DOUBTFUL: nobody was found, and somebody is.
    GONE: whoever called has closed its end, and so cannot be told. REMOTE: another machine, or another network
    namespace.
    UNKNOWN: the server does not tell which connection it is, or it is none of TCP.
    """

    OUTSIDE = "outside"
    INSIDE = "inside"
    UNSEEN = "unseen"
    DOUBTFUL = "doubtful"
    GONE = "gone"
    REMOTE = "remote"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Peer:
    """The other end of a connection. uid: of the account that made its socket, where it is one of this host's."""

    kind: Kind
    uid: int | None = None


class Peers:
    """Finds out who is at the other end, once for each connection. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[int, Peer] = collections.OrderedDict()

    def of(self, connection: socket.socket | None) -> Peer:
        """Who is at the other end of an accepted connection; never an error."""
        if connection is None:
            return Peer(Kind.UNKNOWN)
        name = _name(connection)
        with self._lock:
            found = self._known.get(name) if name is not None else None
        if found is None:
            found = look(connection)
            self._remember(name, found)
        return found

    def _remember(self, name: int | None, found: Peer) -> None:
        if name is None:
            return
        with self._lock:
            self._known[name] = found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _name(connection: socket.socket) -> int | None:
    """What no other socket has had since this machine started: numbers of descriptors, inodes and ports come again."""
    try:
        return int(struct.unpack("=Q", connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])
    except (OSError, struct.error):
        return None


def look(connection: socket.socket) -> Peer:
    """Who is at the other end now; never an error."""
    try:
        ours, theirs = _end(connection.getsockname()), _end(connection.getpeername())
    except OSError:
        return Peer(Kind.GONE)
    except (ValueError, TypeError, IndexError):
        return Peer(Kind.UNKNOWN)
    row = _row(theirs, ours)
    if row is None:
        return Peer(Kind.GONE if _is_of_this_host(theirs[0], ours[0]) else Kind.REMOTE)
    kind = _kind(row.inode, row.uid)
    if kind is Kind.UNSEEN and _row(theirs, ours) != row:
        # It ended while we looked.
        kind = Kind.GONE
    return Peer(kind, row.uid)


def _end(address: tuple[str, int]) -> _End:
    return _plain(address[0].partition("%")[0]), address[1]


def _plain(address: str | bytes) -> _Address:
    """An address of IPv4 as such, also where a socket of IPv6 has it."""
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _is_of_this_host(theirs: _Address, ours: _Address) -> bool:
    """Whether a connection between these cannot have come from another machine."""
    if theirs.is_loopback or ours.is_loopback:
        return True
    family = socket.AF_INET if theirs.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv{theirs.version}/ip_nonlocal_bind", "rb") as file:
        if file.read().strip() != b"0":
            # Any address can be bound here: it tells nothing.
            return False
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(theirs), 0))
    except OSError:
        return False
    return True


# What the kernel knows of the socket


@dataclasses.dataclass(frozen=True)
class _Row:
    """The account that made a socket, and the socket's inode."""

    uid: int
    inode: int


def _row(local: _End, remote: _End) -> _Row | None:
    """The socket that has these ends; None where no process has it (any more).

    A socket that was closed lives on for a while, as nobody's: its inode is 0 then, and so is its uid, which is not to
    be taken for root's.
    """
    try:
        found = _asked(local, remote)
        # Modules that are not loaded answer as if there were no socket: but our own end there is.
        if found is not None or _asked(remote, local) is not None:
            return found
    except OSError:
        pass
    return _listed(local, remote) or _listed(local, remote)


# By asking for that one: see sock_diag(7)

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NO_COOKIE = (1 << 64) - 1
_SOCKET_ID = "HH16s16sIQ"  # inet_diag_sockid: both ports, both addresses, an interface, a cookie
_HEAD = struct.Struct("=IHHII")  # nlmsghdr
_QUESTION = struct.Struct(f"=BBBxI{_SOCKET_ID}")  # inet_diag_req_v2
_ANSWER = struct.Struct(f"=BBxx{_SOCKET_ID}12xII")  # inet_diag_msg


def _asked(local: _End, remote: _End) -> _Row | None:
    """The socket as the kernel finds it for a packet. Raises OSError where it cannot be asked."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        for interface in _interfaces():
            kernel.send(_question(local, remote, interface))
            found = _answered(kernel.recv(4096), local, remote)
            if found is not None:
                return found
    return None


def _interfaces() -> Iterator[int]:
    """A socket may be bound to one, as anybody's may, and is only found by way of that."""
    yield 0
    for index, _interface in socket.if_nameindex():
        yield index


def _question(local: _End, remote: _End, interface: int) -> bytes:
    family = socket.AF_INET if local[0].version == 4 else socket.AF_INET6
    ports, addresses = (socket.htons(local[1]), socket.htons(remote[1])), (local[0].packed, remote[0].packed)
    every_state = 0xFFFFFFFF
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, every_state, *ports, *addresses, interface, _NO_COOKIE)
    return _HEAD.pack(_HEAD.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def _answered(message: bytes, local: _End, remote: _End) -> _Row | None:
    if len(message) < _HEAD.size + 4:
        raise OSError(errno.EPROTO, "the kernel's answer is cut off")
    if _HEAD.unpack_from(message)[1] == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", message, _HEAD.size)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, os.strerror(number))
    family, _state, *ports, source, target, _interface, _cookie, uid, inode = _ANSWER.unpack_from(message, _HEAD.size)
    ends = [
        (_plain(address[:4] if family == socket.AF_INET else address), socket.ntohs(port))
        for address, port in zip((source, target), ports, strict=True)
    ]
    # Where nobody has these ends any more it may be a listener, whose other end is nothing, or what is left of one that
    # was closed, whose inode is none.
    return _Row(uid, inode) if inode and ends == [local, remote] else None


# By the table of all, where the kernel cannot be asked


def _listed(local: _End, remote: _End) -> _Row | None:
    rows = [row for path, table_row in _places(local, remote) for row in _rows(path, table_row) if row.inode]
    # One address is one socket's: more than one means that the table changed while it was read.
    return rows[0] if len(rows) == 1 else None


def _places(local: _End, remote: _End) -> Iterator[tuple[str, bytes]]:
    """The tables in which the socket may be, each with the ends as they are written there."""
    if local[0].version == 4 and remote[0].version == 4:
        yield "/proc/self/net/tcp", _written(local, remote)
    # A socket of IPv6 may have addresses of IPv4.
    yield "/proc/self/net/tcp6", _written(_widened(local), _widened(remote))


def _widened(end: _End) -> _End:
    return (ipaddress.IPv6Address(f"::ffff:{end[0]}"), end[1]) if end[0].version == 4 else end


def _written(local: _End, remote: _End) -> bytes:
    return f": {_hex(local)} {_hex(remote)} ".encode()


def _hex(end: _End) -> str:
    """ADDRESS:PORT as the kernel writes it: words of 32 bits in this machine's order."""
    packed = end[0].packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{end[1]:04X}"


def _rows(path: str, ends: bytes) -> Iterator[_Row]:
    """The rows with these ends."""
    try:
        with open(path, "rb") as file:
            table = file.read()
    except OSError:
        return
    for match in re.finditer(re.escape(ends), table):
        # State, queues, timer, retransmissions, uid, timeout, inode.
        words = table[match.end() : match.end() + 120].split(b"\n", 1)[0].split()
        with contextlib.suppress(IndexError, ValueError):
            yield _Row(int(words[4]), int(words[6]))


# The processes


@dataclasses.dataclass(frozen=True)
class _Process:
    """pid, how many pid namespaces it is in from ours on, and its uids of all kinds."""

    pid: int
    depth: int
    uids: frozenset[int]


def _kind(inode: int, uid: int) -> Kind:
    """Where the socket with that inode is held."""
    if _is_mapped(uid):
        return Kind.INSIDE
    everyone = list(_everyone())
    own = procs.depth(os.getpid())
    inside = [each for each in everyone if each.depth > own]
    # These come first, and all of them: one that is held inside as well is not to be had by way of one outside.
    if _holders(inside, inode):
        return Kind.INSIDE
    others = sorted((each for each in everyone if each.depth <= own), key=lambda each: uid not in each.uids)
    found = False
    for each in others:
        if _holders([each], inode):
            found = True
            if not _receives(each.pid):
                return Kind.OUTSIDE
    doubtful = found or _sees_only_some() or any(uid in each.uids for each in inside)
    return Kind.DOUBTFUL if doubtful else Kind.UNSEEN


def _is_mapped(uid: int) -> bool:
    """Whether an id is one that containers have, and that no account of this host runs programs under."""
    if uid in (0, os.geteuid()):
        return False
    if any(first <= uid < first + many for first, many in host.mapped_ranges()):
        return True
    if uid not in _CONTAINER_IDS:
        return False
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return False


def _everyone() -> Iterator[_Process]:
    own, depth = os.stat("/proc/self/ns/pid").st_ino, procs.depth(os.getpid())
    for pid in procs.every_pid():
        found = _beside_us(pid, own, depth) or _process(pid)
        if found is not None:
            yield found


def _beside_us(pid: int, own: int, depth: int) -> _Process | None:
    """A process of our own pid namespace, if it lets us see that: much quicker than its status."""
    try:
        if os.stat(f"/proc/{pid}/ns/pid").st_ino == own:
            return _Process(pid, depth, frozenset([os.stat(f"/proc/{pid}").st_uid]))
    except OSError:
        pass
    return None


def _process(pid: int) -> _Process | None:
    """What the status of a process says, which all may read (hidepid aside); None where it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except OSError:
        return None
    # The name, which may hold anything, is escaped there: lines are the kernel's own.
    fields = dict(line.partition(b":")[::2] for line in status.split(b"\n"))
    uids = frozenset(int(word) for word in fields.get(b"Uid", b"").split())
    return _Process(pid, len(fields.get(b"NSpid", b"0").split()), uids)


def _holders(among: Iterable[_Process], inode: int) -> bool:
    """Whether one of these has a descriptor of the socket; not where we may not look."""
    link = f"socket:[{inode}]"
    return any(link in _links(each.pid) for each in among)


def _links(pid: int) -> Collection[str]:
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _receives(pid: int) -> bool:
    """Whether that program may have been sent the descriptor from inside."""
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return True
    # Packages of Nix wrap programs under such names.
    return program.removeprefix(".").removesuffix("-wrapped") in _RECEIVERS


def _sees_only_some() -> bool:
    """Whether there may be processes on this machine that we know nothing of."""
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            return True
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            options = [line.split()[-1] for line in file if line.split()[4] == "/proc"]
    except (OSError, IndexError):
        return True
    # Others are hidden from all but root, and so is one of our own account that does not let itself be traced.
    hidden = (word.partition("=")[2] for line in options for word in line.split(",") if word.startswith("hidepid="))
    return any(value not in ("0", "off") for value in hidden)
