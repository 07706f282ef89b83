# A command of the engine with the programs that it starts on the host, and with those that its sandboxes have inside.
{
  lib,
  runCommand,
  makeWrapper,
  writers,
  bubblewrap,
  systemd,
  tmux,
  util-linux,
  xauth,
  xorg-server,
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
  # The host's own systemd, which runs, goes before another.
  path = lib.makeBinPath (
    [
      bubblewrap
      tmux
      util-linux
      xauth
      xorg-server
    ]
    ++ hostPrograms
  );
in
runCommand "${command}-${engine.version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    passthru = {
      inherit
        backend
        engine
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
      --prefix PATH : ${path} \
      --suffix PATH : ${lib.makeBinPath [ systemd ]}
    ln -s ${engine}/share $out/share
  ''
