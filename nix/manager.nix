# The manager, with all that it starts on the host, and without the agent: that comes with the packages of backends.
{
  lib,
  callPackage,
  runCommand,
  makeWrapper,
  fetchurl,
  python3,
  qemu_kvm,
}:
let
  python = python3.override {
    packageOverrides = final: previous: {
      flask-smorest = final.callPackage ./python/flask-smorest.nix { };
      # The release that the manager is tested with; nixpkgs has an older one.
      gunicorn = previous.gunicorn.overridePythonAttrs (_: rec {
        version = "27.0.1";
        src = final.fetchPypi {
          pname = "gunicorn";
          inherit version;
          hash = "sha256-sVFJZTYci36BB6gKoqkmNoeN8cz6xt0gSmdkJuBNnj4=";
        };
        doCheck = false;
      });
    };
  };
  engine = python.pkgs.callPackage ./engine.nix { };

  # The extra `manager` of pyproject.toml, by its names there.
  required = map (
    line: builtins.head (builtins.match "([A-Za-z0-9-]+).*" line)
  ) (lib.importTOML ../pyproject.toml).project.optional-dependencies.manager;
  pythonEnv = python.withPackages (
    packages: [ engine ] ++ map (name: lib.getAttr name packages) required
  );

  # What pages load from npm: each file as locked, and nothing of npm itself.
  locked = (lib.importJSON ../manager_app/package-lock.json).packages;
  fetched =
    name:
    let
      inherit (locked."node_modules/${name}") version integrity;
    in
    fetchurl {
      url = "https://registry.npmjs.org/${name}/-/${baseNameOf name}-${version}.tgz";
      hash = integrity;
    };
  files = map (line: lib.splitString " " line) (
    lib.filter (line: line != "") (lib.splitString "\n" (lib.readFile ../manager_app/vendor.txt))
  );
  static = runCommand "claude-sandbox-manager-static" { } (
    "mkdir $out\n"
    + lib.concatMapStrings (words: ''
      tar -xzOf ${fetched (lib.head words)} package/${lib.elemAt words 1} > $out/${lib.elemAt words 2}
    '') files
  );
in
runCommand "claude-sandbox-manager-${engine.version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    passthru = { inherit pythonEnv; };
    meta = engine.meta // {
      description = "A dashboard and a REST API over the sandboxes of a host";
      mainProgram = "claude-sandbox-manager";
    };
  }
  ''
    makeWrapper ${pythonEnv}/bin/claude-sandbox-manager $out/bin/claude-sandbox-manager \
      --set-default MANAGER_STATIC_DIR ${static} \
      ${(callPackage ./host-path.nix { hostPrograms = [ qemu_kvm ]; }).flags}
    # By sudo alone. -I: neither the variables nor the folder of whoever runs it decide what is imported.
    mkdir -p $out/libexec/claude-sandbox
    printf '%s\n' '#!${pythonEnv}/bin/python3 -I' 'from claude_sandbox.helper import main' 'main()' \
      > $out/libexec/claude-sandbox/helper
    chmod 0555 $out/libexec/claude-sandbox/helper
  ''
