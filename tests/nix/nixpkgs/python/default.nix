# Python of this machine, and packages for it: those that are built are laid out as their pyproject.toml says.
{
  lib,
  runCommand,
  stub,
  userland,
  callPackageWith,
  buildEnv,
  pkgs,
}:
let
  folder = ../machine/python;
  libraries = "lib/python3.11/site-packages";
  interpreter = runCommand "python3-3.11" { meta.mainProgram = "python3"; } ''
    mkdir -p $out/bin
    {
      echo "#!$shell"
      echo 'exec ${folder}/lib/loader --argv0 ${folder}/bin/python3 --library-path ${folder}/lib ${folder}/bin/python3 "$@"'
    } > $out/bin/python3
    chmod +x $out/bin/python3
    ln -s python3 $out/bin/python
  '';

  buildPythonPackage =
    given:
    let
      inputs = given.nativeBuildInputs or [ ];
    in
    runCommand "python3.11-${given.pname}-${given.version}"
      {
        inherit (given) src;
        nativeBuildInputs = inputs ++ [ interpreter ];
        PYTHONPATH = lib.concatMapStringsSep ":" (each: "${each}/${libraries}") inputs;
        PYTHONDONTWRITEBYTECODE = "1";
        meta = given.meta or { };
        passthru = {
          inherit (given) pname version;
          overridePythonAttrs = f: buildPythonPackage (given // f given);
        };
      }
      ''
        mkdir source
        cp -r $src/. source
        chmod -R u+w source
        cd source
        python3 ${./install.py} $out ${interpreter}/bin/python3
        ${given.postInstall or ""}
        for name in ${toString (given.pythonImportsCheck or [ ])}; do
          PYTHONPATH=$out/${libraries} python3 -c "import $name"
        done
      '';

  module =
    name:
    runCommand "python3.11-${name}" { } ''
      mkdir -p $out/${libraries}
      cp -r ${folder}/modules/${name} $out/${libraries}
    '';
  plain = name: stub name // { overridePythonAttrs = f: stub "${name}-${(f { }).version or "1"}"; };

  packagesOf =
    overrides:
    let
      first =
        lib.genAttrs [
          "apispec"
          "flask"
          "flask-sock"
          "flit-core"
          "gunicorn"
          "marshmallow"
          "pillow"
          "pip"
          "prometheus-client"
          "psutil"
          "python-json-logger"
          "setuptools"
          "webargs"
          "werkzeug"
          "xxhash"
        ] plain
        // {
          inherit buildPythonPackage;
          buildPythonApplication = buildPythonPackage;
          shtab = module "shtab";
          argparse-manpage = runCommand "python3.11-argparse-manpage" { } ''
            mkdir -p $out/${libraries}
            cp -r ${folder}/modules/argparse_manpage ${folder}/modules/build_manpages $out/${libraries}
          '';
          fetchPypi =
            given: runCommand "${given.pname}-${given.version}.tar.gz" { inherit (given) hash; } "touch $out";
          callPackage = callPackageWith (pkgs // final);
        };
      final = first // overrides final first;
    in
    final;

  pythonOf =
    overrides:
    let
      packages = packagesOf overrides;
    in
    interpreter
    // {
      pkgs = packages;
      override = { packageOverrides }: pythonOf packageOverrides;
      withPackages =
        f:
        buildEnv {
          name = "python3-3.11-env";
          paths = [ interpreter ] ++ f packages;
          pathsToLink = [
            "/bin"
            "/lib"
          ];
        };
    };
  python3 = pythonOf (_: _: { });
in
{
  inherit python3;
  python3Packages = python3.pkgs;
}
