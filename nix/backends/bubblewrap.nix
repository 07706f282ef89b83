# claude-sandbox: namespaces, without root.
{
  pkgs,
  callPackage,
  buildEnv,
  python3Packages,
  claude-code,
  engine ? python3Packages.callPackage ../engine.nix { },
  # More packages whose programs are inside.
  extraPackages ? [ ],
  network ? true,
}:
callPackage ../launcher.nix {
  inherit engine network;
  backend = "bubblewrap";
  command = "claude-sandbox";
  toolchain = callPackage ../toolchain.nix {
    name = "claude-sandbox-toolchain";
    surroundings = callPackage ../surroundings.nix { };
    programs = buildEnv {
      name = "claude-sandbox-programs";
      # What the user adds goes before what is there anyway.
      paths = extraPackages ++ [ claude-code ] ++ import ../tools.nix pkgs;
      pathsToLink = [
        "/bin"
        "/share"
      ];
      ignoreCollisions = true;
    };
  };
}
