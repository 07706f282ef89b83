# What `nix flake check` builds: tests in NixOS machines (they need KVM and time), and what is told without any.
{
  self,
  pkgs,
  lib,
}:
let
  inputs = { inherit self pkgs lib; };
in
{
  agent-apart = import ./agent-apart.nix inputs;
  bubblewrap = import ./bubblewrap.nix inputs;
  container = import ./container.nix inputs;
  manager = import ./manager.nix inputs;
}
# The backend is made for this one alone.
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 { vm = import ./vm.nix inputs; }
