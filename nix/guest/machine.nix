# What a virtual machine has beside: commands by QEMU's agent, and a screen of its own.
{ pkgs, ... }:
{
  environment.systemPackages = [
    pkgs.qemu_kvm.ga
    pkgs.xorg-server
  ];
}
