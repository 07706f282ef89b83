# A stand-in for nixpkgs: packages that build in a moment, from nothing but the programs in ./machine (see __init__.py).
{
  outputs =
    { self }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      for =
        system:
        let
          busybox = "${./machine}/busybox";
          runCommand =
            name: script:
            derivation {
              inherit name system;
              builder = busybox;
              args = [
                "sh"
                "-euc"
                ''
                  mkdir() { ${busybox} mkdir "$@"; }
                  chmod() { ${busybox} chmod "$@"; }
                  ln() { ${busybox} ln "$@"; }
                  ${script}
                ''
              ];
            };
        in
        {
          inherit runCommand;
          # A userland of one program with many names.
          userland = runCommand "userland-1" ''
            mkdir -p $out/bin
            for name in bash cat env ls sh; do ln -s ${busybox} $out/bin/$name; done
          '';
          # This machine's own, which brings what it loads.
          bubblewrap = runCommand "bubblewrap-0.11.0" ''
            mkdir -p $out/bin
            printf '%s\n' '#!/bin/sh' 'exec ${./machine}/lib/loader --library-path ${./machine}/lib ${./machine}/bwrap "$@"' > $out/bin/bwrap
            chmod +x $out/bin/bwrap
          '';
          # What a newer nixpkgs would change.
          version = builtins.readFile ./version;
        };
    in
    {
      legacyPackages = builtins.listToAttrs (
        map (system: {
          name = system;
          value = for system;
        }) systems
      );
    };
}
