# claude-sandbox-vm: a kernel of its own in QEMU.
{
  pkgs,
  lib,
  callPackage,
  python3Packages,
  qemu_kvm,
  claude-code,
  # What makes a NixOS system of { imports = [ … ]; }.
  nixos,
  engine ? python3Packages.callPackage ../engine.nix { },
  # More NixOS modules for the system whose kernel runs and whose programs are inside.
  extraModules ? [ ],
  network ? true,
}:
callPackage ../launcher.nix {
  inherit engine network;
  backend = "vm";
  command = "claude-sandbox-vm";
  hostPrograms = [ qemu_kvm ];
  toolchain = callPackage ../guest/toolchain.nix {
    name = "claude-sandbox-toolchain-vm";
    inherit pkgs claude-code nixos;
    modules = [ ../guest/machine.nix ] ++ extraModules;
    withKernel = true;
  };
}
