"""`python -m tests.hosts up` and `down`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.hosts.fleet import Fleet, FleetError, start, take_down
from tests.hosts.layout import CACHE, RELEASES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description="Debian hosts for tests, as root.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start hosts, which run until `down`")
    up.add_argument("--count", type=int, default=3, help="how many (%(default)s)")
    up.add_argument("--releases", default=",".join(RELEASES), help="they alternate (%(default)s)")
    down = commands.add_parser("down", help="end them")
    for command in (up, down):
        command.add_argument("--directory", type=Path, default=CACHE / "run", help="of this fleet (%(default)s)")
    return parser.parse_args()


def _print_ways_in(hosts: Fleet, directory: Path, seconds: float) -> None:
    print(f"{len(hosts.names)} hosts in {seconds:.1f} s:")
    for name in hosts.names:
        print(f"  {name}  {hosts.release(name):9} {directory}/ssh -F {directory}/ssh_config {name}")
    print(f"ansible-playbook -i {hosts.inventory} …")


def main() -> int:
    options = _arguments()
    directory = options.directory.absolute()
    if options.command == "down":
        print("The hosts are down." if take_down(directory) else f"There are no hosts in {directory}.")
        return 0
    began = time.monotonic()
    hosts = start(directory, options.count, options.releases.split(","), detached=True)
    _print_ways_in(hosts, directory, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FleetError as error:
        sys.exit(f"tests/hosts: {error}")
