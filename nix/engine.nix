# The wheel of this repository: the engine and all commands, as everywhere else. It needs Python alone; what the manager needs
# beside it is in ./manager.nix.
{
  lib,
  buildPythonPackage,
  setuptools,
  shtab,
  argparse-manpage,
  installShellFiles,
}:
let
  inherit (lib) fileset;
  root = ../.;
in
buildPythonPackage {
  pname = "claude-sandbox";
  inherit ((lib.importTOML ../pyproject.toml).project) version;
  pyproject = true;

  # Nothing else: a changed page of documentation makes no new package.
  src = fileset.toSource {
    inherit root;
    fileset = fileset.unions [
      ../pyproject.toml
      ../README.md
      ../LICENSE
      ../cli
      ../plugins/module_utils/claude_sandbox
      (fileset.difference ../manager_app (fileset.maybeMissing ../manager_app/static/vendor))
    ];
  };

  build-system = [ setuptools ];
  nativeBuildInputs = [
    shtab
    argparse-manpage
    installShellFiles
  ];
  # The tests want root, Claude Code and hosts to boot.
  doCheck = false;
  pythonImportsCheck = [
    "claude_launcher"
    "claude_remote"
    "claude_sandbox"
  ];

  postInstall = ''
    python cli/generate.py generated
    installManPage generated/man/*.1
    installShellCompletion --cmd claude-sandbox \
      --bash generated/completions/claude-sandbox.bash \
      --zsh generated/completions/claude-sandbox.zsh \
      --fish generated/completions/claude-sandbox.fish
  '';

  meta = {
    description = "Makes, observes, changes and removes sandboxes in which Claude Code works";
    license = lib.licenses.gpl3Plus;
    platforms = lib.platforms.linux;
  };
}
