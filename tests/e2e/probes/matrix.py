"""Trying the probes: in the sandboxes of a backend, on the host, and where the protection is taken away."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from .catalogue import ACCOUNT_AND_ROOT, PROBES, Bare, Granted, Probe, Scene, tree
from .engine import Engine
from .stage import ROOT, Stage, until

_SECONDS = 120.0  # for all that one program attempts
# Everything that can be refused, except the display.
_FEW = {"grants": {"claude": False, "git": False, "ssh": False, "gh": False}}


class Backend(Protocol):
    """What the probes must know of a backend.

    name: of its report. kind: as the spec names it. program, files: what it cannot be without. params: what of the
    spec makes it this backend. owners: whose sandboxes it can make. at_once: whether one program makes all attempts in
    a sandbox, as each takes seconds to start; nothing is typed then. host_root: where the host's root stands for what
    makes the mounts, while it does. agent_pid: the agent's, inside.
    """

    name: str
    kind: str
    program: str
    params: Mapping[str, Any]
    owners: tuple[str, ...]
    files: tuple[str, ...]
    at_once: bool
    host_root: str
    agent_pid: int

    def bare(self, flags: tuple[str, ...], argv: list[str]) -> list[str]:
        """The same isolation with nothing isolated."""

    def granting(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What must be asked for so that a grant is given."""

    def ungrantable(self, variant: str, params: Mapping[str, Any]) -> str:
        """Why a grant cannot be given in a sandbox of some variant, if so."""

    def made_by_account(self, stage: Stage) -> str:
        """Have an account that is not root make sandboxes; why it cannot here, if so."""


def _bare(flags: tuple[str, ...], argv: list[str]) -> list[str]:
    return ["bwrap", *flags, "--", *argv]


class Bubblewrap:
    """Namespaces by bwrap."""

    name = kind = "bubblewrap"
    program = "bwrap"
    params: Mapping[str, Any] = MappingProxyType({"backend": "bubblewrap"})
    owners: tuple[str, ...] = ACCOUNT_AND_ROOT
    files: tuple[str, ...] = ()
    at_once = False
    host_root = "/oldroot"
    agent_pid = 2

    def bare(self, flags: tuple[str, ...], argv: list[str]) -> list[str]:
        """bwrap with these flags alone."""
        return _bare(flags, argv)

    def granting(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing more."""
        return params

    def ungrantable(self, variant: str, params: Mapping[str, Any]) -> str:
        """None is."""
        return ""

    def made_by_account(self, stage: Stage) -> str:
        """It can, by itself."""
        return ""


class Container:
    """systemd-nspawn, with ids of its own or, where root says so, those of the host."""

    kind = "container"
    program = "systemd-nspawn"
    files: tuple[str, ...] = ()
    at_once = False
    host_root = ""
    # After systemd-nspawn's own first process, and the script that waits for it.
    agent_pid = 3

    def __init__(self, own_ids: bool) -> None:
        self._own_ids = own_ids
        self.name = "container" if own_ids else "container-host-ids"
        self.params: Mapping[str, Any] = {"backend": "container"} | ({} if own_ids else _HOST_IDS)
        self.owners = ACCOUNT_AND_ROOT if own_ids else ("account",)

    def bare(self, flags: tuple[str, ...], argv: list[str]) -> list[str]:
        """systemd-nspawn always isolates something; what both rest on is the kernel's."""
        return _bare(flags, argv)

    def granting(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Who answers at the other end of a socket asks for the account's own id."""
        return {**params, **_HOST_IDS} if set(params.get("grants", {})) & _BY_ID else params

    def ungrantable(self, variant: str, params: Mapping[str, Any]) -> str:
        """Only root makes a container with the ids that such grants need."""
        needed = variant == "own" and set(params.get("grants", {})) & _BY_ID
        return "this grant is refused in a container that an account makes" if needed else ""

    def made_by_account(self, stage: Stage) -> str:
        """By sudo, and what the role installs for it."""
        if not self._own_ids:
            return "only root makes a container that has the host's ids"
        return stage.install_for_accounts()


class Machine(Bubblewrap):
    """QEMU with a kernel of its own, in a sandbox of bubblewrap's."""

    name = kind = "vm"
    program = "qemu-system-x86_64"
    params: Mapping[str, Any] = MappingProxyType(
        {"backend": "vm", "toolchain": "host", "vm": {"memory": 256, "cpus": 1}}
    )
    owners: tuple[str, ...] = ("account",)
    files: tuple[str, ...] = tuple(f"/usr/local/lib/claude-sandbox/guest/{name}" for name in ("kernel", "initrd"))
    at_once = True

    def ungrantable(self, variant: str, params: Mapping[str, Any]) -> str:
        """What is a socket of the host's."""
        needed = set(params.get("grants", {})) & _BY_ID
        return "this grant is refused to a virtual machine, which reaches no socket of the host" if needed else ""


_HOST_IDS = {"container": {"user_namespace": False}}
_BY_ID = {"audio", "dbus", "ssh_agent"}
BACKENDS: Mapping[str, Backend] = {
    backend.name: backend for backend in (Bubblewrap(), Container(own_ids=True), Container(own_ids=False), Machine())
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A place in the matrix: one sandbox."""

    variant: str
    owner: str
    network: str

    @property
    def name(self) -> str:
        """The sandbox's."""
        return f"{self.variant}-{self.owner}-{self.network}"


class Matrix:
    """The sandboxes of one backend, made when they are first asked for."""

    def __init__(self, stage: Stage, backend: Backend) -> None:
        self.stage = stage
        self.backend = backend
        self._facts = functools.cache(self._start)
        self._told_by_agent = functools.cache(self._ask_agent)
        self._got_at_once = functools.cache(self._try_at_once)
        self.last_evidence: Any = None  # what the attempt that was made last got

    # Sandboxes

    def engine(self, variant: str) -> Engine:
        """Who makes sandboxes of this variant."""
        return self.stage.own_engine if variant == "own" else self.stage.engine

    def facts(self, cell: Cell) -> Mapping[str, Any]:
        """What is known of a sandbox, which runs from now on."""
        return self._facts(cell)

    def _start(self, cell: Cell) -> Mapping[str, Any]:
        return self.start(cell.name, cell)

    def start(self, name: str, cell: Cell, **more: Any) -> Mapping[str, Any]:
        """A sandbox like those of a cell, with something different; its facts."""
        project = self.stage.project(name, cell.owner)
        params = {
            "project_dir": str(project),
            "agent": ["shell"],
            "network": cell.network == "on",
            **self.backend.params,
        }
        if cell.owner == "root":
            params["user"] = "root"
        if cell.variant == "few":
            params |= _FEW | {"env": {"SIBLING": self.stage.sibling_token}}
        engine = self.engine(cell.variant)
        engine.start(name, api_key=self.stage.api_key, **(params | more))
        found: Mapping[str, Any] = engine.ask("facts", name=name)
        return found

    def scene(self, kind: str, cell: Cell) -> Scene:
        """Where something is tried; the sibling is a sandbox of the account's that has the network."""
        sibling = Cell("few", "account", "on")
        if cell == sibling:
            sibling = Cell("main", "account", "on")
        return Scene(self.stage, cell.owner, cell.network, kind, self.facts(cell), self.facts(sibling))

    # Attempts

    def inside(self, cell: Cell, name: str, given: Mapping[str, Any], sandbox: str = "") -> Any:
        """An attempt beside the agent, by the engine's own execute."""
        argv = self.stage.attempt_argv(name, given)
        code = f"{self.facts(cell)['view']['project_dir'] if not sandbox else self.stage.project(sandbox)}/.probe"
        request = {"name": sandbox or cell.name, "argv": argv, "env": {"PYTHONPATH": code}}
        return _evidence(self.engine(cell.variant).ask("execute", timeout=_SECONDS, **request))

    def by_agent(self, cell: Cell, name: str, given: Mapping[str, Any]) -> Any:
        """An attempt as the agent makes it: typed into its terminal."""
        return self.agent_begins(cell, name, given)()

    def agent_begins(self, cell: Cell, name: str, given: Mapping[str, Any]) -> Callable[[], Any]:
        """The same, without waiting: the function returned waits for the answer."""
        answer = Path(self.facts(cell)["view"]["project_dir"]) / f".probe/{name}.json"
        request = {"path": str(answer), "name": name, "given": given}
        argv = self.stage.attempt_argv("answer_by_file", request)
        engine = self.engine(cell.variant)
        engine.ask("type", name=cell.name, text=f"PYTHONPATH=.probe {shlex.join(argv)}")

        def wait() -> Any:
            assert until(answer.exists), engine.ask("screen", name=cell.name)
            text = answer.read_text()
            answer.unlink()
            return _unbroken(json.loads(text)[0])

        return wait

    def outside(self, who: str, name: str, given: Mapping[str, Any], flags: tuple[str, ...] | None = None) -> Any:
        """An attempt on the host, or in a sandbox that shares all."""
        argv = self.stage.attempt_argv(name, given)
        if flags is not None:
            argv = self.backend.bare(flags, argv)
        env = {"PYTHONPATH": str(self.stage.code), "HOME": str(self.stage.home)}
        return _evidence(self.stage.engine.outside(argv, ROOT if who == "root" else self.stage.ids, env))

    # Probes

    def tried_inside(self, probe: Probe, cell: Cell, pane: bool = False) -> bool:
        """Whether a probe reached its target from a sandbox."""
        if self.backend.at_once:
            reached, self.last_evidence = self._got_at_once(cell)[probe.key]
            return reached
        scene = self.scene("inside", cell)
        if pane and probe.target is None:
            return probe.reached(scene, _unbroken(self._told_by_agent(cell)[probe.key]))
        run = self.by_agent if pane else self.inside
        return self._tried(probe, scene, lambda given: run(cell, probe.attempt, given))

    def tried_outside(self, probe: Probe) -> bool:
        """Whether it does from the host."""
        scene = self.scene("control", Cell(probe.variant, "account", "on"))
        return self._tried(probe, scene, lambda given: self.outside(probe.control, probe.attempt, given))

    def tried_without(self, probe: Probe) -> bool:
        """Whether it does from a sandbox without the protection."""
        scene = self.scene("away", Cell(probe.variant, "account", "on"))
        away = probe.away
        if isinstance(away, Bare):
            who, flags = away.who or probe.control, away.flags(scene)
            return self._tried(probe, scene, lambda given: self.outside(who, probe.attempt, given, flags))
        assert isinstance(away, Granted)
        name, cell = f"with-{probe.key}", Cell(probe.variant, "account", "on")
        self.start(name, cell, **self.backend.granting(away.params))
        try:
            return self._tried(probe, scene, lambda given: self.inside(cell, probe.attempt, given, name))
        finally:
            self.engine(cell.variant).remove(name)

    def _ask_agent(self, cell: Cell) -> Mapping[str, Any]:
        """What the agent gets with all probes that only look, in one go: typing takes its time."""
        chosen = [
            each
            for each in PROBES
            if each.pane and each.target is None and cell.owner in each.owners and each.applies(self.backend.kind)
        ]
        scene = self.scene("inside", cell)
        attempts = [(each.attempt, each.given(scene)) for each in chosen]
        return dict(
            zip([each.key for each in chosen], self.by_agent(cell, "several", {"attempts": attempts}), strict=True)
        )

    def _try_at_once(self, cell: Cell) -> Mapping[str, tuple[bool, Any]]:
        """Whether each probe reached its target, and what it got: what all of them look at is put in place before."""
        chosen = [each for each in PROBES if each.variant == cell.variant and cell.owner in each.owners]
        chosen = [each for each in chosen if each.applies(self.backend.kind) and not each.unless(self.stage)]
        scene = self.scene("inside", cell)
        with contextlib.ExitStack() as held:
            for probe in chosen:
                held.callback(probe.restore, scene)
            attempts = [(each.attempt, each.given(scene)) for each in chosen]
            for probe in chosen:
                held.enter_context(_put_back(probe.watched(scene)))
            before = [each.target(scene) if each.target else None for each in chosen]
            found = {}
            # By a file: what stands in a command line of our own is not to be found by the attempts.
            folder = Path(self.facts(cell)["view"]["project_dir"]) / ".probe"
            path = self.stage.plant(folder / "attempts", json.dumps(attempts))
            answers = self.inside(cell, "several_of_file", {"path": str(path)})
            for probe, earlier, answer in zip(chosen, before, answers, strict=True):
                evidence = _unbroken(answer)
                reached = probe.target(scene) != earlier if probe.target else probe.reached(scene, evidence)
                found[probe.key] = (reached, evidence)
        # Each that runs slows down all others; the controls look at the rest.
        if cell.variant == "own" or cell.network == "off":
            self.engine(cell.variant).remove(cell.name)
        return found

    def _tried(self, probe: Probe, scene: Scene, run: Any) -> bool:
        given = probe.given(scene)
        with _put_back(probe.watched(scene)):
            before = probe.target(scene) if probe.target else None
            try:
                evidence = self.last_evidence = run(given)
                return probe.target(scene) != before if probe.target else probe.reached(scene, evidence)
            finally:
                probe.restore(scene)


def _unbroken(answer: Any) -> Any:
    assert isinstance(answer, list), f"the attempt itself broke: {answer}"
    return answer[0]


def _evidence(done: Mapping[str, Any]) -> Any:
    lines = done["out"].splitlines()
    assert done["code"] == 0, f"the attempt itself broke: {done}"
    assert lines, f"the attempt itself broke: {done}"
    return json.loads(lines[-1])


@contextlib.contextmanager
def _put_back(paths: list[Path]) -> Iterator[None]:
    """Undo what is done to files and folders, where anything is."""
    before = tree(paths)
    with tempfile.TemporaryDirectory() as kept:
        copies = {path: Path(kept) / str(number) for number, path in enumerate(paths) if path.exists()}
        for path, copy in copies.items():
            _copy(path, copy)
        try:
            yield
        finally:
            if tree(paths) != before:
                _restore(paths, copies)


def _restore(paths: list[Path], copies: Mapping[Path, Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path, copy in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(copy, path)


def _copy(source: Path, target: Path) -> None:
    """With owners: they decide what an account may do there."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
    for path in [source, *(source.rglob("*") if source.is_dir() else ())]:
        status = path.stat()
        os.chown(target / path.relative_to(source), status.st_uid, status.st_gid)
