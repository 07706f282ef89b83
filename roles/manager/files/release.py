# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds, on the controller, the wheel that goes to hosts, and builds it where a clone has none for what is in it now.

In a release of the collection the wheel and the lock of what it needs lie beside this file. In a clone the wheel is
made from the clone, and kept in .cache under the digest of all that it is made from. Prints JSON: wheel and lock
(paths), name (what the release is called on hosts: version and digest), built (whether it had to be made). With --check
nothing is made; where it would have to be, wheel and name are empty.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_CLONE = _HERE.parents[2]
_PATTERN = "claude_sandbox-*-py3-none-any.whl"
# What pyproject.toml and the packages that it names are made of.
_INPUTS = ("LICENSE", "README.md", "pyproject.toml", "cli", "manager_app", "plugins/module_utils/claude_sandbox")
_NO_INPUTS = ("__pycache__", "node_modules")
_KEPT = 5  # wheels in .cache
# The earliest time that a zip can hold is 1980; the same for all, so that the same files make the same wheel.
_EPOCH = "315619200"


class _BuildError(Exception):
    """Why there is no wheel, in one line for a person."""


def main() -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description="Find, or build, the manager's wheel.")
    parser.add_argument("--check", action="store_true", help="make nothing")
    parser.add_argument("--wheel", help="this one, in place of the release's or the clone's")
    parser.add_argument("--into", help="also copy it, and the lock, into this folder, as a release has them")
    asked = parser.parse_args()
    try:
        found = _found(asked.wheel, asked.check)
        if asked.into:
            shutil.copy(found["wheel"], asked.into)
            shutil.copy(found["lock"], f"{asked.into}/requirements.txt")
    except _BuildError as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def _found(given: str | None, check: bool) -> dict[str, Any]:
    locks = (_HERE / "requirements.txt", _CLONE / "requirements/manager.txt")
    lock = next((path for path in locks if path.is_file()), None)
    if lock is None:
        raise _BuildError(f"{_HERE} has no requirements.txt, and {_CLONE} is no clone of the collection.")
    wheel, built = (Path(given), False) if given else _own(check)
    if wheel is not None and not wheel.is_file():
        raise _BuildError(f"{wheel} is no file.")
    return {
        "wheel": str(wheel or ""),
        "lock": str(lock),
        "name": _name(wheel, lock) if wheel else "",
        "built": built,
    }


def _own(check: bool) -> tuple[Path | None, bool]:
    """The wheel of the release or of the clone, and whether it had to be made; None where it would have to be."""
    shipped = sorted(_HERE.glob(_PATTERN))
    if shipped:
        return shipped[-1], False
    if not (_CLONE / "pyproject.toml").is_file():
        raise _BuildError(f"{_HERE} has no wheel, and {_CLONE} is no clone of the collection to build it from.")
    missing = not _is_static_there()
    if missing and not check:
        _run(["make", "-C", str(_CLONE), "static"], "the libraries of the manager's pages")
    kept = None if missing and check else _kept()
    if kept or check:
        return kept, False
    return _built(), True


def _is_static_there() -> bool:
    """Whether the clone has the pages' libraries as they are locked (see `make static`)."""
    static = _CLONE / "manager_app/static/vendor/package-lock.json"
    return static.is_file() and static.read_bytes() == (_CLONE / "manager_app/package-lock.json").read_bytes()


def _folder() -> Path:
    return _CLONE / ".cache/wheel" / _digest_of_inputs()


def _kept() -> Path | None:
    return next(iter(sorted(_folder().glob(_PATTERN))), None)


def _inputs() -> Iterator[tuple[str, Path]]:
    """The files, by their paths in the clone."""
    for name in _INPUTS:
        top = _CLONE / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            relative = path.relative_to(_CLONE)
            if path.is_file() and not set(relative.parts) & set(_NO_INPUTS):
                yield str(relative), path


def _digest_of_inputs() -> str:
    digest = hashlib.sha256()
    for name, path in _inputs():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _built() -> Path:
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as draft:
        # A copy: a build in the clone would leave files there, and take up what an earlier one has left.
        source, made = Path(draft) / "source", Path(draft) / "made"
        for name, path in _inputs():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / name)
        for path in [source, *source.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        isolation = ["--no-build-isolation"] if _has_setuptools() else []
        words = ["--quiet", "--no-input", "--no-deps", *isolation, "--wheel-dir", str(made), str(source)]
        _run([sys.executable, "-m", "pip", "wheel", *words], "the manager's wheel")
        try:
            made.rename(folder)
        except OSError:
            # Another play was quicker; it made the same.
            if not _kept():
                raise
    _forget_old(folder)
    found = _kept()
    if found is None:
        raise _BuildError(f"pip has made no wheel in {folder}.")
    return found


def _has_setuptools() -> bool:
    """Whether this Python has what pyproject.toml builds with; pip fetches it where not."""
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def _forget_old(current: Path) -> None:
    others = [path for path in current.parent.iterdir() if path != current and not path.name.startswith(".")]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _run(words: list[str], what: str) -> None:
    environ = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONHASHSEED": "0"}
    done = subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        raise _BuildError(f"{what[0].upper()}{what[1:]} cannot be made ({' '.join(words[:4])} …):\n{last}")


def _name(wheel: Path, lock: Path) -> str:
    digest = hashlib.sha256(hashlib.sha256(wheel.read_bytes()).digest() + hashlib.sha256(lock.read_bytes()).digest())
    return f"{wheel.name.split('-')[1]}-{digest.hexdigest()[:12]}"


if __name__ == "__main__":
    sys.exit(main())
