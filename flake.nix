{
  description = "Claude Code in sandboxes, with a browser: on one machine or on many";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    claude-code = {
      url = "github:sadjow/claude-code-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      claude-code,
    }:
    let
      inherit (nixpkgs) lib;
      forEachSystem = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      pkgsOf = system: nixpkgs.legacyPackages.${system};
      # Its own flake allows what is unfree in it, so that nobody else has to.
      packagesOf =
        pkgs:
        let
          inherit (pkgs.stdenv.hostPlatform) system;
        in
        import ./nix {
          inherit pkgs;
          claude-code = claude-code.packages.${system}.default;
          nixos =
            args:
            lib.nixosSystem {
              inherit system;
              modules = args.imports;
            };
        };
      app = package: {
        type = "app";
        program = lib.getExe package;
        inherit (package) meta;
      };
    in
    {
      packages = forEachSystem (system: packagesOf (pkgsOf system));

      apps = forEachSystem (
        system:
        lib.mapAttrs (_: app) {
          inherit (self.packages.${system})
            default
            sandbox
            no-network
            container
            container-no-network
            vm
            vm-no-network
            manager
            cli
            ;
        }
      );

      overlays.default = final: _prev: { claude-sandbox = packagesOf final; };

      nixosModules = {
        default = import ./nix/modules/sandbox.nix self;
        manager = import ./nix/modules/manager.nix self;
      };

      devShells = forEachSystem (system: {
        default = import ./nix/shell.nix {
          pkgs = pkgsOf system;
          inherit (self.packages.${system}) cli;
        };
      });

      checks = forEachSystem (
        system:
        import ./nix/checks {
          inherit self lib;
          pkgs = pkgsOf system;
        }
      );

      formatter = forEachSystem (system: (pkgsOf system).nixfmt-tree);
    };
}
