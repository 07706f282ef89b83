# Containers by root, and by an account that has the helper.
{
  self,
  pkgs,
  lib,
}@inputs:
let
  shared = import ./inside.nix inputs;
  containers = {
    bubblewrap.enable = false;
    container = {
      enable = true;
      users = [ "alice" ];
      extraModules = [ { environment.systemPackages = [ pkgs.figlet ]; } ];
    };
  };
in
pkgs.testers.runNixOSTest {
  name = "claude-sandbox-container";
  globalTimeout = 1800;
  nodes.online = shared.machineWith containers;
  nodes.offline = shared.machineWith (containers // { network = false; });
  testScript = shared.prelude + ''
    start_all()
    for host in (online, offline):
        prepare(host)

    with subtest("Programs, project and walls are as they should be"):
        looks_right(online, "root", "claude-sandbox-container")
        looks_right(online, "alice", "claude-sandbox-container")
        looks_right(offline, "root", "claude-sandbox-container")

    with subtest("What a module adds is inside, and nowhere else"):
        inside(online, "root", "claude-sandbox-container", "-c", "figlet here")
        online.fail("command -v figlet")

    with subtest("It has ids of its own"):
        inside(online, "root", "claude-sandbox-container", "-c", "! grep --quiet '0 *0 *4294967295' /proc/self/uid_map")

    with subtest("Sudo lets those who are named run the helper, and nobody else, and no other program"):
        as_account(online, "alice", "sudo", "-n", "-l", "/usr/local/libexec/claude-sandbox/container-helper")
        online.fail("runuser --login alice --command 'sudo -n id'")
        online.fail("runuser --login bob --command 'sudo -n -l /usr/local/libexec/claude-sandbox/container-helper'")

    with subtest("It has the network where it may, and nowhere else"):
        inside(online, "root", "claude-sandbox-container", "look-online", "127.0.0.1")
        inside(offline, "root", "claude-sandbox-container", "look-offline", "127.0.0.1")

    with subtest("Nothing is left"):
        online.fail("pgrep --full systemd-nspawn")
  '';
}
