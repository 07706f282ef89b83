# What both modules need of the host: the programs that the engine starts, limits for accounts' sandboxes, the toolchains, and the
# helper by which accounts have containers without being root.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.claude-sandbox-host;
  # privileged.HELPER of the engine.
  helper = "/usr/local/libexec/claude-sandbox/container-helper";
  sysctl = config.boot.kernel.sysctl;
  isOff = name: toString (sysctl.${name} or "") == "0";
in
{
  options.claude-sandbox-host = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      internal = true;
      description = "Whether this host has sandboxes.";
    };
    helper = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      internal = true;
      description = "The program that makes containers for accounts.";
    };
    containerUsers = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      internal = true;
      description = "The accounts that may have containers without being root.";
    };
    toolchains = lib.mkOption {
      type = lib.types.attrsOf lib.types.package;
      default = { };
      internal = true;
      description = "By backend, what programs its sandboxes have.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.security.allowUserNamespaces && !isOff "user.max_user_namespaces";
        message = ''
          Sandboxes are made of user namespaces, and this system allows none. Set security.allowUserNamespaces = true, and
          leave boot.kernel.sysctl."user.max_user_namespaces" above 0.
        '';
      }
      {
        assertion = !isOff "kernel.unprivileged_userns_clone";
        message = ''
          Sandboxes are made of user namespaces, and this system allows them to root alone. Set
          security.unprivilegedUsernsClone = true, or leave boot.kernel.sysctl."kernel.unprivileged_userns_clone" out.
        '';
      }
      {
        assertion =
          cfg.containerUsers == [ ] || (config.security.sudo.enable && !config.security.sudo.execWheelOnly);
        message = ''
          Accounts have containers by sudo, and this system keeps it from them. Set security.sudo.enable = true and
          security.sudo.execWheelOnly = false, or let no account have containers.
        '';
      }
    ];

    # Root, and who may attach, find programs by the system's PATH alone.
    environment.systemPackages = [
      pkgs.bubblewrap
      pkgs.tmux
      pkgs.xauth
      pkgs.xorg-server
    ];

    # The engine finds them there, so that nothing else has to be changed when they are.
    environment.etc = lib.mapAttrs' (
      backend: toolchain: lib.nameValuePair "claude-sandbox/toolchains/${backend}" { source = toolchain; }
    ) cfg.toolchains;

    # Limits of accounts' sandboxes need these controllers. NixOS leaves managers that run alone: they have it from their next start on.
    systemd.services."user@".serviceConfig.Delegate = "cpu cpuset io memory pids";

    systemd.tmpfiles.settings."10-claude-sandbox-helper" = lib.mkIf (cfg.containerUsers != [ ]) {
      ${dirOf helper}.d = {
        mode = "0755";
        user = "root";
        group = "root";
      };
      ${helper}."L+".argument = toString cfg.helper;
    };

    # One program, with a fixed path and no wildcard: what it may do for whom it decides itself.
    security.sudo.extraRules = lib.mkIf (cfg.containerUsers != [ ]) [
      {
        users = lib.unique cfg.containerUsers;
        runAs = "root";
        commands = [
          {
            command = helper;
            options = [ "NOPASSWD" ];
          }
        ];
      }
    ];
  };
}
