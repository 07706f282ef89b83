# All packages, from one nixpkgs, one agent and one way to make a NixOS system.
{
  pkgs,
  claude-code,
  nixos,
}:
let
  engine = pkgs.python3Packages.callPackage ./engine.nix { };
  bubblewrap = pkgs.callPackage ./backends/bubblewrap.nix { inherit claude-code engine; };
  container = pkgs.callPackage ./backends/container.nix { inherit claude-code engine nixos; };
  vm = pkgs.callPackage ./backends/vm.nix { inherit claude-code engine nixos; };
  withoutNetwork = package: package.override { network = false; };
in
{
  default = bubblewrap;
  sandbox = bubblewrap;
  no-network = withoutNetwork bubblewrap;
  inherit container vm;
  container-no-network = withoutNetwork container;
  vm-no-network = withoutNetwork vm;

  manager = pkgs.callPackage ./manager.nix { };
  cli = pkgs.callPackage ./cli.nix { inherit engine; };

  # What sandboxes that playbooks make have inside: for /nix/var/nix/profiles/claude-sandbox.
  toolchain = bubblewrap.toolchain;
  toolchain-container = container.toolchain;
  toolchain-vm = vm.toolchain;
}
