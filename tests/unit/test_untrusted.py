"""Text that an agent has written: what is left of it where it is shown."""

from __future__ import annotations

from ansible_collections.claude_code.nix_sandbox.plugins.module_utils.claude_sandbox import untrusted


def test_nothing_does_something_to_a_terminal() -> None:
    assert untrusted.visible("a\x1b]0;x\x07\r\n\t\u202eb ü") == "a\\x1b]0;x\\x07\\r\n\t\\u202eb ü"
    assert untrusted.line("one\ntwo\x1b" + "x" * 10_000).startswith("one two\\x1bxxx")
    assert len(untrusted.line("x" * 10_000)) == 301
