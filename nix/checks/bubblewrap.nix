# A sandbox of bubblewrap's by an account of a machine of its own.
{
  self,
  pkgs,
  lib,
}@inputs:
let
  shared = import ./inside.nix inputs;
in
pkgs.testers.runNixOSTest {
  name = "claude-sandbox-bubblewrap";
  globalTimeout = 1800;
  nodes.online = shared.machineWith { bubblewrap.extraPackages = [ pkgs.figlet ]; };
  nodes.offline = shared.machineWith { network = false; };
  testScript = shared.prelude + ''
    start_all()
    for host in (online, offline):
        prepare(host)

    with subtest("The command says that it works here"):
        as_account(online, "alice", "claude-sandbox", "doctor")

    with subtest("Programs, project and walls are as they should be"):
        looks_right(online, "alice", "claude-sandbox")
        looks_right(offline, "alice", "claude-sandbox")

    with subtest("What was added is inside, and nowhere else"):
        inside(online, "alice", "claude-sandbox", "-c", "figlet here")
        online.fail("command -v figlet")

    with subtest("Its exit code is the command's"):
        online.fail(f"runuser --login alice --command 'claude-sandbox --shell {PROJECT} -- -c false' < /dev/null")

    with subtest("It has the network where it may, and nowhere else"):
        inside(online, "alice", "claude-sandbox", "look-online", "127.0.0.1")
        as_account(online, "alice", "claude-sandbox", "--no-network", "--shell", PROJECT, "--", "look-offline", "127.0.0.1")
        inside(offline, "alice", "claude-sandbox", "look-offline", "127.0.0.1")

    with subtest("A file of the account's does not give the network back"):
        as_account(offline, "alice", "mkdir", "--parents", ".config/claude-sandbox")
        offline.succeed("echo 'network = true' > /home/alice/.config/claude-sandbox/config.toml")
        inside(offline, "alice", "claude-sandbox", "look-offline", "127.0.0.1")

    with subtest("Nothing is left"):
        online.fail("pgrep --exact bwrap")
  '';
}
