# The NixOS system that containers and virtual machines have their programs from. It is not booted: the engine's own first program
# runs in it, so that there is no service, and nothing that activation would make.
{ lib, modulesPath, ... }:
{
  imports = [ "${modulesPath}/profiles/minimal.nix" ];

  boot.loader.grub.enable = false;
  documentation.enable = lib.mkDefault false;
  fileSystems."/" = {
    device = "none";
    fsType = "tmpfs";
  };
  networking.useDHCP = false;
  system.stateVersion = lib.mkDefault lib.trivial.release;
}
