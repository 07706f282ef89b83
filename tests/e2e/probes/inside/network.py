"""Attempts at the network."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from .attempt import attempt, outcome

_TIMEOUT = 1.0
_ECHO_REQUEST = 8
_RTM_NEWADDR, _RTM_NEWROUTE, _NLM_F_REQUEST_ACK, _NLM_F_CREATE = 20, 24, 5, 0x400
_RTN_BLACKHOLE = 6
_VSOCK_ANY = 0xFFFFFFFF


@attempt
def interfaces() -> list[str]:
    """The names of the network interfaces."""
    return [name for _, name in socket.if_nameindex()]


@attempt
def tcp(addresses: Sequence[tuple[str, int]], text: str) -> dict[str, str]:
    """Connect, and say something."""
    return {f"{host}:{port}": outcome(_tcp, host, port, text) for host, port in addresses}


def _tcp(host: str, port: int, text: str) -> None:
    with socket.create_connection((host, port), _TIMEOUT) as connection:
        connection.sendall(text.encode())


@attempt
def udp(addresses: Sequence[tuple[str, int]], text: str) -> dict[str, str]:
    """Send a datagram."""
    return {f"{host}:{port}": outcome(_udp, host, port, text) for host, port in addresses}


def _udp(host: str, port: int, text: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), (host, port))


@attempt
def ping(host: str) -> str:
    """An echo request by a raw socket, and by the kernel's own kind for it: `answered`, or the errors."""
    kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM)
    results = [outcome(_ping, host, kind) for kind in kinds]
    return "answered" if "ok" in results else " ".join(results)


def _ping(host: str, kind: socket.SocketKind) -> None:
    body = struct.pack("!HH", os.getpid() & 0xFFFF, 1) + b"probe---"
    packet = struct.pack("!BBH", _ECHO_REQUEST, 0, _checksum(struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + body)) + body
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sender:
        sender.settimeout(_TIMEOUT)
        sender.sendto(packet, (host, 0))
        sender.recv(1024)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@attempt
def raw() -> dict[str, str]:
    """Sockets that write and hear whole packets, and an address of one's own choice for an interface."""

    def opened(family: int, kind: int, protocol: int) -> None:
        socket.socket(family, kind, protocol).close()

    return {
        "packet": outcome(lambda: opened(socket.AF_PACKET, socket.SOCK_RAW, 0x300)),
        "inet": outcome(lambda: opened(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)),
        "address": outcome(_add_address),
    }


def _add_address() -> None:
    """Give the loopback interface an address that means nothing, by netlink."""
    payload = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
    payload += struct.pack("=HH4s", 8, 2, socket.inet_aton("127.7.7.7"))
    _ask_netlink(_RTM_NEWADDR, _NLM_F_REQUEST_ACK, payload)


def _ask_netlink(kind: int, flags: int, payload: bytes) -> None:
    message = struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(_TIMEOUT)
        link.sendto(message, (0, 0))
        code = -struct.unpack("=i", link.recv(4096)[16:20])[0]
        # What another run has added already counts as added.
        if code not in (0, 17):
            raise OSError(code, os.strerror(code))


@attempt
def lose_route(address: str) -> dict[str, str]:
    """Have the kernel drop all that goes to an address, by netlink; in a user namespace of one's own, too."""
    from .kernel import enter_own_user_namespace, in_child

    def nested() -> dict[str, str]:
        enter_own_user_namespace(0)
        return {"nested": outcome(_add_route, address)}

    return {"plain": outcome(_add_route, address)} | dict(in_child(nested))


def _add_route(address: str) -> None:
    payload = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 4, 0, _RTN_BLACKHOLE, 0)
    payload += struct.pack("=HH4s", 8, 1, socket.inet_aton(address))
    _ask_netlink(_RTM_NEWROUTE, _NLM_F_REQUEST_ACK | _NLM_F_CREATE, payload)


@attempt
def hypervisor_port(port: int) -> str:
    """Take a port of AF_VSOCK: no namespace divides them, so a clash with the host's shows that it is the host's."""

    def take() -> None:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as taken:
            taken.bind((_VSOCK_ANY, port))

    return outcome(take)


@attempt
def unix(paths: Sequence[str]) -> list[str]:
    """The UNIX sockets that let us in: paths, or abstract names that begin with @."""
    return [path for path in paths if outcome(_unix, path) == "ok"]


def _unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        with contextlib.suppress(OSError):
            connection.sendall(b"probe\n")


@attempt
def unix_datagram(path: str, text: str = "probe") -> str:
    """Send a datagram to a UNIX socket."""

    def send() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(text.encode(), path)

    return outcome(send)


def open_stream(path: str) -> Any:
    """A connection to a UNIX socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT * 5)
    connection.connect(path)
    return connection
