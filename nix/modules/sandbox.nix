# The commands claude-sandbox, claude-sandbox-container and claude-sandbox-vm, and what they need of the host.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.claude-sandbox;
  inherit (pkgs.stdenv.hostPlatform) system;
  packages =
    self.packages.${system} or (throw "services.claude-sandbox: there are no packages for ${system}.");
  backends =
    lib.optional cfg.bubblewrap.enable (
      packages.default.override {
        inherit (cfg) network;
        inherit (cfg.bubblewrap) extraPackages;
      }
    )
    ++ lib.optional cfg.container.enable (
      packages.container.override {
        inherit (cfg) network;
        inherit (cfg.container) extraModules;
      }
    )
    ++ lib.optional cfg.vm.enable (
      packages.vm.override {
        inherit (cfg) network;
        inherit (cfg.vm) extraModules;
      }
    );
  extraModules =
    what:
    lib.mkOption {
      type = lib.types.listOf lib.types.deferredModule;
      default = [ ];
      example = lib.literalExpression "[ { environment.systemPackages = [ pkgs.postgresql ]; } ]";
      description = ''
        More NixOS modules for the system whose programs ${what} has. Programs, fonts and files of `/etc` come from them;
        services do not run there.
      '';
    };
in
{
  _file = ./sandbox.nix;
  key = "claude-sandbox/sandbox.nix";
  imports = [ ./host.nix ];

  options.services.claude-sandbox = {
    enable = lib.mkEnableOption "the commands that run Claude Code in a sandbox";

    network = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether sandboxes that these commands make have the network. With `false` no option of theirs and no file gives it back.
        The manager and playbooks say for each sandbox by themselves whether it has the network.
      '';
    };

    bubblewrap = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether to install `claude-sandbox`, whose sandboxes are made by bubblewrap, without root.";
      };
      extraPackages = lib.mkOption {
        type = lib.types.listOf lib.types.package;
        default = [ ];
        example = lib.literalExpression "[ pkgs.go pkgs.postgresql ]";
        description = "More packages whose programs are inside.";
      };
    };

    container = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = ''
          Whether to install `claude-sandbox-container`, whose sandboxes are containers of systemd-nspawn. It is run by root, or by
          an account among {option}`services.claude-sandbox.container.users`.
        '';
      };
      users = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
        example = [ "alice" ];
        description = ''
          Accounts that may have containers without being root. Sudo lets them run one helper, by which they get nothing of the
          host that they could not read or write before.
        '';
      };
      extraModules = extraModules "a container";
    };

    vm = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = ''
          Whether to install `claude-sandbox-vm`, whose sandboxes are virtual machines with a kernel of their own. On x86_64
          alone.
        '';
      };
      extraModules = extraModules "a virtual machine";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.bubblewrap.enable || cfg.container.enable || cfg.vm.enable;
        message = ''
          services.claude-sandbox is enabled, and none of its backends is. Enable one: bubblewrap, container or vm.
        '';
      }
      {
        assertion = cfg.vm.enable -> pkgs.stdenv.hostPlatform.isx86_64;
        message = "services.claude-sandbox.vm is made for x86_64, and this system is ${system}.";
      }
      {
        assertion = cfg.container.users != [ ] -> cfg.container.enable;
        message = "services.claude-sandbox.container.users has no effect without services.claude-sandbox.container.enable.";
      }
    ];

    environment.systemPackages = backends;

    claude-sandbox-host = {
      enable = true;
      helper = lib.mkDefault "${packages.manager}/libexec/claude-sandbox/helper";
      containerUsers = cfg.container.users;
      # The manager's own choice goes before.
      toolchains = lib.listToAttrs (
        map (package: lib.nameValuePair package.backend (lib.mkDefault package.toolchain)) backends
      );
    };
  };
}
