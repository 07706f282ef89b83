# What programs expect around them, beside their own folder: links, certificates, fonts, policies, the loader for programs that were
# built elsewhere. For all backends.
{
  lib,
  stdenv,
  runCommand,
  bashInteractive,
  cacert,
  coreutils,
  curl,
  dejavu_fonts,
  fontconfig,
  glibcLocales,
  iana-etc,
  icu,
  libxcrypt,
  makeFontsConf,
  ncurses,
  nix-ld,
  noto-fonts,
  noto-fonts-cjk-sans,
  noto-fonts-color-emoji,
  openssl,
  zlib,
  zstd,
}:
let
  folder =
    name: files:
    runCommand "etc-${name}" { } (
      "mkdir -p $out\n"
      + lib.concatStrings (
        lib.mapAttrsToList (path: source: ''
          mkdir -p "$out/$(dirname ${path})"
          ln -s ${source} $out/${path}
        '') files
      )
    );
  bundle = "${cacert}/etc/ssl/certs/ca-bundle.crt";
  loader = stdenv.cc.bintools.dynamicLinker;
  # Where programs for other systems look for their loader: /lib64/ld-linux-x86-64.so.2, /lib/ld-linux-aarch64.so.1.
  loaderPath =
    "/${stdenv.hostPlatform.libDir or "lib"}/"
    + builtins.unsafeDiscardStringContext (baseNameOf loader);
in
{
  shell = "${bashInteractive}/bin/bash";

  links = {
    "/bin/sh" = "${bashInteractive}/bin/sh";
    "/bin/bash" = "${bashInteractive}/bin/bash";
    "/usr/bin/env" = "${coreutils}/bin/env";
    ${loaderPath} = "${nix-ld}/libexec/nix-ld";
  };

  etc = {
    # Both names under which programs look for it.
    ssl = folder "ssl" {
      "certs/ca-bundle.crt" = bundle;
      "certs/ca-certificates.crt" = bundle;
    };
    fonts = folder "fonts" {
      "fonts.conf" = makeFontsConf {
        fontDirectories = [
          dejavu_fonts
          noto-fonts
          noto-fonts-cjk-sans
          noto-fonts-color-emoji
        ];
      };
      "conf.d" = "${fontconfig.out}/etc/fonts/conf.d";
    };
    chromium = folder "chromium" {
      "policies/managed/claude-sandbox.json" = ./chromium-policy.json;
    };
    nix = folder "nix" {
      "nix.conf" = builtins.toFile "nix.conf" "experimental-features = nix-command flakes\n";
    };
    protocols = "${iana-etc}/etc/protocols";
    services = "${iana-etc}/etc/services";
  };

  environment = {
    # Chromium would start one for itself. Whoever grants D-Bus gives another address.
    DBUS_SESSION_BUS_ADDRESS = "disabled:";
    LOCALE_ARCHIVE = "${glibcLocales}/lib/locale/locale-archive";
    NIX_LD = loader;
    NIX_LD_LIBRARY_PATH = lib.makeLibraryPath [
      curl
      icu
      libxcrypt
      ncurses
      openssl
      stdenv.cc.cc
      zlib
      zstd
    ];
    NIX_SSL_CERT_FILE = "/etc/ssl/certs/ca-bundle.crt";
    SSL_CERT_FILE = "/etc/ssl/certs/ca-bundle.crt";
    TERMINFO_DIRS = "${ncurses}/share/terminfo";
  };
}
