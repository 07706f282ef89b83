# A flake as the role sandbox installs one: a launcher that has bubblewrap in its closure, a command, a toolchain.
{
  inputs.nixpkgs.url = "path:/nowhere";
  outputs =
    { nixpkgs, ... }:
    {
      packages = builtins.mapAttrs (
        _system: pkgs:
        let
          program =
            package: name: text:
            pkgs.runCommand package ''
              mkdir -p $out/bin
              printf '%s\n' '#!/bin/sh' '${text}' > $out/bin/${name}
              chmod +x $out/bin/${name}
            '';
        in
        {
          default = program "claude-sandbox-${pkgs.version}" "claude-sandbox" ''
            [ "$1" != --version ] || exec echo ${pkgs.version}
            exec ${pkgs.bubblewrap}/bin/bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev "$@"'';
          cli = program "claude-remote-1" "claude-remote" "echo remote";
          tools = pkgs.userland;
        }
      ) nixpkgs.legacyPackages;
    };
}
