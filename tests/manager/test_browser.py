"""The pages in a real browser, over a real manager, with Claude Code in real sandboxes."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.manager.served import Served, serving
from tests.support.account import Account
from tests.support.claude_home import DUMMY_KEY
from tests.support.messages_api import MessagesApi

PATIENCE = 60_000  # milliseconds
AXE = Path(__file__).parents[2] / ".cache" / "static" / "node_modules" / "axe-core" / "axe.min.js"
# Whether the screen, as the page shows it, is red below what is the browser's own.
RED = """() => {
  const image = document.querySelector("img");
  if (!image.complete || !image.naturalWidth) return false;
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const [r, g, b] = canvas.getImageData(image.naturalWidth / 2, image.naturalHeight * 0.8, 1, 1).data;
  return r > 200 && g < 60 && b < 60;
}"""
SERIOUS = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  return found.violations.filter((each) => ["serious", "critical"].includes(each.impact)).map((each) => each.id);
}"""


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as made:
        yield made


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    path = shutil.which("chromium")
    assert path is not None, "chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        made = browser.new_context(bypass_csp=False, viewport={"width": 1280, "height": 1000})
        made.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield made
        browser.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    yield made
    made.close()
    assert wrong == []


def claude(served: Served, api: MessagesApi, name: str, **fields: Any) -> dict[str, Any]:
    """A sandbox with Claude Code at its prompt."""
    asked = {"agent": ["claude"], "grants": {}, "api_key": DUMMY_KEY, "env": {"ANTHROPIC_BASE_URL": api.url}}
    return served.make(name, **{**asked, **fields})


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people from using the page."""
    found: list[str] = page.evaluate(f"async () => {{ {AXE.read_text()}; return await ({SERIOUS})(); }}")
    return found


def test_an_agent_that_waits_is_seen_and_answered(served: Served, api: MessagesApi, page: Page) -> None:
    made = claude(served, api, "shop")
    page.goto(served.url)
    card = page.get_by_role("listitem").filter(has_text="shop")
    expect(card).to_contain_text("idle")
    # As someone else would give it work, while the dashboard is open.
    served.engine.converse("shop", "RUN: touch made-by-claude", ["Enter"], _no_wait())
    expect(card).to_contain_text("waiting for you")
    expect(page).to_have_title(re.compile(r"^\(1\) "))
    assert serious(page) == []
    page.get_by_role("link", name="Answer").first.click()
    terminal = page.locator("#xterm")
    expect(terminal).to_contain_text("Do you want to proceed?")
    # Watching is not typing.
    terminal.click()
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert not (Path(made["project_dir"]) / "made-by-claude").exists()
    page.get_by_role("button", name="Take over").click()
    expect(page.get_by_role("button", name="Give back")).to_be_visible()
    page.keyboard.press("Enter")
    expect(terminal).to_contain_text("tool said")
    assert (Path(made["project_dir"]) / "made-by-claude").exists()
    assert serious(page) == []
    # The transcript is read while the page is open.
    expect(page.locator("body")).to_contain_text("claude-opus")


def _no_wait() -> Any:
    from claude_sandbox.inside import Wait

    return Wait()


def test_a_screen_is_shown_as_it_changes(served: Served, page: Page) -> None:
    grants = {"claude": False, "git": False, "ssh": False, "gh": False, "display": True}
    served.make("screen", agent=["shell"], grants=grants, geometry="320x240")
    page.goto(f"{served.url}/sandboxes/screen")
    picture = page.locator("img").first
    expect(picture).to_be_visible()
    before = str(picture.get_attribute("src"))
    red = "chromium --no-first-run --app='data:text/html,<body style=background:red>' >/dev/null 2>&1 &"
    served.engine.execute("screen", ["sh", "-c", f"setsid {red}"], timeout=60)
    expect(picture).not_to_have_attribute("src", before)
    # By evaluate, for the pages' policy lets no text become a program, and waiting for a function is that.
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(RED) and time.monotonic() < end:
        page.wait_for_timeout(200)
    assert page.evaluate(RED)


def test_from_the_form_to_the_end(served: Served, page: Page) -> None:
    project = served.project("formed")
    page.goto(f"{served.url}/new")
    page.get_by_label("Name", exact=True).fill("formed")
    page.get_by_label("Project directory").fill(str(project))
    page.locator("summary").filter(has_text="More").first.click()
    page.get_by_label("Agent", exact=True).fill("shell")
    page.get_by_role("button", name="Make and start it").click()
    page.wait_for_url("**/sandboxes/formed*")
    expect(page.locator("#xterm")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("dialog[open]").get_by_role("button", name="Stop").click()
    expect(page.locator("body")).to_contain_text("stopped")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.locator("dialog[open]").get_by_role("button", name="Delete").click()
    page.wait_for_url(re.compile(r"/(\?.*)?$"))
    assert served.call("GET", "/api/sandboxes").json() == []


def test_a_login_by_a_link(account: Account, tmp_path: Path, page: Page) -> None:
    token = "a-token-of-some-length-0123456789"
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    with serving(account, MANAGER_TOKEN_FILE=str(file)) as guarded:
        page.goto(guarded.url)
        expect(page).to_have_url(re.compile("/login$"))
        shown = {"Authorization": f"Bearer {token}"}
        link = guarded.call("POST", "/api/login-links", headers=shown).json()["url"]
        page.goto(link)
        expect(page).to_have_url(re.compile(r"/$"))
        expect(page.get_by_role("link", name="New sandbox")).to_be_visible()
        again = guarded.call("GET", link.removeprefix(guarded.url))
        assert again.status_code == 403
