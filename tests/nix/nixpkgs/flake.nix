# A stand-in for nixpkgs: as much of its interface as this project's flake uses, over packages that build in a moment from nothing but
# the programs in ./machine (see ../stubs.py). Programs that are not run in tests are a file that says their name.
{
  outputs =
    { self }:
    let
      lib = import ./lib.nix;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] (system: import ./packages.nix { inherit lib system; });
    in
    {
      inherit legacyPackages;
      lib = lib // {
        nixosSystem =
          { system, modules }:
          import ./nixos {
            inherit lib modules;
            pkgs = legacyPackages.${system};
          };
      };
    };
}
