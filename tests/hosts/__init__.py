"""Debian hosts for tests, several on one machine, reached over SSH.

Each is a Debian tree that systemd-nspawn boots, with systemd as its first process. They share a bridge in a network of
their own, from which nothing else is reached but the sources of packages, through a proxy.
"""

from tests.hosts.fleet import Fleet, FleetError, fleet

__all__ = ["Fleet", "FleetError", "fleet"]
