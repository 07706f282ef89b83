# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The engine as files on a host, owned by root, for the helper that accounts run by sudo (see helper.py).

The files are those that this process was itself loaded from, wherever that is: a folder or an archive.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import shutil
import stat
import sys
from collections.abc import Mapping

from . import helper
from .backends import bubblewrap, container, vm
from .errors import SandboxError
from .files import replace
from .privileged import HELPER

FOLDER = "/usr/local/lib/claude-sandbox/engine"
_PACKAGE = f"{FOLDER}/claude_sandbox"
# -I: neither the variables nor the folder of whoever runs it decide what is imported.
_PROGRAM = f"""\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{FOLDER}")

from claude_sandbox.helper import main

main()
"""
_CACHE = "__pycache__"
# What is loaded by these is the whole engine, as far as the helper needs it.
_LOADED = (helper, bubblewrap, container, vm)


def files() -> dict[str, bytes]:
    """What belongs on the host: path → content."""
    package = __package__ or ""
    found = {HELPER: _PROGRAM.encode()}
    for name, module in sorted(sys.modules.items()):
        if name != package and not name.startswith(f"{package}."):
            continue
        path = name.removeprefix(package).replace(".", "/")
        path = f"{path}/__init__.py" if hasattr(module, "__path__") else f"{path}.py"
        content = pkgutil.get_data(package, path.lstrip("/"))
        if content is None:
            raise SandboxError(f"The engine's own file {path} cannot be read.")
        found[f"{_PACKAGE}{path}"] = content
    return found


def differing(wanted: Mapping[str, bytes]) -> list[str]:
    """The files that are not as wanted, or should not be there."""
    return sorted(path for path in {*wanted, *_present()} if not _is_as_wanted(path, wanted.get(path)))


def apply(wanted: Mapping[str, bytes]) -> None:
    """Write what differs and remove what is too much; raises SandboxError where that cannot be done."""
    try:
        for path in differing(wanted):
            if path in wanted:
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                replace(path, wanted[path], _mode(path))
                os.chmod(path, _mode(path))
            else:
                os.unlink(path)
        if not wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(HELPER))
    except OSError as error:
        raise SandboxError(f"{error.filename} cannot be written: {error.strerror}.", "Run this as root.") from None


def _mode(path: str) -> int:
    return 0o755 if path == HELPER else 0o644


def _present() -> list[str]:
    found = [HELPER] if os.path.lexists(HELPER) else []
    for folder, folders, names in os.walk(_PACKAGE):
        folders[:] = [name for name in folders if name != _CACHE]
        found += [f"{folder}/{name}" for name in names]
    return found


def _is_as_wanted(path: str, content: bytes | None) -> bool:
    if content is None:
        return False
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return (file.read(), status.st_uid, stat.S_IMODE(status.st_mode)) == (content, 0, _mode(path))
    except OSError:
        return False
