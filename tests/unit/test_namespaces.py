"""What a process that enters a sandbox no longer does there."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import namespaces, procs


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which modules are loaded, with one in it that says that it was."""
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()\n")
    encodings = tmp_path / "encodings"
    encodings.mkdir()
    (encodings / "planted.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("encodings.__path__", [str(encodings)])
    return tmp_path


def loads(name: str) -> str:
    try:
        importlib.import_module(name)
    # An empty list of finders is warned of, which is an error in tests.
    except (ImportError, ImportWarning):
        return "refused"
    return "loaded"


@pytest.mark.parametrize("protected", [True, False], ids=["among-others", "at-home"])
def test_no_code_is_loaded_among_the_files_of_others(planted: Path, protected: bool) -> None:
    def work() -> Any:
        if protected:
            namespaces._import_nothing()
        found = loads("planted_module")
        # Python looks for a codec in the same way: wording an error may be enough.
        with contextlib.suppress(LookupError, ImportWarning):
            "".encode("planted")
        return [found, loads("json"), [len(each) for each in (sys.path, sys.meta_path, sys.path_hooks)] == [0, 0, 0]]

    assert procs.fork(None, work).result() == ["refused" if protected else "loaded", "loaded", protected]
    assert (planted / "loaded").exists() is not protected
    # It is the child's own matter.
    assert sys.path
    assert sys.meta_path


@pytest.mark.parametrize("enter", [namespaces.join, namespaces.join_mounts])
def test_whoever_enters_loads_nothing_from_then_on(planted: Path, enter: Any) -> None:
    """Also where there is nothing to enter: it is this process' own."""
    us = os.getpid()

    def work() -> Any:
        enter(us)
        return loads("planted_module")

    assert procs.fork(None, work).result() == "refused"
    assert not (planted / "loaded").exists()
