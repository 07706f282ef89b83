"""The real Claude Code, and Chromium, in a real sandbox made by the modules; only the API is a double."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox.sandboxes import Sandboxes
from tests.support.account import Account
from tests.support.adhoc import ModuleFailedError, run_module
from tests.support.claude_home import DUMMY_KEY, claude_env
from tests.support.listener import TcpCanary, WebPage, colour_share
from tests.support.messages_api import MessagesApi

pytestmark = pytest.mark.e2e

# The box in which Claude Code takes a prompt, with nothing typed in it.
PROMPT = r"(?m)^─{10,}.*\n❯\u00a0"
SKIP_PERMISSIONS = "--dangerously-skip-permissions"

Make = Callable[..., dict[str, Any]]


@pytest.fixture(params=["bubblewrap", "container", "vm"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend has to pass every test here."""
    return str(request.param)


@pytest.fixture
def make(state_dir: Path, backend: str) -> Iterator[Make]:
    """Runs claude_sandbox, and removes what it has made."""
    names = set()

    def sandbox(name: str, **params: Any) -> dict[str, Any]:
        names.add(name)
        return run_module("claude_sandbox", name=name, state_dir=str(state_dir), backend=backend, **params)

    yield sandbox
    for name in names:
        run_module("claude_sandbox", name=name, state="absent", state_dir=str(state_dir), purge=True)


@pytest.fixture
def project(account: Account, request: pytest.FixtureRequest) -> Path:
    return account.project(re.sub(r"\W", "-", request.node.name))


def seen_from(backend: str, address: str) -> str:
    """An address of the host's loopback as a sandbox reaches it: a virtual machine has a loopback of its own."""
    return address.replace("127.0.0.1", "10.0.2.2") if backend == "vm" else address


def claude_options(api: MessagesApi, backend: str) -> dict[str, Any]:
    env = claude_env(seen_from(backend, api.url))
    key = env.pop("ANTHROPIC_API_KEY")
    return {"env": env, "api_key": key}


def wait_dead(name: str, state_dir: Path, seconds: float = 240) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        found = run_module("claude_sandbox_info", name=[name], state_dir=str(state_dir))["sandboxes"][0]
        if found["status"] != "running" or time.monotonic() > end:
            return dict(found)


def tree(top: Path) -> dict[str, str]:
    """Every file below, with a digest of what it holds."""
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def test_headless_prompt_changes_the_project_and_nothing_else(
    account: Account, project: Path, state_dir: Path, api: MessagesApi, make: Make, backend: str
) -> None:
    (project / "there.txt").write_text("before\n")
    account.own(project)
    outside = tree(account.home)
    make(
        "headless",
        project_dir=str(project),
        agent_args=["-p", "RUN: echo made inside > made.txt", SKIP_PERMISSIONS],
        **claude_options(api, backend),
    )
    ended = wait_dead("headless", state_dir)
    assert (ended["status"], ended["exit_code"]) == ("dead", 0), ended
    assert (project / "made.txt").read_text() == "made inside\n"
    status = (project / "made.txt").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (account.uid, account.gid, 0o644)
    assert tree(project).keys() == {"made.txt", "there.txt"}
    assert (project / "there.txt").read_text() == "before\n"
    changed = {name for name, digest in tree(account.home).items() if outside.get(name) != digest}
    assert {name for name in changed if not name.startswith(".claude/")} == set()
    assert any("made inside" not in text and "sandbox made for this project" in text for text in api.system_prompts())


def test_conversation_through_the_interface(
    account: Account, project: Path, state_dir: Path, api: MessagesApi, make: Make, backend: str
) -> None:
    options = {"project_dir": str(project), "resume": True, **claude_options(api, backend)}
    made = make("talk", agent_args=[SKIP_PERMISSIONS], **options)
    assert made["sandbox"]["status"] == "running"
    attach = {"name": "talk", "state_dir": str(state_dir)}
    ready = run_module("claude_sandbox_attach", **attach, wait_for=PROMPT)
    assert ready["attach_command"].endswith("attach -t main")

    answer = run_module("claude_sandbox_attach", **attach, text="SAY: the answer is 42", keys=["Enter"], wait_idle=True)
    assert "the answer is 42" in answer["screen"].replace("SAY: the answer is 42", ""), answer
    assert answer["activity"] == "idle"

    used = run_module("claude_sandbox_info", name=["talk"], usage=True, state_dir=str(state_dir))
    usage = used["sandboxes"][0]["usage"]
    # Titles and interrupted turns are never in a transcript.
    assert 0 < usage["session"]["output_tokens"] <= api.usage().output_tokens
    assert usage["session"]["messages"] == 1
    assert usage["process"]["processes"] >= 2

    make("talk", state="restarted", agent_args=[SKIP_PERMISSIONS], **options)
    run_module("claude_sandbox_attach", **attach, wait_for=PROMPT)
    resumed = run_module("claude_sandbox_attach", **attach, text="SAY: still here", keys=["Enter"], wait_idle=True)
    assert "the answer is 42" in resumed["screen"]
    assert any("the answer is 42" in str(request.body["messages"]) for request in api.of_kind("prompt")[1:])


def test_key_is_shown_nowhere_but_to_the_agent(
    account: Account, project: Path, state_dir: Path, api: MessagesApi, make: Make, backend: str
) -> None:
    made = make("keyed", project_dir=str(project), agent=["shell"], **claude_options(api, backend))
    assert DUMMY_KEY not in str(made)
    inside = run_module(
        "claude_sandbox_exec", name="keyed", argv=["printenv", "ANTHROPIC_API_KEY"], state_dir=str(state_dir)
    )
    assert inside["stdout"] == DUMMY_KEY
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                assert DUMMY_KEY.encode() not in entry.joinpath("cmdline").read_bytes()
    holders = [path for path in state_dir.rglob("*") if path.is_file() and DUMMY_KEY in path.read_text("latin-1")]
    assert [path.name for path in holders] == ["secrets.json"]
    assert holders[0].stat().st_mode & 0o077 == 0


def test_browser_shows_a_page_on_the_sandboxs_own_display(
    account: Account, project: Path, state_dir: Path, make: Make, backend: str
) -> None:
    with WebPage() as page:
        browser = [
            "chromium",
            "--no-first-run",
            "--kiosk",
            "--disable-gpu",
            "--disable-background-networking",
            seen_from(backend, page.url),
        ]
        made = make("browser", project_dir=str(project), agent=browser, geometry="800x600")
        assert page.wait(1, 240), Path(made["sandbox"]["log"]).read_text()
        share = 0.0
        end = time.monotonic() + 120
        while share < 0.5 and time.monotonic() < end:
            picture = Image.open(io.BytesIO(Sandboxes(state_dir=str(state_dir)).frame("browser")))
            assert picture.size == (800, 600)
            share = colour_share(picture.convert("RGB").tobytes(), page.colour)
    assert share >= 0.5
    # A virtual machine's processes are not to be seen from outside.
    assert backend == "vm" or renderers_are_confined(made["sandbox"]["pid"])


def renderers_are_confined(init: int) -> bool:
    """Whether Chromium's renderers have its own sandbox: another user namespace, and a filter beside ours."""
    ours = os.readlink(f"/proc/{init}/ns/user")
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if b"--type=renderer" in entry.joinpath("cmdline").read_bytes():
                filters = re.search(r"Seccomp_filters:\s*(\d+)", entry.joinpath("status").read_text())
                found.append(os.readlink(entry / "ns/user") != ours and filters is not None and int(filters[1]) >= 2)
    return bool(found) and all(found)


@pytest.mark.parametrize("network", [False, True])
def test_network_is_there_only_when_it_is_granted(
    network: bool, account: Account, project: Path, state_dir: Path, make: Make, backend: str
) -> None:
    with TcpCanary() as canary:
        make("wired", project_dir=str(project), agent=["shell"], network=network)
        argv = ["curl", "--silent", "--max-time", "5", f"telnet://{seen_from(backend, canary.host)}:{canary.port}"]
        with contextlib.suppress(ModuleFailedError):
            run_module("claude_sandbox_exec", name="wired", argv=argv, state_dir=str(state_dir))
        assert canary.wait(1, 10 if network else 0.5) is network
