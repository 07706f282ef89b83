"""The inventory plugin: sandboxes of real registries as hosts, and hosts that lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Request, Sandboxes
from tests.integration import within
from tests.integration.arena import PLAIN, Arena
from tests.integration.within import HERE

PLUGIN = {"plugin": within.INVENTORY}
# A template that would leave a mark where Ansible runs, were it one.
TEMPLATE = "{{ lookup('pipe', 'touch cst-mark') }}"


def plugin(folder: Path, name: str = "my", **options: Any) -> Path:
    """A file for the plugin."""
    path = folder / f"{name}.sandboxes.yml"
    path.write_text(json.dumps({**PLUGIN, **options}), encoding="utf-8")
    return path


def host(state_dir: Path, **more: Any) -> dict[str, Any]:
    """A host of this machine with a registry of its own."""
    return {**HERE, "state": str(state_dir), **more}


def listed(folder: Path, *sources: Mapping[str, Any] | Path, **env: str) -> tuple[dict[str, Any], str]:
    """What ansible-inventory lists, and what it says beside that."""
    done = within.run("ansible-inventory", "--list", sources=sources, folder=folder, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found, done.stderr


def variables(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A host's variables, as plain values."""
    plain = found["_meta"]["hostvars"][name].items()
    return {key: value["__ansible_unsafe"] if isinstance(value, dict) else value for key, value in plain}


def members(found: Mapping[str, Any], group: str) -> list[str]:
    return list(found.get(group, {}).get("hosts", []))


def test_sandboxes_of_two_hosts(arena: Arena, tmp_path: Path) -> None:
    """Of one name, and yet two; in groups; and Ansible goes into those that run."""
    other = arena.state_dir / "other"
    arena.play(
        arena.started(),
        arena.started("second", project_dir=str(arena.new_project(f"{arena.project.name}-second"))),
        arena.task(name="second", state="stopped"),
    )
    made = {"project_dir": str(arena.new_project(f"{arena.project.name}-other")), **PLAIN}
    elsewhere = Sandboxes(state_dir=str(other))
    elsewhere.ensure(Request("box", params=made))
    hosts = within.hosts(one=host(arena.state_dir), two=host(other))
    source = plugin(
        tmp_path,
        state_dir="{{ state }}",
        compose={"where": "sandbox_project_dir ~ '!'", "ansible_python_interpreter": "'/usr/bin/python3'"},
        groups={"busy": "sandbox_status == 'running'"},
        keyed_groups=[{"key": "sandbox_user", "prefix": "of"}],
    )
    try:
        found, said = listed(tmp_path, hosts, source)
        assert said == ""
        assert members(found, "sandboxes") == ["box@one", "second@one", "box@two"]
        running = ["box@one", "box@two"]
        assert members(found, "sandbox_status_running") == members(found, "busy") == running
        assert members(found, "sandbox_status_stopped") == ["second@one"]
        assert members(found, "sandbox_host_two") == ["box@two"]
        assert members(found, "sandbox_backend_bubblewrap") == members(found, f"of_{arena.account.name}")
        box = variables(found, "box@two")
        assert (box["ansible_sandbox_host"], box["ansible_sandbox_state_dir"]) == ("two", str(other))
        assert box["where"] == f"{box['sandbox_project_dir']}!"
        graph = within.run("ansible-inventory", "--graph", sources=[hosts, source], folder=tmp_path)
        assert "@sandbox_status_running:\n  |  |--box@one" in graph.stdout
        ping = within.run("ansible", "sandbox_status_running", "-m", "ping", sources=[hosts, source], folder=tmp_path)
        assert (ping.returncode, ping.stdout.count("ping: pong")) == (0, 2), ping.stdout + ping.stderr
    finally:
        elsewhere.ensure(Request("box", "absent"))


def test_which_hosts(arena: Arena, tmp_path: Path) -> None:
    """By name, group and pattern, or given here; a name as the user wants it."""
    arena.play(arena.started())
    hosts = within.hosts(one=host(arena.state_dir), two=host(arena.state_dir), no=host(arena.state_dir))
    hosts["all"]["children"] = {"some": {"hosts": {"one": {}, "no": {}}}}
    source = plugin(tmp_path, hosts=["some", "t*", "!no"], state_dir="{{ state }}", default_groups=False)
    found, said = listed(tmp_path, hosts, source)
    assert members(found, "sandboxes") == ["box@one", "box@two"]
    assert not any(group.startswith("sandbox_") for group in found)
    assert said == ""
    given = plugin(
        tmp_path, "given", hosts={"new": host(arena.state_dir)}, state_dir="{{ state }}", hostname="sandbox_name"
    )
    found, _ = listed(tmp_path, given)
    assert members(found, "sandboxes") == ["box"]
    assert members(found, "sandbox_hosts") == ["new"]
    ping = within.run("ansible", "box", "-m", "ansible.builtin.ping", sources=[given], folder=tmp_path)
    assert "ping: pong" in ping.stdout, ping.stdout + ping.stderr
    here = plugin(tmp_path, "here", hosts="localhost", state_dir=str(arena.state_dir))
    found, _ = listed(tmp_path, here)
    assert members(found, "sandboxes") == ["box@localhost"]
    taken = plugin(tmp_path, "taken", hosts={"one": {}})
    done = within.run("ansible-inventory", "--list", sources=[hosts, taken], folder=tmp_path)
    assert "one is in the inventory already" in done.stderr


def test_variables_beside_the_sources(arena: Arena, tmp_path: Path) -> None:
    """Of `all` and of a group, and a template of other variables."""
    arena.play(arena.started())
    for group, content in (("all", {"state": "{{ base }}"}), ("some", {"base": str(arena.state_dir)})):
        (tmp_path / "group_vars").mkdir(exist_ok=True)
        (tmp_path / f"group_vars/{group}.json").write_text(json.dumps(content), encoding="utf-8")
    hosts = {"some": {"hosts": {"one": dict(HERE)}}}
    found, said = listed(tmp_path, hosts, plugin(tmp_path, state_dir="{{ state }}"))
    assert (members(found, "sandboxes"), said) == (["box@one"], "")


def test_the_cache(arena: Arena, tmp_path: Path) -> None:
    """What was found is found again without asking; a host that did not answer is asked again."""
    arena.play(arena.started())
    late = tmp_path / "late"
    hosts = within.hosts(one=host(arena.state_dir), two=host(arena.state_dir, ansible_python_interpreter=str(late)))
    options: dict[str, Any] = {
        "cache": True,
        "cache_plugin": "ansible.builtin.jsonfile",
        "cache_connection": str(tmp_path / "cache"),
    }
    source = plugin(tmp_path, state_dir="{{ state }}", **options)
    found, said = listed(tmp_path, hosts, source)
    assert members(found, "sandboxes") == ["box@one"]
    assert "two" in said
    arena.play(arena.task(name="box", state="absent"), arena.started("new"))
    late.symlink_to("/usr/bin/python3")
    found, said = listed(tmp_path, hosts, source)
    assert (members(found, "sandboxes"), said) == (["box@one", "new@two"], "")
    done = within.run("ansible-inventory", "--list", "--flush-cache", sources=[hosts, source], folder=tmp_path)
    assert members(json.loads(done.stdout), "sandboxes") == ["new@one", "new@two"]


def test_what_a_sandbox_writes_is_no_template(arena: Arena, tmp_path: Path) -> None:
    """Wherever it is used: in variables, groups, compose, the cache, and in a play."""
    project = arena.new_project(f"{arena.project.name}-{TEMPLATE}")
    # Not by a play, which would take it for a template of its own.
    arena.engine.ensure(Request("box", params={"project_dir": str(project), **PLAIN}))
    source = plugin(
        tmp_path,
        hosts="one",
        state_dir="{{ state }}",
        compose={"copied": "sandbox_project_dir", "joined": "sandbox_project_dir ~ 'x'"},
        groups={"odd": "'touch' in sandbox_project_dir"},
        keyed_groups=[{"key": "sandbox_project_dir", "prefix": "p"}, {"key": "joined", "separator": ""}],
        strict=True,
        cache=True,
        cache_plugin="ansible.builtin.jsonfile",
        cache_connection=str(tmp_path / "cache"),
    )
    hosts = within.hosts(one=host(arena.state_dir))
    for _again in range(2):
        found, _ = listed(tmp_path, hosts, source)
        box = variables(found, "box@one")
        assert box["sandbox_project_dir"] == box["copied"] == str(project)
        assert members(found, "odd") == ["box@one"]
        assert all(name.replace("_", "").isalnum() for name in found), list(found)
        shown = within.task("debug", msg="{{ sandbox_project_dir }} {{ copied }} {{ joined }} {{ group_names }}")
        played = within.play([shown, within.raw("pwd")], hosts, source, on="sandboxes")
        assert str(project) in played.results[0]["msg"]
        assert played.results[1]["stdout"] == f"{project}\n"
    assert not list(tmp_path.rglob("cst-mark"))


# A Python on a host that answers as it likes, whatever it is asked.
_LIAR = """\
#!/usr/bin/python3
import re, sys
mark = re.search(rb'"mark": "([^"]+)"', sys.stdin.buffer.read())[1].decode()
print(mark, file=sys.stderr)
sys.stderr.write(mark + "{}\\n")
print(mark)
sys.stdout.write(open(VIEWS).read())
"""


def lying(folder: Path, views: Any) -> dict[str, Any]:
    """A host that says of its sandboxes what it likes."""
    words = folder / "views.json"
    words.write_text(json.dumps(views), encoding="utf-8")
    program = within.executable(folder / "liar", _LIAR.replace("VIEWS", repr(str(words))))
    return {**HERE, "ansible_python_interpreter": str(program)}


def test_a_host_that_lies(tmp_path: Path) -> None:
    """It cannot take a name, set a variable of another, nor have a template carried out."""
    good = {"name": "good", "status": "running", "backend": "vm", "project_dir": f"/{TEMPLATE}", "reason": TEMPLATE}
    views = [
        good,
        {**good, "name": "web"},
        {**good, "name": "all"},
        {**good, "name": "localhost"},
        {**good, "name": "servers"},
        {**good, "name": "liar"},
        good,
        {**good, "name": TEMPLATE},
        {**good, "name": "x\x1b[2J"},
        {**good, "name": "n" * 100},
        {**good, "name": "status", "status": "all"},
        {**good, "name": "vars", "ansible_connection": "local", "sandbox_host": "web", "id": ["list"]},
        {**good, "name": "extra", "ansible_connection": "local", "ansible_host": "evil", "sandbox_host": "web"},
        17,
    ]
    hosts = within.hosts(liar=lying(tmp_path, views), web={"ansible_host": "192.0.2.7", "ansible_connection": "ssh"})
    hosts["all"]["children"] = {"servers": {"hosts": {"web": {}}}}
    # The worst a user can ask for: names as the host gives them.
    source = plugin(
        tmp_path,
        hosts="liar",
        hostname="sandbox_name",
        compose={"why": "sandbox_reason"},
        keyed_groups=[{"key": "sandbox_reason", "prefix": "r"}],
    )
    found, said = listed(tmp_path, hosts, source)
    assert members(found, "sandboxes") == ["good", "extra"]
    assert variables(found, "web") == {"ansible_host": "192.0.2.7", "ansible_connection": "ssh"}
    assert members(found, "servers") == ["web"]
    extra = variables(found, "extra")
    assert (extra["ansible_connection"], extra["sandbox_host"], extra["ansible_sandbox_host"]) == (
        within.CONNECTION,
        "liar",
        "liar",
    )
    assert "ansible_host" not in extra
    assert (extra["why"], extra["sandbox_reason"]) == (TEMPLATE, TEMPLATE)
    assert "is the name of another host or group" in said
    assert "more sandboxes are left out" in said
    assert "\x1b" not in said
    assert not list(tmp_path.rglob("cst-mark"))


@pytest.mark.parametrize("views", [None, {}, "x", [[]] * 20_000, 7])
def test_what_is_no_list(tmp_path: Path, views: Any) -> None:
    found, said = listed(tmp_path, within.hosts(liar=lying(tmp_path, views)), plugin(tmp_path))
    assert members(found, "sandboxes") == []
    assert "no list of sandboxes" in said


@pytest.mark.parametrize("answer", ["", "nonsense", "7", "[]", '{"code": "x"}', "[" * 100_000])
def test_an_answer_that_is_none(tmp_path: Path, answer: str) -> None:
    variables_of_liar = lying(tmp_path, [])
    program = Path(variables_of_liar["ansible_python_interpreter"])
    program.write_text(program.read_text().replace('"{}\\n"', repr(answer + "\n")), encoding="utf-8")
    found, said = listed(tmp_path, within.hosts(liar=variables_of_liar), plugin(tmp_path))
    assert members(found, "sandboxes") == []
    assert "The sandboxes of liar are not known" in said
    assert "something else than was agreed" in said
    assert "Traceback" not in said


def test_hosts_that_do_not_answer(arena: Arena, tmp_path: Path) -> None:
    """A warning, or an error where that is asked for; one that hangs has its time."""
    arena.play(arena.started())
    slow = within.executable(tmp_path / "slow", "#!/bin/sh\nexec sleep 98763\n")
    hosts = within.hosts(
        one=host(arena.state_dir),
        closed={"ansible_host": "127.0.0.1", "ansible_port": 1},
        hangs=host(arena.state_dir, ansible_python_interpreter=str(slow)),
        bad=host(arena.state_dir, ansible_host="{{ not_there }}", ansible_sandbox_python="{{ not_there }}"),
    )
    source = plugin(tmp_path, state_dir="{{ state | default('/none') }}", timeout=4)
    found, said = listed(tmp_path, hosts, source)
    assert members(found, "sandboxes") == ["box@one"]
    assert "Connection refused" in said
    assert "did not answer within 4 seconds" in said
    assert "not_there" in said
    strict = plugin(tmp_path, "strict", state_dir="{{ state | default('/none') }}", timeout=4, strict_hosts=True)
    done = within.run(
        "ansible-inventory",
        "--list",
        sources=[hosts, strict],
        folder=tmp_path,
        env={"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"},
    )
    assert done.returncode != 0
    assert "are not known" in done.stderr


def test_the_name_of_the_file(tmp_path: Path) -> None:
    """Another file is none for this plugin."""
    path = tmp_path / "other.yml"
    path.write_text(json.dumps(PLUGIN), encoding="utf-8")
    done = within.run("ansible-inventory", "--list", sources=[path], folder=tmp_path)
    assert members(json.loads(done.stdout), "sandboxes") == []
