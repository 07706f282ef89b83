"""What the end-to-end tests run modules by: it must tell a failure from a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adhoc import ModuleFailedError, run_module


def test_a_module_that_fails_raises(tmp_path: Path) -> None:
    with pytest.raises(ModuleFailedError, match="There is no sandbox 'box'") as failed:
        run_module("claude_sandbox_exec", name="box", argv=["true"], state_dir=str(tmp_path))
    assert failed.value.result["changed"] is False


def test_a_module_that_succeeds_returns(tmp_path: Path) -> None:
    assert run_module("claude_sandbox_info", state_dir=str(tmp_path))["sandboxes"] == []
