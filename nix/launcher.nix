# A command of the engine with the programs that it starts on the host, and with those that its sandboxes have inside.
{
  lib,
  callPackage,
  runCommand,
  makeWrapper,
  writers,
  engine,
  backend,
  command,
  toolchain,
  network,
  hostPrograms ? [ ],
}:
let
  defaults = writers.writeJSON "claude-sandbox-defaults.json" (
    {
      toolchain = "nix";
      nix_toolchain = toolchain;
    }
    # The launcher lets nothing give it back.
    // lib.optionalAttrs (!network) { network = false; }
  );
in
runCommand "${command}-${engine.version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    passthru = {
      inherit
        backend
        network
        toolchain
        ;
    };
    meta = engine.meta // {
      mainProgram = command;
    };
  }
  ''
    makeWrapper ${engine}/bin/${command} $out/bin/${command} \
      --set CLAUDE_SANDBOX_DEFAULTS ${defaults} \
      ${(callPackage ./host-path.nix { inherit hostPrograms; }).flags}
    ln -s ${engine}/share $out/share
  ''
