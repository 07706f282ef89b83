# Virtual machines in a virtual machine: without nested KVM they are emulated, which takes minutes.
{
  self,
  pkgs,
  lib,
}@inputs:
let
  shared = import ./inside.nix inputs;
  machines = {
    bubblewrap.enable = false;
    vm = {
      enable = true;
      extraModules = [ { environment.systemPackages = [ pkgs.figlet ]; } ];
    };
  };
in
pkgs.testers.runNixOSTest {
  name = "claude-sandbox-vm";
  globalTimeout = 3600;
  nodes.online = shared.machineWith machines;
  nodes.offline = shared.machineWith (machines // { network = false; });
  testScript = shared.prelude + ''
    start_all()
    for host in (online, offline):
        prepare(host)

    with subtest("Programs, project and walls are as they should be"):
        looks_right(online, "alice", "claude-sandbox-vm")

    with subtest("What a module adds is inside, and nowhere else"):
        inside(online, "alice", "claude-sandbox-vm", "-c", "figlet here")
        online.fail("command -v figlet")

    with subtest("Its kernel is another one"):
        inside(online, "alice", "claude-sandbox-vm", "-c", "cat /proc/sys/kernel/random/boot_id > boot")
        online.succeed(f"test -s {PROJECT}/boot")
        online.fail(f"cmp {PROJECT}/boot /proc/sys/kernel/random/boot_id")

    with subtest("It has the network where it may, and no card elsewhere"):
        inside(online, "alice", "claude-sandbox-vm", "look-online", "10.0.2.2")
        inside(offline, "alice", "claude-sandbox-vm", "look-offline", "10.0.2.2")

    with subtest("Nothing is left"):
        online.fail("pgrep --full qemu-system")
  '';
}
