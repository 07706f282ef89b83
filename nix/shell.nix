# What working on this repository takes from the system; Python's packages come by `make env-dev`.
{ pkgs, cli }:
pkgs.mkShell {
  packages = [
    cli
    pkgs.bubblewrap
    pkgs.git
    pkgs.gnumake
    pkgs.nixfmt
    pkgs.nodejs
    pkgs.python3
    pkgs.qemu_kvm
    pkgs.tmux
    pkgs.xorg-server
  ];
}
