"""The arrows of the engine point one way: read from its imports, not from what happens to be loaded."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "plugins" / "module_utils" / "claude_sandbox"
FILES = sorted(path for path in ENGINE.rglob("*.py"))
NAMES = {path: path.relative_to(ENGINE).with_suffix("").as_posix() for path in FILES}
# Modules of the standard library that touch nothing of the machine by themselves.
PURE = {"__future__", "collections.abc", "contextlib", "dataclasses", "json", "math", "os.path", "re", "typing"}


def imported(path: Path, everywhere: bool = True) -> Iterator[tuple[int, str]]:
    """The level (0 is absolute) and the name of each import: the module's, or where there is none what it brings."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def siblings(name: str) -> set[str]:
    """The modules of the engine that one of it imports, anywhere in it."""
    path = ENGINE / f"{name}.py"
    depth = name.count("/") + 1
    below = "/".join(name.split("/")[:-1])
    return {
        f"{below}/{module}".lstrip("/") if level < depth else module.replace(".", "/")
        for level, module in imported(path)
        if level
    }


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_it_imports_the_standard_library_and_itself(path: Path) -> None:
    """Anywhere, not only at the top: it must work where nothing else is installed."""
    depth = len(path.relative_to(ENGINE).parts)
    for level, module in imported(path):
        assert level <= depth, f"{module} is outside the engine"
        assert level or module.split(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_what_it_imports_of_itself_exists(path: Path) -> None:
    for module in siblings(NAMES[path]):
        assert (ENGINE / f"{module}.py").exists() or (ENGINE / module / "__init__.py").exists() or module == "backends"


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_it_says_when_its_types_are_read(path: Path) -> None:
    first = next(iter(imported(path, everywhere=False)), (0, "__future__"))
    assert first == (0, "__future__")


ALLOWED = {
    "errors": set[str](),
    "closure": {"errors"},
    "claude": set[str](),
    "files": set[str](),
    "seccomp": set[str](),
    "libc": set[str](),
    "landlock": {"libc"},
    "namespaces": {"libc"},
    "mounts": {"libc"},
    "spec": {"errors"},
    "prices": {"errors", "files"},
    "plan": {"errors", "spec"},
    "host": {"errors"},
    "channel": {"errors"},
    "terminal": {"errors"},
    "grants": {"claude", "errors", "spec"},
    "procs": {"errors", "host"},
    "limits": set[str](),
    "cgroups": set[str](),
    "commands": {"errors", "namespaces"},
    "untrusted": set[str](),
    # Of commands, the form in which they tell what came of one.
    "prompt": {"commands", "errors", "untrusted"},
    "snapshot": set[str](),
    "difference": {"snapshot", "untrusted"},
    "comparison": {"difference", "errors", "host", "namespaces", "procs", "snapshot"},
    # What runs as root for others, and knows nothing of sandboxes.
    "privileged": {"errors", "host", "procs"},
    "machines": {
        "cgroups",
        "commands",
        "errors",
        "files",
        "host",
        "landlock",
        "limits",
        "mounts",
        "namespaces",
        "procs",
        "seccomp",
        "spec",
    },
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_ground_rests_on_little(name: str) -> None:
    assert siblings(name) <= ALLOWED[name]


@pytest.mark.parametrize("name", ["spec", "plan", "grants", "claude", "closure", "limits", "prompt", "untrusted"])
def test_the_pure_ones_touch_nothing(name: str) -> None:
    absolute = {module for level, module in imported(ENGINE / f"{name}.py") if not level}
    assert absolute <= PURE
    calls = [
        node.func for node in ast.walk(ast.parse((ENGINE / f"{name}.py").read_text())) if isinstance(node, ast.Call)
    ]
    assert "open" not in {call.id for call in calls if isinstance(call, ast.Name)}
    # Of os.path only what looks at the text.
    on_path = {call.attr for call in calls if isinstance(call, ast.Attribute) and ast.unparse(call.value) == "os.path"}
    assert on_path <= {"normpath"}


# Each may know those below it, and none above.
LAYERS = [
    {"errors", "claude", "files", "seccomp", "libc", "guest", "limits", "cgroups", "untrusted", "snapshot"},
    {"spec", "closure", "host", "prices", "landlock", "namespaces", "mounts"},
    {"channel", "screen", "terminal", "difference"},
    {"plan", "grants", "procs", "commands"},
    {"toolchain", "instance", "display", "usage", "privileged", "machines", "kvm", "qmp", "guest_agent"},
    {"backends/base", "registry", "agent", "scope", "prompt", "comparison"},
    {"backends/bubblewrap", "backends/container", "keys", "session"},
    {"backends/vm", "foreground"},
    {"lifecycle"},
    {"changes", "inside", "view", "helper", "preview"},
    {"working"},
    {"sandboxes", "installation"},
    {"task"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def test_every_module_has_its_layer() -> None:
    assert {name for name in NAMES.values() if not name.endswith("__init__")} == set(RANK)


@pytest.mark.parametrize("name", RANK)
def test_arrows_point_down(name: str) -> None:
    for module in siblings(name) - {"backends"}:
        assert RANK[module] < RANK[name], f"{name} imports {module}"


@pytest.mark.parametrize("name", [name for name in NAMES.values() if name.startswith("backends/")])
def test_a_backend_knows_nothing_of_what_uses_it(name: str) -> None:
    assert not siblings(name) & {"session", "registry", "lifecycle", "inside", "sandboxes", "view", "plan", "display"}


# What is packed as a program of its own, and what packs it: no sandbox is made by them, so that none is chosen.
PROGRAMS = {"helper", "installation"}


def test_only_the_chosen_backend_is_loaded() -> None:
    """No module loads one when it is loaded itself: the import stands in the function that chooses."""
    for path in FILES:
        if "backends" in path.parts or NAMES[path] in PROGRAMS:
            continue
        top = {(level, module) for level, module in imported(path, everywhere=False) if level}
        assert not {module for _, module in top if module.startswith("backends")} - {"backends.base"}


def test_nothing_else_loads_a_program_of_its_own() -> None:
    assert {name for name in NAMES.values() if siblings(name) & PROGRAMS} <= PROGRAMS
