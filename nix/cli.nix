# claude-remote: with ssh, and what brings directories to a server; nothing of a sandbox.
{
  lib,
  runCommand,
  makeWrapper,
  openssh,
  rsync,
  unison,
  engine,
}:
runCommand "claude-remote-${engine.version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    meta = engine.meta // {
      description = "Works with the sandboxes of a server, over SSH";
      mainProgram = "claude-remote";
    };
  }
  ''
    # The user's own go before, with what they are configured to do.
    makeWrapper ${engine}/bin/claude-remote $out/bin/claude-remote \
      --suffix PATH : ${
        lib.makeBinPath [
          openssh
          rsync
          unison
        ]
      }
  ''
