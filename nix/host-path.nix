# What the engine starts on the host, as flags for makeWrapper.
{
  lib,
  bubblewrap,
  systemd,
  tmux,
  util-linux,
  xauth,
  xorg-server,
  hostPrograms ? [ ],
}:
let
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
{
  # The host's own systemd, which runs, goes before another.
  flags = "--prefix PATH : ${path} --suffix PATH : ${lib.makeBinPath [ systemd ]}";
}
