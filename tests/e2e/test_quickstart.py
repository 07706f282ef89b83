"""`make up`, as a newcomer types it."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.adhoc import CLONE, run_module

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.environ.get("CI") != "true", reason="it makes an account and a sandbox that stay; only a CI machine is free"
    ),
]


def up() -> str:
    # What make tells its children is for this test's make, not for that of a user.
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "up"], cwd=CLONE, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_up_twice() -> None:
    first = up()
    command = re.search(r"Attach:\s+(.+?)['\n]", first)
    assert command is not None
    assert command[1].split()[0] in ("env", "sudo", "runuser")
    second = up()
    assert re.search(r"localhost .*changed=0 .*failed=0", second)
    assert "nothing was changed" in second
    (demo,) = run_module("claude_sandbox_info", name=["demo"])["sandboxes"]
    assert demo["status"] == "running"
    assert run_module("claude_sandbox", name="demo", state="absent")["changed"]
