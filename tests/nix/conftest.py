"""What the tests of the flake share: one store, in which all is built once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nix import stubs
from tests.nix.flake import Flake
from tests.nix.tree import Nix


@pytest.fixture(scope="session")
def flake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flake]:
    """The project's flake with stand-ins for its inputs, and a Nix for it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make the tree that has Nix")
    folder = tmp_path_factory.mktemp("nix")
    # An account of its own runs what was built.
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    stubs.make(folder / "flakes")
    made = Flake(Nix(folder, [folder / "flakes"]), folder / "flakes")
    yield made
    made.nix.remove()


@pytest.fixture(scope="session")
def launcher(flake: Flake) -> Path:
    """The package `default`, in the store."""
    return flake.build("default")
