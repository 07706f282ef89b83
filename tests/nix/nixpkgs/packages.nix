{ lib, system }:
let
  busybox = "${./machine/bin}/busybox";
  # A userland of one program with many names.
  userland = derivation {
    name = "userland-1";
    inherit system;
    builder = busybox;
    args = [
      "sh"
      "-euc"
      ''
        ${busybox} mkdir -p $out/bin
        for name in $(${busybox} --list); do ${busybox} ln -s ${busybox} $out/bin/$name; done
      ''
    ];
  };

  runCommand =
    name: given: script:
    let
      inputs = map toString (given.nativeBuildInputs or [ ]);
      variables = removeAttrs given [
        "meta"
        "nativeBuildInputs"
        "passthru"
      ];
    in
    derivation (
      variables
      // {
        inherit name system;
        builder = "${userland}/bin/sh";
        PATH = lib.concatStringsSep ":" (map (each: "${each}/bin") (inputs ++ [ userland ]));
        shell = "${userland}/bin/sh";
        args = [
          "-euc"
          ''
            . ${./build.sh}
            ${script}
          ''
        ];
      }
    )
    // (given.passthru or { })
    // {
      meta = given.meta or { };
    };

  # A program of this machine, with all that it loads; ./machine has it where it can run.
  carried =
    name: program: more:
    let
      folder = ./machine + "/${program}";
    in
    runCommand name { meta.mainProgram = program; } (
      if builtins.pathExists folder then
        ''
          mkdir -p $out/bin
          {
            echo "#!$shell"
            echo 'exec ${folder}/lib/loader --argv0 "$0" --library-path ${folder}/lib ${folder}/${program} "$@"'
          } > $out/bin/${program}
          chmod +x $out/bin/${program}
          ${more}
        ''
      else
        "mkdir -p $out/bin"
    );

  # A program that says its name.
  stub =
    name:
    runCommand "${name}-1" { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      printf '%s\n' "#!$shell" 'echo ${name} "$@"' > $out/bin/${name}
      chmod +x $out/bin/${name}
    '';
  folder = name: script: runCommand "${name}-1" { } "mkdir -p $out\n${script}";

  python = import ./python {
    inherit
      lib
      runCommand
      stub
      userland
      ;
    callPackageWith = lib.callPackageWith;
    buildEnv = pkgs.buildEnv;
    pkgs = pkgs;
  };

  pkgs =
    lib.genAttrs [
      "binutils"
      "bun"
      "bzip2"
      "chromium"
      "cmake"
      "curl"
      "diffutils"
      "dnsutils"
      "fd"
      "file"
      "findutils"
      "gawk"
      "gcc"
      "gh"
      "git"
      "glibcLocales"
      "gnugrep"
      "gnumake"
      "gnused"
      "gnutar"
      "gzip"
      "hostname"
      "icu"
      "imagemagick"
      "iproute2"
      "jq"
      "less"
      "libxcrypt"
      "man-db"
      "nano"
      "ncurses"
      "nix"
      "nixfmt"
      "nixfmt-tree"
      "nodejs"
      "openssh"
      "openssl"
      "patch"
      "pkg-config"
      "procps"
      "psmisc"
      "ripgrep"
      "rsync"
      "shellcheck"
      "sqlite"
      "systemd"
      "tree"
      "unison"
      "unzip"
      "util-linux"
      "vim"
      "wget"
      "which"
      "xauth"
      "xdg-utils"
      "xdotool"
      "xorg-server"
      "xz"
      "zip"
      "zlib"
      "zstd"
    ] stub
    // {
      inherit lib pkgs runCommand;
      callPackage = lib.callPackageWith pkgs;
      config.allowUnfree = true;

      bubblewrap = carried "bubblewrap-0.11.0" "bwrap" "";
      bashInteractive = carried "bash-interactive-5" "bash" "ln -s bash $out/bin/sh";
      tmux = carried "tmux-3" "tmux" "";
      coreutils = userland;
      busybox = userland;
      pkgsStatic.busybox = userland;

      cacert = folder "cacert" "mkdir -p $out/etc/ssl/certs; echo none > $out/etc/ssl/certs/ca-bundle.crt";
      dejavu_fonts = folder "dejavu-fonts" "";
      noto-fonts = folder "noto-fonts" "";
      noto-fonts-cjk-sans = folder "noto-fonts-cjk-sans" "";
      noto-fonts-color-emoji = folder "noto-fonts-color-emoji" "";
      fontconfig = folder "fontconfig" "mkdir -p $out/etc/fonts/conf.d" // {
        out = folder "fontconfig" "mkdir -p $out/etc/fonts/conf.d";
      };
      makeFontsConf = { fontDirectories }: folder "fonts.conf" "";
      iana-etc = folder "iana-etc" "mkdir $out/etc; touch $out/etc/protocols $out/etc/services";
      nix-ld = folder "nix-ld" "mkdir $out/libexec; touch $out/libexec/nix-ld";
      linux = folder "linux" "touch $out/bzImage" // {
        version = "7.0";
      };
      qemu_kvm = stub "qemu-system-x86_64" // {
        ga = stub "qemu-ga";
      };

      stdenv = {
        cc = {
          cc = folder "gcc-lib" "";
          bintools.dynamicLinker = "${folder "glibc" ""}/lib/ld-linux-x86-64.so.2";
        };
        hostPlatform = {
          inherit system;
          isx86_64 = system == "x86_64-linux";
          isAarch64 = system == "aarch64-linux";
          libDir = if system == "x86_64-linux" then "lib64" else "lib";
        };
      };
      stdenvNoCC.mkDerivation =
        given: runCommand given.name { inherit (given) src; } "cd $src\n${given.installPhase}";

      # ./build.sh has it for all.
      makeWrapper = userland;
      installShellFiles = userland;

      writers.writeJSON = name: value: pkgs.writeText name (builtins.toJSON value);
      writeTextFile =
        {
          name,
          text,
          executable ? false,
          destination ? "",
        }:
        runCommand name { inherit text; } ''
          mkdir -p $(dirname $out${destination})
          printf %s "$text" > $out${destination}
          ${lib.optionalString executable "chmod +x $out${destination}"}
        '';
      writeText = name: text: pkgs.writeTextFile { inherit name text; };
      buildEnv =
        {
          name,
          paths,
          pathsToLink ? [
            "/bin"
            "/share"
          ],
          ignoreCollisions ? true,
        }:
        runCommand name { } ''
          mkdir -p $out
          for each in ${
            toString (builtins.sort (one: other: one.meta.priority or 5 < other.meta.priority or 5) paths)
          }; do
            for folder in ${toString pathsToLink}; do
              [ ! -d $each$folder ] || link $each$folder $out$folder
            done
          done
        '';
      mkShell = given: runCommand "shell" { inputs = map toString given.packages; } "touch $out";
      fetchurl = { url, hash }: runCommand (builtins.baseNameOf url) { inherit hash; } "touch $out";

      inherit (python) python3 python3Packages;
    };
in
pkgs
