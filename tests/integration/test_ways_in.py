"""The modules by each of their names: from a clone, and from a collection that was built and installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import playing
from tests.integration.arena import Arena

MODULES = ("claude_sandbox", "claude_sandbox_attach", "claude_sandbox_exec", "claude_sandbox_info", "claude_sandboxes")


def _run(*argv: str, folder: Path, **env: str) -> str:
    done = subprocess.run(
        [playing.program(argv[0]), *argv[1:]],
        cwd=folder,
        env=playing.clean_environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the collection is installed, with no clone around it."""
    folder = tmp_path_factory.mktemp("installed")
    env = {"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "HOME": str(folder)}
    # A file of that name in the folder where Ansible runs would count otherwise, and so would the user's own.
    folder.joinpath("ansible.cfg").touch()
    _run("ansible-galaxy", "collection", "build", "--output-path", str(folder), folder=playing.CLONE, **env)
    (archive,) = folder.glob("*.tar.gz")
    install = ("collection", "install", "--offline", "--collections-path", str(folder), str(archive))
    _run("ansible-galaxy", *install, folder=folder, **env)
    return folder


def test_the_short_name_from_the_clone(arena: Arena, tmp_path: Path) -> None:
    """As a newcomer types it, with the clone's own ansible.cfg."""
    asked = f"name=quick project_dir={arena.project} state_dir={arena.state_dir} agent=shell network=false"
    env = {"HOME": str(tmp_path), "ANSIBLE_CONFIG": str(playing.CLONE / "ansible.cfg")}
    for answer in ("CHANGED", "SUCCESS"):
        shown = _run("ansible", "localhost", "-m", "claude_sandbox", "-a", asked, folder=playing.CLONE, **env)
        assert f"localhost | {answer}" in shown
    (view,) = arena.engine.views()
    assert (view["name"], view["agent"], view["network"], view["status"]) == ("quick", ["shell"], False, "running")


def test_the_full_name_from_the_installed_collection(arena: Arena, installed: Path) -> None:
    results = arena.play(
        arena.started(),
        arena.inside("pwd"),
        arena.task("claude_sandbox_attach", name="box"),
        arena.task("claude_sandbox_info"),
        arena.task("claude_sandboxes", sandboxes=[], prune=True),
        folder=installed,
        env={"ANSIBLE_CONFIG": str(installed / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(installed)},
    )
    assert not any(result.failed for result in results), results
    assert results[1]["stdout"] == str(arena.project)


def test_the_short_name_from_the_installed_collection(arena: Arena, installed: Path, tmp_path: Path) -> None:
    """It takes a path that leads to the modules: a short name belongs to no collection."""
    library = installed / "ansible_collections/claude_code/nix_sandbox/plugins/modules"
    env = {"HOME": str(tmp_path), "ANSIBLE_CONFIG": str(installed / "ansible.cfg"), "ANSIBLE_LIBRARY": str(library)}
    env["ANSIBLE_COLLECTIONS_PATH"] = str(installed)
    asked = f"name=none state=absent state_dir={arena.state_dir}"
    shown = _run("ansible", "localhost", "-m", "claude_sandbox", "-a", asked, folder=installed, **env)
    assert "localhost | SUCCESS" in shown


def test_what_is_in_the_archive(installed: Path) -> None:
    """All that is needed to run, and nothing of how it is made."""
    content = installed / "ansible_collections/claude_code/nix_sandbox"
    names = {path.name for path in content.iterdir()}
    assert {"plugins", "meta", "README.md", "LICENSE", "MANIFEST.json"} <= names
    assert names.isdisjoint({"tests", "Makefile", ".venv", ".collections", ".git", ".ci", "pyproject.toml", "bench"})
    assert [path for path in content.rglob("*") if path.name == "__pycache__"] == []


@pytest.mark.parametrize("where", ["clone", "installed"])
def test_the_documentation(where: str, installed: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "ANSIBLE_CONFIG": str(playing.CLONE / "ansible.cfg")}
    if where == "installed":
        env = {
            "HOME": str(tmp_path),
            "ANSIBLE_CONFIG": str(installed / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(installed),
        }
    names = [f"{playing.COLLECTION}.{module}" for module in MODULES]
    folder = playing.CLONE if where == "clone" else installed
    documents = json.loads(_run("ansible-doc", "--json", *names, folder=folder, **env))
    assert sorted(documents) == sorted(names)
    for document in documents.values():
        assert document["doc"]["short_description"]
        assert document["examples"]
        assert document["return"]
