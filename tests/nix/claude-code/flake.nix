# A stand-in for Claude Code: a program that says its version and its arguments.
{
  inputs.nixpkgs.url = "path:/nowhere";
  outputs =
    { nixpkgs, ... }:
    {
      packages = builtins.mapAttrs (_: pkgs: {
        default =
          pkgs.runCommand "claude-code-${builtins.readFile ./version}" { meta.mainProgram = "claude"; }
            ''
              mkdir -p $out/bin
              printf '%s\n' "#!$shell" 'echo claude ${builtins.readFile ./version} "$@"' > $out/bin/claude
              chmod +x $out/bin/claude
            '';
      }) nixpkgs.legacyPackages;
    };
}
