"""claude_sandbox_exec: commands beside the agent, and everything that they say kept."""

from __future__ import annotations

from tests.integration.arena import PLAIN, Arena


def test_what_a_command_says(arena: Arena) -> None:
    results = arena.play(
        arena.started(env={"FROM": "agent"}),
        arena.inside("sh", "-c", "echo out; echo err >&2; pwd; echo $FROM $MORE", env={"MORE": "task"}, chdir="/tmp"),
        arena.inside("sh", "-c", "echo last words; exit 42"),
        arena.inside("sh", "-c", "kill -9 $$"),
        arena.inside("cat", stdin="one\ntwo ü\n"),
        arena.inside("printf", "%s|", "a b", "$(id)", ";", "", "*", "-n", "ü\n"),
        arena.inside("printf", r"\377\376 x"),
        arena.inside("no-such-program"),
        arena.inside("/etc/hostname/no"),
        arena.inside("/etc"),
        arena.inside("pwd"),
    )
    _, spoke, failed, killed, read, literal, odd, missing, nowhere, folder, where = results
    assert (spoke["rc"], spoke.changed, spoke.failed) == (0, True, False)
    assert spoke["stdout"] == "out\n/tmp\nagent task"
    assert spoke["stderr"] == "err"
    assert (failed["rc"], failed.failed, failed["stdout"]) == (42, True, "last words")
    assert failed.message == "The command ended with exit code 42."
    assert (killed["rc"], killed.failed) == (137, True)
    assert read["stdout"] == "one\ntwo ü"
    assert literal["stdout"] == "a b|$(id)|;||*|-n|ü\n|"
    assert (odd.get("rc"), odd.get("stdout")) == (0, "\N{REPLACEMENT CHARACTER}" * 2 + " x"), odd
    assert missing["rc"] == 127
    assert "no-such-program" in missing["stderr"]
    assert {nowhere["rc"], folder["rc"]} <= {126, 127}
    assert where["stdout"] == str(arena.project)


def test_when_to_run(arena: Arena) -> None:
    """creates and removes are paths inside; check mode runs nothing, and says whether a run would."""
    touch = ("sh", "-c", "echo ran >>runs")
    results = arena.play(
        arena.started(),
        arena.inside(*touch, check=True),
        arena.inside(*touch, creates=f"{arena.project}/runs", check=True),
        arena.inside(*touch, creates=f"{arena.project}/runs"),
        arena.inside(*touch, creates=f"{arena.project}/runs"),
        arena.inside(*touch, creates=f"{arena.project}/runs", check=True),
        arena.inside(*touch, removes="/tmp/nothing"),
        arena.inside(*touch, removes=f"{arena.project}/runs"),
        # Of the host, and not in the sandbox.
        arena.inside(*touch, removes="/etc/shadow"),
    )
    changed = [result.changed for result in results[1:]]
    assert changed == [True, True, True, False, False, False, True, False]
    assert not any(result.failed for result in results), results
    assert results[4].message == f"{arena.project}/runs exists in the sandbox"
    assert results[6].message == "/tmp/nothing does not exist in the sandbox"
    assert (arena.project / "runs").read_text(encoding="utf-8") == "ran\nran\n"


def test_too_long(arena: Arena) -> None:
    """It is killed with all that it has started, and what it has said by then is kept."""
    _, done = arena.play(
        arena.started(), arena.inside("sh", "-c", "echo begun; sleep 98765 & exec sleep 98765", timeout=0.5)
    )
    assert (done.failed, done["rc"], done["stdout"]) == (True, 124, "begun")
    assert done.message == "The command did not end within 0.5 seconds, and was killed."
    assert arena.wait_until_gone("98765") == []


def test_a_lot_of_output(arena: Arena) -> None:
    _, much = arena.play(
        arena.started(), arena.inside("sh", "-c", "head -c 18000000 /dev/zero | tr '\\0' x; echo end >&2")
    )
    assert (len(much["stdout"]), much["truncated"], much["stderr"]) == (16 << 20, True, "end")


def test_what_cannot_run(arena: Arena) -> None:
    missing, _, empty, folder, stopped, not_running, check = arena.play(
        arena.inside("true"),
        arena.started(),
        arena.inside(),
        arena.inside("true", chdir="/no/such/folder"),
        arena.task(name="box", state="stopped"),
        arena.inside("true"),
        arena.inside("true", check=True),
    )
    assert missing.message == f"There is no sandbox 'box' in {arena.state_dir}."
    assert empty.message == "argv is empty: give the program to run."
    assert "'/no/such/folder' is no directory in it" in folder.message
    assert not stopped.failed
    assert not_running.message == "Sandbox 'box' is not running. Start it first (state: started)."
    assert all(result.failed for result in (missing, empty, folder, not_running))
    assert not any("Traceback" in str(result) for result in (missing, empty, folder, not_running))
    # What a run would do in a play that starts it first cannot be known.
    assert not check.failed or "is not running" in check.message


def test_bound_as_the_agent_is(arena: Arena) -> None:
    """The same root, the same processes, no network where it has none, no way to more rights."""
    look = "cat /proc/1/comm; ls -d /root /etc/shadow /usr; grep -E 'CapEff|NoNewPrivs' /proc/self/status; "
    look += "tail -n +3 /proc/net/dev | cut -d: -f1"
    _, inside = arena.play(
        arena.started(network=False, **{**PLAIN, "agent": ["sleep", "infinity"]}), arena.inside("sh", "-c", look)
    )
    words = inside["stdout"].split()
    assert words == ["bwrap", "/usr", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "lo"]
