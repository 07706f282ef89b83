"""What an observer says of what the manager knows already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from claude_sandbox import prices
from claude_sandbox.host import Host, account
from claude_sandbox.registry import Record
from claude_sandbox.spec import Spec
from manager_app.observer import _Eye
from tests.manager.served import ROOT, serving
from tests.support.account import Account


def test_one_that_has_forgotten_a_sandbox_calls_nothing_known(tmp_path: Path) -> None:
    """Its marks are others than those that were given before, so that the manager is told anew."""
    record = Record("box", str(tmp_path), "0123456789ab", 0.0, Spec(str(tmp_path), grants={"claude": False}))
    known: dict[str, int | None] = {"usage": None, "terminal": None}
    host = Host({}, os.geteuid())
    for _look in range(3):
        eye = _Eye(host, account(os.geteuid()))
        found = eye.look(record, str(tmp_path), known, prices.BUILT_IN)
        assert "shown" in found["usage"]
        known["usage"] = found["usage"]["mark"]
        # One that has not forgotten it says no more than that.
        assert eye.look(record, str(tmp_path), known, prices.BUILT_IN)["usage"] == {"mark": known["usage"]}


def test_spoilt_prices_keep_nothing_from_being_seen(account: Account) -> None:
    with serving(account) as served:
        served.make("box")
        (served.state_dir / "prices.json").write_text("{")
        answer = served.call("GET", "/api/sandboxes/box/metrics")
        assert answer.json()["session"]["cost"]["as_of"] == prices.AS_OF
        assert "prices.json" in served.log.read_text()


def test_spoilt_prices_are_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text("{")
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/plugins/module_utils", "MANAGER_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "manager_app"], env=environ, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "prices.json" in done.stderr
    assert "Traceback" not in done.stderr
