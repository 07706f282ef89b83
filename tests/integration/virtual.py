"""What the tests of the backend vm share: whether they can run, and an arena of small virtual machines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import guest_agent
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.backends import vm
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.commands import Completed
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.instance import launch_folder
from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.spec import VM_OPTIONS
from tests.integration.arena import Arena

GUEST = Path(VM_OPTIONS["guest"].default)
SMALL: Mapping[str, Any] = {"memory": 256, "cpus": 1}
_PROGRAMS = ("qemu-system-x86_64", "qemu-ga", "setpriv", "bwrap", "tmux")


def obstacle() -> str | None:
    """Why no virtual machine can be tested here, or None."""
    if os.geteuid() != 0:
        return "only root can make the account that the virtual machines belong to"
    for name in _PROGRAMS:
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"there is no {name} (make test-deps)"
    if not all((GUEST / name).is_file() for name in ("kernel", "initrd")):
        return f"there is no guest in {GUEST} (make guest)"
    return None


class VirtualArena(Arena):
    """An arena whose sandboxes are virtual machines, with the host's programs."""

    settings: Mapping[str, Any] = MappingProxyType({"backend": "vm", "toolchain": "host", "vm": SMALL})

    def launch(self, name: str = "box") -> Path:
        """The folder of what passes between the engine and the machine that runs."""
        instance = self.engine.registry.resolve(name).instance
        assert instance is not None
        return Path(launch_folder(instance.folder))

    def as_guests_root(self, script: str, name: str = "box") -> Completed:
        """Run a script as what no agent is: the root of the guest's own."""
        agent = guest_agent.Agent(str(self.launch(name) / vm._OWN_FILES), seconds=30)
        return agent.run(["/usr/bin/bash", "-c", script], "/usr/bin/bash")

    def qemu(self, name: str = "box") -> int:
        """The pid of a machine's QEMU."""
        first = self.pids(name)["init"]
        return int(Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()[0])

    def log(self, name: str = "box") -> str:
        """What a sandbox has shown, as it is kept."""
        return Path(self.engine.registry.resolve(name).log).read_text(encoding="utf-8", errors="replace")
