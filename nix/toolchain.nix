# Programs for the inside of sandboxes, and the file by which the engine knows them (its module closure says what may be in it).
{
  lib,
  runCommand,
  writers,
  name,
  # A folder whose bin has the programs.
  programs,
  surroundings,
  # More names in /etc, which go before those of the surroundings.
  etc ? { },
  guest ? null,
}:
let
  description = writers.writeJSON "toolchain.json" (
    {
      version = 1;
      path = [ "${programs}/bin" ];
      inherit (surroundings) environment links shell;
      etc = lib.mapAttrs (_: toString) (surroundings.etc // etc);
    }
    // lib.optionalAttrs (guest != null) { guest = "${guest}"; }
  );
in
runCommand name { } ''
  mkdir -p $out/share/claude-sandbox
  ln -s ${programs}/bin $out/bin
  ln -s ${description} $out/share/claude-sandbox/toolchain.json
''
