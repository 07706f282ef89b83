"""The project's flake in the hands of Nix."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.nix import stubs
from tests.nix.tree import Nix

SYSTEMS = ("x86_64-linux", "aarch64-linux")
# What this machine can build.
SYSTEM = "x86_64-linux"


class Flake:
    """A flake with other inputs than its lock says. Its outputs may be asked for as often as one likes."""

    def __init__(self, nix: Nix, folder: Path) -> None:
        self.nix = nix
        self.folder = folder
        self._built: dict[str, Path] = {}

    @functools.cached_property
    def _nixpkgs(self) -> str:
        """Where it is in the store: there it is not copied again, nor its hash computed."""
        path = f"path:{self.folder}/nixpkgs"
        return f"path:{self.nix.json('nix', 'flake', 'metadata', '--json', path)['path']}"

    @property
    def _inputs(self) -> list[str]:
        return stubs.inputs(self._nixpkgs, f"path:{self.folder}/claude-code")

    def reference(self, output: str) -> str:
        """Of an output, for Nix."""
        return f"path:{self.folder}/project#{output}"

    def evaluate(self, output: str, function: str = "value: value") -> Any:
        """What a function in Nix's language makes of an output. Raises NixError."""
        return self.nix.json("nix", "eval", "--json", self.reference(output), "--apply", function, *self._inputs)

    def build(self, package: str) -> Path:
        """Where in Nix's store a package is, built once. Raises NixError."""
        if package not in self._built:
            self._built[package] = self._build(package)
        return self._built[package]

    def _build(self, package: str) -> Path:
        argv = ("nix", "build", "--no-link", "--print-out-paths", self.reference(package), *self._inputs)
        return Path(self.nix.said(*argv))

    def build_drv(self, path: str) -> Path:
        """The same, by its derivation."""
        return Path(self.nix.said("nix", "build", "--no-link", "--print-out-paths", f"{path}^out"))

    def build_closure(self, path: str) -> Sequence[str]:
        """The derivations and the sources that a derivation is made from."""
        return self.nix.said("nix-store", "--query", "--requisites", path).split()

    def seen(self, path: Path | str) -> Path:
        """Where on this machine a path of the store is."""
        return self.nix.root.parent / str(path).lstrip("/")

    def content(self, path: Path | str) -> str:
        """Of a file of the store, wherever its links lead there."""
        place = Path(path)
        while True:
            found = self.seen(place)
            link = next((each for each in (found, *found.parents) if each.is_symlink()), None)
            if link is None:
                return found.read_text(encoding="utf-8")
            place = link.readlink() / found.relative_to(link)
