# The programs inside, whatever the backend; the agent is put beside them.
pkgs: [
  # A shell and what every script expects.
  pkgs.bashInteractive
  pkgs.coreutils
  pkgs.diffutils
  pkgs.file
  pkgs.findutils
  pkgs.gawk
  pkgs.gnugrep
  pkgs.gnused
  pkgs.hostname
  pkgs.less
  pkgs.man-db
  pkgs.ncurses
  pkgs.patch
  pkgs.procps
  pkgs.psmisc
  pkgs.tmux
  pkgs.util-linux
  pkgs.which

  # Archives.
  pkgs.bzip2
  pkgs.gnutar
  pkgs.gzip
  pkgs.unzip
  pkgs.xz
  pkgs.zip
  pkgs.zstd

  # Sources.
  pkgs.gh
  pkgs.git
  pkgs.openssh

  # Searching and changing text.
  pkgs.fd
  pkgs.jq
  pkgs.nano
  pkgs.ripgrep
  pkgs.tree
  pkgs.vim

  # The network.
  pkgs.curl
  pkgs.dnsutils
  pkgs.iproute2
  pkgs.rsync
  pkgs.wget

  # Languages, and building.
  pkgs.binutils
  pkgs.bun
  pkgs.cmake
  pkgs.gcc
  pkgs.gnumake
  pkgs.nix
  pkgs.nodejs
  pkgs.pkg-config
  (pkgs.python3.withPackages (packages: [ packages.pip ]))
  pkgs.sqlite

  # Looking at pages, and at the screen.
  pkgs.chromium
  pkgs.imagemagick
  pkgs.xdotool
  pkgs.xdg-utils
]
