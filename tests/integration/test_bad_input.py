"""What cannot be is refused in a line or two that say why, before anything is made; what merely looks odd works."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.integration.arena import PLAIN, Arena
from tests.integration.playing import Result

LONG = "x" * 4000
NO_NAMES = [
    "a;b", "$(touch canary)", "`id`", "a\nb", "a,b", "-rf", "..", ".", "a..b", "a/b", "/etc", "a b", "", "ünï",
    "x" * 64, LONG, "a\0b", "_a", "a'b", '"', "#{pid}", "%s", "\u202eevil",
]  # fmt: skip


def _refusals(arena: Arena, items: list[dict[str, Any]]) -> list[str]:
    """The error for each item of one list; everything about it is as it should be."""
    listed = [
        {"name": f"bad{number}", "project_dir": str(arena.project), **PLAIN, **item}
        for number, item in enumerate(items)
    ]
    (result,) = arena.play(arena.task("claude_sandboxes", sandboxes=listed))
    assert result.failed
    errors = [item.get("error", "none") for item in result["sandboxes"]]
    for item, error in zip(items, errors, strict=True):
        assert error != "none", item
        _assert_clear(error)
    assert not result.changed
    assert [*arena.state_dir.iterdir()] == []
    assert [*arena.project.iterdir()] == []
    return errors


def _assert_clear(error: str) -> None:
    assert error.count("\n") <= 1, error
    assert len(error) < 800, error
    assert "Traceback" not in error
    assert "errno" not in error.lower()
    assert error.isprintable() or error.replace("\n", "").isprintable(), error


def test_names(arena: Arena) -> None:
    for name, error in zip(NO_NAMES, _refusals(arena, [{"name": name} for name in NO_NAMES]), strict=True):
        assert "is no name for a sandbox.\nUse 1 to 63 letters" in error, name


def test_names_of_what_is_there(arena: Arena) -> None:
    """Also a name that would lead out of the registry."""
    arena.state_dir.joinpath("sandboxes").mkdir()
    names = ["../sandboxes/box", "-x", "$(id)", LONG]
    results = arena.play(
        *(arena.inside("true", name=name) for name in names[:2]),
        *(arena.task("claude_sandbox_attach", name=name) for name in names[2:]),
        *(arena.task("claude_sandbox_info", name=[name]) for name in names),
    )
    for result in results:
        assert "is no name for a sandbox." in result.message, result
        _assert_clear(result.message)


def test_directories(arena: Arena) -> None:
    root = arena.project.parent
    made = arena.new_project("directories")
    (made / "file").touch()
    (made / "link").symlink_to(arena.project)
    (made / "under").mkdir()
    (made / "broken").symlink_to("nowhere")
    arena.account.own(made)
    cases = {
        "/no/such": "No such file or directory",
        f"{made}/broken": "No such file or directory",
        f"{made}/file": "is not a directory",
        f"{made}/file/under": "Not a directory",
        f"{made}/link": f"is, or goes through, a symbolic link.\nGive '{arena.project}' itself.",
        "/": "a directory of the system",
        "/usr": "a directory of the system",
        "/proc/self": "",
        "/dev/shm": "",
        str(arena.account.home): "the home directory itself or above it",
        str(arena.account.home.parent): "",
        "relative/path": "must be an absolute path",
        "~nobody-of-this-name": "must be an absolute path",
        f"{made}/../..": "has .. in it",
        f"{root}/a\nb": "has a control character",
        f"{root}/a\x1b[2Jb": "has a control character",
        f"/{LONG}": "File name too long",
        "/x" * 2500: "is longer than 4095 bytes",
        str(arena.state_dir): "holds the registry",
        str(arena.state_dir.parent): "",
    }
    for path, (error, words) in zip(
        cases,
        zip(_refusals(arena, [{"project_dir": path} for path in cases]), cases.values(), strict=True),
        strict=True,
    ):
        assert words in error, (path, error)


def test_mounts(arena: Arena) -> None:
    other = str(arena.new_project("mounted"))
    link = arena.project.parent / "mount-link"
    link.symlink_to(other)
    project = str(arena.project)
    cases: list[tuple[list[dict[str, str]], str]] = [
        ([{"source": other, "target": "/a"}, {"source": "/opt", "target": "/a/"}], "would both stand on '/a'"),
        ([{"source": other, "target": project}], "would both stand on"),
        ([{"source": other, "target": "/"}], "nothing can be mounted on '/'"),
        ([{"source": other, "target": "/proc/x"}], "nothing can be mounted on"),
        ([{"source": other, "target": "/dev"}], "nothing can be mounted on"),
        ([{"source": other, "target": "a"}], "must be an absolute path"),
        ([{"source": "a"}], "must be an absolute path"),
        ([{"source": other, "target": "/a/../b"}], "has .. in it"),
        ([{"source": str(link)}], "symbolic link"),
        ([{"source": str(arena.state_dir)}], "holds the registry"),
        ([{"source": other, "target": f"/{LONG}{LONG}"}], "is longer than 4095 bytes"),
    ]
    errors = _refusals(arena, [{"mounts": mounts} for mounts, _ in cases])
    for (mounts, words), error in zip(cases, errors, strict=True):
        assert words in error, (mounts, error)


def test_other_fields(arena: Arena) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"user": "nobody-of-this-name"}, "There is no account"),
        ({"user": "a\nb;$(id)"}, "There is no account"),
        ({"geometry": "wide"}, "Give WIDTHxHEIGHT"),
        ({"geometry": "99999x10"}, "at most 7680x4320"),
        ({"geometry": "640x480\n"}, "Give WIDTHxHEIGHT"),
        ({"env": {"A B": "1"}}, "no name for a variable"),
        ({"env": {"A=B": "1"}}, "no name for a variable"),
        ({"env": {"": "1"}}, "no name for a variable"),
        ({"env": {"A": ["x"]}}, "must be text"),
        ({"env": {"A": "a\0b"}}, "has a NUL"),
        ({"env": {"A": "x" * 140_000}}, "is longer than"),
        ({"secret_env": {"A-B": "1"}}, "no name for a variable"),
        ({"secret_env": {"TOKEN": "canary\0--bind"}}, "'TOKEN' has a NUL"),
        ({"secret_env": {"TOKEN": "canary" * 30_000}}, "'TOKEN' has a NUL in it, or is too long"),
        ({"api_key": "canary\0--bind"}, "has a NUL"),
        ({"agent": []}, "agent is empty"),
        ({"agent_args": ["a\0b"]}, "has a NUL"),
        ({"grants": {**PLAIN["grants"], "nix": True}, "network": False}, "grants.nix cannot be given with network"),
        ({"toolchain": "nix"}, "has no Nix profile"),
    ]
    if Path("/nix/var/nix/profiles/claude-sandbox").exists():
        cases = [case for case in cases if "toolchain" not in case[0]]
    for (fields, words), error in zip(cases, _refusals(arena, [fields for fields, _ in cases]), strict=True):
        assert words in error, (fields, error)
        assert "canary" not in error


def test_what_is_no_choice(arena: Arena) -> None:
    """Ansible refuses it before the engine sees it."""
    results = arena.play(
        arena.started(backend="docker"),
        arena.started(state="present"),
        arena.started(on_change="maybe"),
        arena.started(grants={"everything": True}),
        arena.started(mounts=[{"source": "/opt", "mode": "rwx"}]),
        arena.started(network="perhaps"),
        arena.started(colour="teal"),
        arena.task(project_dir=str(arena.project)),
    )
    words = [
        "bubblewrap, container, vm, got: docker",
        "got: present",
        "got: maybe",
        "everything",
        "got: rwx",
        "network",
        "colour",
        "name",
    ]
    for result, word in zip(results, words, strict=True):
        assert result.failed
        assert word in result.message, result
        _assert_clear(result.message)
    assert [*arena.state_dir.iterdir()] == []


ODD_PATHS = [
    "a;b", "$(touch canary)", "`touch canary`", "a,b", "-rf", "a b", " lead", "quote'\"", "ünï-漢字-🙂", "back\\slash",
    "trail;", "%s%n", "#{pid}", "#(touch canary)", "*", "~", "&", "|", "new${IFS}", "deleted (deleted)", "...",
    "x" * 255,
]  # fmt: skip


def test_odd_paths_are_taken_literally(arena: Arena) -> None:
    agent = ["/bin/sh", "-c", 'pwd >proof; printf "%s\\n" "$@" >words; exec sleep 1d', "-"]
    listed = []
    for number, name in enumerate(ODD_PATHS):
        path = arena.project / name
        path.mkdir()
        arena.account.own(path)
        odd = {"project_dir": str(path), "agent": agent, "agent_args": [name, "--", ";"], "env": {"ODD": name}}
        mounts = [{"source": str(path), "target": f"/mnt/{name}"}]
        listed.append({"name": f"odd{number}", **PLAIN, **odd, "mounts": mounts})
    first, again = arena.play(*[arena.task("claude_sandboxes", sandboxes=listed)] * 2)
    assert not first.failed, first.message
    assert not again.changed
    for item in first["sandboxes"]:
        path = item["sandbox"]["project_dir"]
        # Its first words are written before the play's second task is over.
        assert Path(path, "proof").read_text(encoding="utf-8") == f"{path}\n"
        assert Path(path, "words").read_text(encoding="utf-8") == f"{Path(path).name}\n--\n;\n"
    assert sorted(path.name for path in arena.project.iterdir()) == sorted(ODD_PATHS)
    looked = arena.play(
        *(
            arena.inside("sh", "-c", 'pwd; printf "%s\\n" "$ODD"; ls "/mnt/$ODD"', name=f"odd{number}")
            for number in range(0, len(ODD_PATHS), 4)
        )
    )
    for name, result in zip(ODD_PATHS[::4], looked, strict=True):
        assert result.get("stdout") == f"{arena.project}/{name}\n{name}\nproof\nwords", result


def test_a_very_long_path(arena: Arena) -> None:
    """Longer than what fits behind /proc/PID/root: it works or is refused; neither takes long nor leaves a thing."""
    names = [str(number % 10) * 200 for number in range(19)]
    here = os.open(arena.project, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        os.mkdir(name, dir_fd=here)
        os.chown(name, arena.account.uid, arena.account.gid, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here), here
        os.close(above)
    os.close(here)
    long = f"{arena.project}/{'/'.join(names)}"
    assert 3800 < len(long) < 4095
    started, found = arena.play(arena.started(project_dir=long), arena.task("claude_sandbox_info"))
    if started.failed:
        _assert_clear(started.message)
        assert found["sandboxes"] == []
    else:
        assert found["sandboxes"][0]["status"] == "running"
    assert _seconds_of(started) < 10


def _seconds_of(result: Result) -> float:
    return float(result["seconds"])


def test_what_is_missing_of_grants_is_told(arena: Arena) -> None:
    """It is left out, and the sandbox starts all the same."""
    (made,) = arena.play(
        arena.started(
            grants={**PLAIN["grants"], "ssh": True, "audio": True},
            mounts=[{"source": "/no/such/mount", "target": "/data"}],
        )
    )
    assert made.sandbox["status"] == "running"
    assert set(made.sandbox["skipped"]) == {"ssh", "audio", "mount /no/such/mount"}
    for name in made.sandbox["skipped"]:
        assert any(warning.startswith(f"{name} is not in the sandbox: ") for warning in made["warnings"]), made
