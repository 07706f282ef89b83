# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A virtual machine from nothing to its agent's first output, against bare QEMU with the same machine and guest."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import guest
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import vm
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.host import Host
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.spec import Spec, parse

from . import place
from .create import stopped
from .figure import Figure, in_turns, milliseconds, ratio, shown

LIMIT = 1.3
STOP_SECONDS = 5.0
_ROUNDS = 6
_SECONDS = 60
_STEP = 0.005
_FIRST_OUTPUT = "begun"
_AGENT = ["/bin/sh", "-c", f"echo >{_FIRST_OUTPUT}; exec sleep 1d"]
# No shell, no module: as soon as there is a first program, the machine is told to end.
_END_AT_ONCE = "rdinit=/bin/busybox -- reboot -f"
# What no guest can do without whose programs are the host's: the modules of its devices, which the initial file system
# loads by itself, and these programs mounted.
_MOUNT_ONCE = f"""\
busybox mkdir /{guest.TOOLS}
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any {guest.TOOLS} /{guest.TOOLS}
busybox reboot -f
"""


class Floor:
    """The very machine that the engine makes, without the sandbox around it and without what happens in the guest."""

    def __init__(self, spec: Spec, folder: str) -> None:
        self._options = list(vm._qemu_options(spec))
        self._program = Host.this().need("qemu-system-x86_64")
        self._guest = spec.vm["guest"]
        self._folder = folder

    def boot(self) -> float:
        """How long it takes up to its first program, and to end."""
        return self._run(_END_AT_ONCE, "")

    def mount(self) -> float:
        """The same with the modules loaded, and with the programs mounted once."""
        return self._run("", _MOUNT_ONCE)

    def _run(self, words: str, job: str) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            os.mkfifo(f"{folder}/control", 0o600)
            with open(f"{folder}/{guest.JOB}", "w", encoding="ascii") as file:
                file.write(job)
            argv = [self._program, *(self._option(option, folder) for option in self._options)]
            argv[argv.index("-append") + 1] += f" {words}"
            return milliseconds(lambda: _finished(argv))

    def _option(self, option: str, folder: str) -> str:
        """An option with the host's paths for those of QEMU's own sandbox."""
        places = ((vm._INSIDE, folder), (f"path={vm._WORK}", f"path={folder}"), (f"path={vm._TOOLS}", "path=/usr"))
        for inside, outside in (*places, (f"{vm._GUEST}/", f"{self._guest}/")):
            option = option.replace(inside, outside)
        return option


def _finished(argv: list[str]) -> None:
    """Run it to its end, with nothing to read and nobody to show anything to."""
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=_SECONDS)


def measure(where: place.Place) -> list[Figure]:
    """Starting and stopping, on a host that has a guest."""
    params = where.params("vm") | {"backend": "vm", "agent": _AGENT}
    spec = parse(params)
    if shutil.which("qemu-system-x86_64") is None or not os.path.exists(f"{spec.vm['guest']}/kernel"):
        return []
    stops: list[float] = []
    floor = Floor(spec, where.folder)
    request = Request("new", params=params)
    with place.registry(f"{where.folder}/vm-registry") as sandboxes:
        work = {
            "boot": floor.boot,
            "floor": floor.mount,
            "create": lambda: _creation(sandboxes, request, f"{spec.project_dir}/{_FIRST_OUTPUT}", stops),
        }
        samples = in_turns(_ROUNDS, work)
    notes = (
        shown(samples),
        f"accelerator {vm.accelerator(spec)[0]}; floor: boot, the modules for 9p, /usr mounted over it; and QEMU's end",
    )
    started = Figure("create-vm", ratio(samples["create"], samples["floor"]), LIMIT, notes)
    return [started, stopped("vm", stops[1:], STOP_SECONDS)]


def _creation(sandboxes: Sandboxes, request: Request, sign: str, stops: list[float]) -> float:
    """How long it is to the first output, in milliseconds; how long the stop takes is put into `stops`."""
    try:
        took = milliseconds(lambda: _until_there(sandboxes, request, sign))
        stops.append(milliseconds(lambda: sandboxes.ensure(Request(request.name, "stopped"))))
        return took
    finally:
        place.remove(sandboxes, request.name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sign)


def _until_there(sandboxes: Sandboxes, request: Request, sign: str) -> None:
    sandboxes.ensure(request)
    end = time.monotonic() + _SECONDS
    while not os.path.exists(sign):
        if time.monotonic() > end:
            raise RuntimeError("the agent of a virtual machine has put out nothing")
        time.sleep(_STEP)
