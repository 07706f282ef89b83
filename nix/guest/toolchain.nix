# A toolchain from a NixOS system.
{
  lib,
  callPackage,
  pkgsStatic,
  name,
  pkgs,
  claude-code,
  nixos,
  modules,
  withKernel ? false,
}:
let
  inherit
    (nixos {
      imports = [
        ./system.nix
        # What modules add goes before what is there anyway.
        { environment.systemPackages = map lib.lowPrio ([ claude-code ] ++ import ../tools.nix pkgs); }
      ]
      ++ modules;
    })
    config
    ;
  # The engine's own; what only a system that was booted has a use for; and what sets PATH in a shell, to where that system would
  # have its programs.
  notForPrograms = [
    "NIXOS"
    "bash_logout"
    "bashrc"
    "binfmt.d"
    "dbus-1"
    "default"
    "environment.d"
    "fstab"
    "group"
    "gshadow"
    "host.conf"
    "hostname"
    "hosts"
    "issue"
    "kbd"
    "localtime"
    "login.defs"
    "lvm"
    "machine-id"
    "modprobe.d"
    "modules-load.d"
    "mtab"
    "netgroup"
    "pam"
    "pam.d"
    "passwd"
    "profile"
    "resolv.conf"
    "resolvconf.conf"
    "set-environment"
    "shadow"
    "shells"
    "ssh"
    "subgid"
    "subuid"
    "sudoers"
    "sudoers.d"
    "sysctl.d"
    "systemd"
    "timezone"
    "tmpfiles.d"
    "udev"
    "vconsole.conf"
    "zinputrc"
    "zoneinfo"
    "zprofile"
    "zshenv"
    "zshrc"
  ];
  targets = map (entry: entry.target) (
    lib.filter (entry: entry.enable) (lib.attrValues config.environment.etc)
  );
  names = lib.unique (map (target: lib.head (lib.splitString "/" target)) targets);
in
callPackage ../toolchain.nix {
  inherit name;
  programs = config.system.path;
  surroundings = callPackage ../surroundings.nix { };
  # The system's own fonts, certificates and policies go before ours, so that modules can say what they are.
  etc = lib.genAttrs (lib.subtractLists notForPrograms names) (
    each: "${config.system.build.etc}/etc/${each}"
  );
  guest =
    if withKernel then
      callPackage ./kernel.nix {
        inherit (config.boot.kernelPackages) kernel;
        inherit (config.system.boot.loader) kernelFile;
        busybox = pkgsStatic.busybox;
      }
    else
      null;
}
