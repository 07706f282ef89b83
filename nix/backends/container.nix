# claude-sandbox-container: systemd-nspawn, by root.
{
  pkgs,
  callPackage,
  python3Packages,
  claude-code,
  # What makes a NixOS system of { imports = [ … ]; }.
  nixos,
  engine ? python3Packages.callPackage ../engine.nix { },
  # More NixOS modules for the system whose programs are inside.
  extraModules ? [ ],
  network ? true,
}:
callPackage ../launcher.nix {
  inherit engine network;
  backend = "container";
  command = "claude-sandbox-container";
  toolchain = callPackage ../guest/toolchain.nix {
    name = "claude-sandbox-toolchain-container";
    inherit pkgs claude-code nixos;
    modules = extraModules;
  };
}
