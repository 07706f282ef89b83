# Another Claude Code changes neither the manager nor its unit, and is in the closure of neither.
{
  self,
  pkgs,
  lib,
}:
let
  packages = self.packages.${pkgs.stdenv.hostPlatform.system};
  agent = name: pkgs.writeShellScriptBin "claude" "echo ${name}";
  ours = agent "claude-code-this";
  other = agent "claude-code-other";

  machineWith =
    claude-code:
    (pkgs.nixos {
      imports = [ self.nixosModules.manager ];
      boot.loader.grub.enable = false;
      fileSystems."/" = {
        device = "none";
        fsType = "tmpfs";
      };
      system.stateVersion = lib.trivial.release;
      services.claude-sandbox-manager = {
        enable = true;
        containerSudoers = true;
        sandboxPackages = [ (packages.default.override { inherit claude-code; }) ];
      };
    }).config;
  # What of a machine is the agent's, and what is not.
  view =
    claude-code:
    let
      config = machineWith claude-code;
    in
    {
      toolchain = config.environment.etc."claude-sandbox/toolchains/bubblewrap".source;
      unit = config.systemd.units."claude-sandbox-manager.service".unit;
      prepare = config.systemd.units."claude-sandbox-manager-prepare.service".unit;
      manager = config.services.claude-sandbox-manager.package;
    };
  before = view ours;
  after = view other;
  isSame = name: before.${name}.drvPath == after.${name}.drvPath;
in
assert lib.assertMsg (!isSame "toolchain") "another Claude Code does not come into the sandboxes";
assert lib.assertMsg (lib.all isSame [
  "manager"
  "prepare"
  "unit"
]) "another Claude Code changes the manager or its unit";
pkgs.runCommand "claude-sandbox-agent-apart"
  {
    closure = pkgs.closureInfo {
      rootPaths = [
        before.unit
        before.prepare
        before.manager
      ];
    };
    withAgent = pkgs.closureInfo { rootPaths = [ before.toolchain ]; };
    # Not the programs themselves: they would be in no closure but this one's.
    agent = builtins.unsafeDiscardStringContext (toString ours);
  }
  ''
    grep --quiet --fixed-strings "$agent" $withAgent/store-paths
    if grep --ignore-case --fixed-strings --regexp "$agent" --regexp claude-code $closure/store-paths; then
      echo "Claude Code is in the manager's closure."
      exit 1
    fi
    touch $out
  ''
