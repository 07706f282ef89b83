# The manager as a service: its account, its token, who may attach, the unit.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.claude-sandbox-manager;
  name = "claude-sandbox-manager";
  # The same settings as those of the role's unit, which says why others are missing: roles/manager/templates/service.j2.
  settings = lib.importJSON ./service.json;
  systemd = config.systemd.package;

  # Where claude-remote looks for it, too.
  tokenLink = "/etc/claude-sandbox/manager-token";
  ownTokenFolder = "/var/lib/claude-sandbox";
  ownTokenFile = "${ownTokenFolder}/manager-token";
  makesToken = cfg.tokenFile == null;
  tokenFile = if makesToken then ownTokenFile else toString cfg.tokenFile;

  attach = "/etc/claude-sandbox/attach";
  # One source: the program that the role brings, with its three places filled in.
  attachProgram = pkgs.writeTextFile {
    name = "claude-sandbox-attach";
    executable = true;
    text =
      lib.replaceStrings
        [
          "{{ '#!' ~ __manager_current }}/bin/python -I"
          "{{ ansible_managed | default('Written by Ansible') }}: the role claude_code.nix_sandbox.manager."
          "{{ claude_sandbox_manager_user }}"
          "{{ claude_sandbox_manager_state_dir }}"
        ]
        [
          "#!${cfg.package.pythonEnv}/bin/python3 -I"
          "Written by NixOS: services.claude-sandbox-manager."
          cfg.user
          cfg.stateDir
        ]
        (builtins.readFile ../../roles/manager/templates/attach.py.j2);
  };

  # As root, before each start of the manager.
  prepare = pkgs.writeShellScript "claude-sandbox-manager-prepare" (
    ''
      set -o errexit -o nounset -o pipefail
    ''
    + lib.optionalString makesToken ''
      if [ ! -e ${ownTokenFile} ]; then
        ${lib.getExe' cfg.package name} new-token ${ownTokenFile}
      fi
      ${pkgs.coreutils}/bin/chown root:${lib.escapeShellArg cfg.operatorsGroup} ${ownTokenFile}
      ${pkgs.coreutils}/bin/chmod 0640 ${ownTokenFile}
    ''
    # Its number is known on the host alone.
    + ''
      ${systemd}/bin/systemctl start "user@$(${pkgs.coreutils}/bin/id -u ${lib.escapeShellArg cfg.user}).service"
    ''
  );

  toolchainsOf =
    backend:
    lib.unique (
      map (package: package.toolchain.outPath) (
        lib.filter (package: package.backend == backend) cfg.sandboxPackages
      )
    );
in
{
  _file = ./manager.nix;
  key = "claude-sandbox/manager.nix";
  imports = [ ./host.nix ];

  options.services.claude-sandbox-manager = {
    enable = lib.mkEnableOption "the manager of sandboxes: a dashboard and a REST API";

    package = lib.mkOption {
      type = lib.types.package;
      default =
        (self.packages.${pkgs.stdenv.hostPlatform.system}
          or (throw "services.claude-sandbox-manager: there is no package for ${pkgs.stdenv.hostPlatform.system}.")
        ).manager;
      defaultText = lib.literalExpression "claude-sandbox.packages.\${system}.manager";
      description = "The manager.";
    };

    listenAddress = lib.mkOption {
      type = lib.types.strMatching "(\\[[0-9A-Fa-f:.]+]|[A-Za-z0-9.-]+):[0-9]{1,5}";
      default = "127.0.0.1:3000";
      example = "[::1]:8080";
      description = "Where it answers, ADDRESS:PORT. No firewall is opened.";
    };

    hosts = lib.mkOption {
      type = lib.types.listOf (lib.types.strMatching "[A-Za-z0-9._:-]+|\\[[0-9A-Fa-f:.]+]");
      default = [ ];
      example = [ "sandboxes.example.org" ];
      description = "More names by which browsers may call it: that of a reverse proxy, say.";
    };

    stateDir = lib.mkOption {
      type = lib.types.strMatching "/[A-Za-z0-9/._-]+";
      default = "/var/lib/claude-manager";
      description = "The registry of sandboxes, and the home of the manager's account.";
    };

    user = lib.mkOption {
      type = lib.types.strMatching "[a-z_][a-z0-9_-]{0,31}";
      default = "claude-manager";
      description = ''
        The account that it runs as, to which its sandboxes belong. The default one is made; another has to be declared by
        you. Either lingers, for its own systemd holds the sandboxes.
      '';
    };

    group = lib.mkOption {
      type = lib.types.strMatching "[a-z_][a-z0-9_-]{0,31}";
      default = "claude-manager";
      description = "The group that it runs as. The default one is made; another has to be declared by you.";
    };

    sandboxPackages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      example = lib.literalExpression "[ claude-sandbox.packages.x86_64-linux.default ]";
      description = ''
        Packages of backends (`default`, `container`, `vm` and those without network). Their programs are what is inside the
        sandboxes that the manager makes, and their commands are installed. Without any, sandboxes need a toolchain from elsewhere:
        {option}`services.claude-sandbox`, or a profile.
      '';
    };

    containerSudoers = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether the manager may make containers. Sudo lets its account run one helper without a password. Nothing may then keep
        the unit from sudo, so it is hardened less.
      '';
    };

    tokenFile = lib.mkOption {
      type = lib.types.nullOr lib.types.externalPath;
      default = null;
      example = "/run/secrets/claude-sandbox-manager";
      description = ''
        A file with the token that callers show: one line of 16 to 512 plain characters. systemd reads it as root. It is never put
        into the store. By default a token is made on the host, once, at `${ownTokenFile}`.
      '';
    };

    operators = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "alice" ];
      description = ''
        Accounts that may read the token that was made on the host, and attach to the terminals of sandboxes. They trust each
        other: each of them may use every sandbox.
      '';
    };

    operatorsGroup = lib.mkOption {
      type = lib.types.strMatching "[a-z_][a-z0-9_-]{0,31}";
      default = "claude-operators";
      description = "The group of the operators.";
    };

    hideHomes = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to hide `/home` and `/root` from the manager and from all its sandboxes.";
    };

    environment = lib.mkOption {
      type = lib.types.attrsOf (lib.types.strMatching "[^\n\r]*");
      default = { };
      example = {
        FORWARDED_ALLOW_IPS = "192.0.2.7";
      };
      description = "More variables of the service. Everybody on the host can read them.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.user != "root";
        message = "services.claude-sandbox-manager.user has to be an account that is not root.";
      }
      {
        assertion = lib.all (package: package ? backend && package ? toolchain) cfg.sandboxPackages;
        message = ''
          services.claude-sandbox-manager.sandboxPackages takes packages of backends of this flake alone. Programs that shall be
          inside are given to such a package: default.override { extraPackages = [ … ]; }.
        '';
      }
      {
        assertion = lib.all (package: lib.length (toolchainsOf package.backend) == 1) (
          lib.filter (package: package ? backend) cfg.sandboxPackages
        );
        message = ''
          services.claude-sandbox-manager.sandboxPackages has two packages of one backend with different programs inside. The
          manager's sandboxes have those of one: leave the other out.
        '';
      }
      {
        assertion =
          cfg.operators == [ ] || (config.security.sudo.enable && !config.security.sudo.execWheelOnly);
        message = ''
          Operators attach by sudo, and this system keeps it from them. Set security.sudo.enable = true and
          security.sudo.execWheelOnly = false, or leave services.claude-sandbox-manager.operators empty.
        '';
      }
    ];

    claude-sandbox-host = {
      enable = true;
      helper = "${cfg.package}/libexec/claude-sandbox/helper";
      containerUsers = lib.optional cfg.containerSudoers cfg.user;
      toolchains = lib.listToAttrs (
        map (package: lib.nameValuePair package.backend package.toolchain) (
          lib.filter (package: package ? backend && package ? toolchain) cfg.sandboxPackages
        )
      );
    };

    environment.systemPackages = [ cfg.package ] ++ cfg.sandboxPackages;
    environment.etc = {
      "claude-sandbox/manager-token".source = tokenFile;
      "claude-sandbox/attach" = lib.mkIf (cfg.operators != [ ]) { source = attachProgram; };
    };

    users.users.${cfg.user} = lib.mkMerge [
      {
        # Its own systemd, which runs without anybody logging in, holds the scopes of its sandboxes.
        linger = true;
        extraGroups = [ "kvm" ];
      }
      (lib.mkIf (cfg.user == "claude-manager") {
        isSystemUser = true;
        inherit (cfg) group;
        home = cfg.stateDir;
        description = "Owner of the sandboxes of Claude Code";
      })
    ];
    users.groups = lib.mkMerge [
      (lib.mkIf (cfg.group == "claude-manager") { ${cfg.group} = { }; })
      { ${cfg.operatorsGroup}.members = cfg.operators; }
    ];
    users.manageLingering = true;

    systemd.tmpfiles.settings."10-claude-sandbox-manager" = {
      ${cfg.stateDir}.d = {
        mode = "0700";
        inherit (cfg) user group;
      };
      ${ownTokenFolder} = lib.mkIf makesToken {
        d = {
          mode = "0755";
          user = "root";
          group = "root";
        };
      };
    };

    # Operators may look at sandboxes' terminals and type there. One program with a fixed path; it takes a sandbox's name alone.
    security.sudo.extraRules = lib.mkIf (cfg.operators != [ ]) [
      {
        groups = [ cfg.operatorsGroup ];
        runAs = cfg.user;
        commands = [
          {
            command = attach;
            options = [ "NOPASSWD" ];
          }
        ];
      }
    ];
    security.sudo.extraConfig = lib.mkIf (cfg.operators != [ ]) ''
      Defaults!${attach} env_reset, use_pty
    '';

    systemd.services."${name}-prepare" = {
      description = "The token and the sandboxes' own systemd, for ${name}";
      requires = [ "systemd-logind.service" ];
      after = [
        "systemd-logind.service"
        "linger-users.service"
        "systemd-tmpfiles-setup.service"
        "systemd-tmpfiles-resetup.service"
      ];
      serviceConfig = {
        Type = "oneshot";
        ExecStart = prepare;
        UMask = "0077";
      };
    };

    systemd.services.${name} = {
      description = "Manager of the sandboxes of Claude Code";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = [ "${name}-prepare.service" ];
      after = [
        "network-online.target"
        "${name}-prepare.service"
      ];
      startLimitIntervalSec = 60;
      startLimitBurst = 10;
      # What the manager finds there may change without it: sudo, systemd, the packages' commands.
      enableDefaultPath = false;
      environment = {
        PATH = lib.mkForce "/run/wrappers/bin:/run/current-system/sw/bin";
        MANAGER_LISTEN = cfg.listenAddress;
        MANAGER_STATE_DIR = cfg.stateDir;
        MANAGER_TOKEN_FILE = "%d/token";
      }
      // lib.optionalAttrs (cfg.hosts != [ ]) { MANAGER_HOSTS = lib.concatStringsSep " " cfg.hosts; }
      // lib.optionalAttrs (cfg.operators != [ ]) { MANAGER_ATTACH = "sudo -u ${cfg.user} ${attach}"; }
      // lib.mapAttrs (_: lib.replaceStrings [ "%" ] [ "%%" ]) cfg.environment;
      serviceConfig =
        settings.always
        // lib.optionalAttrs cfg.hideHomes settings.withoutHomes
        # Containers are started by sudo. With any of these set, systemd sets NoNewPrivileges=, and sudo would not run.
        // lib.optionalAttrs (!cfg.containerSudoers) settings.withoutSudo
        // {
          User = cfg.user;
          Group = cfg.group;
          ExecStart = "${lib.getExe' cfg.package name} run";
        };
    };
  };
}
