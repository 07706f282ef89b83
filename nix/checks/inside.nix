# What the tests of all backends have in common: a host with a project and a page on its loopback, and what looks from inside.
{
  self,
  pkgs,
  lib,
}:
let
  # Where programs for other systems look for their loader.
  loader = lib.findFirst (lib.hasInfix "/ld-linux") null (
    lib.attrNames (pkgs.callPackage ../surroundings.nix { }).links
  );
  # As one that was built elsewhere: its loader and its libraries are not those of the store.
  foreign = pkgs.runCommand "foreign" { nativeBuildInputs = [ pkgs.patchelf ]; } ''
    install -m 0755 ${lib.getExe pkgs.hello} $out
    patchelf --set-interpreter ${loader} --remove-rpath $out
  '';

  look = pkgs.writeText "look" ''
    set -o errexit -o nounset -o xtrace
    # The project is the host's, and may be written.
    test "$(cat told)" = "by the host"
    echo "by the sandbox" > answer

    # Of the host nothing else is there.
    test ! -e /home/alice/secret
    test ! -e /etc/shadow
    test ! -e /run/current-system
    test ! -e /etc/claude-sandbox
    if touch /nix/store/made; then exit 1; fi

    # The programs, one that was built elsewhere, and the browser's policy.
    for program in bash bun chromium claude curl fd gh git jq nix node python3 rg rsync ssh tmux; do
      command -v $program
    done
    test "$(./foreign)" = "Hello, world!"
    jq --exit-status '.ExtensionInstallForcelist | any(startswith("fcoeoabgfenejglbffodgkkbkcdhcgfn"))' \
      /etc/chromium/policies/managed/*.json
  '';

  # Under which address a sandbox reaches the host's loopback is told as an argument.
  lookOnline = pkgs.writeText "look-online" ''
    set -o errexit -o nounset -o xtrace
    test "$(curl --silent --show-error --fail "http://$1:8000/page")" = "of the host"
  '';

  lookOffline = pkgs.writeText "look-offline" ''
    set -o errexit -o nounset -o xtrace
    test "$(ip -oneline link | wc -l)" = 1
    test -z "$(ip -oneline route)"
    if curl --silent --max-time 5 "http://$1:8000/page"; then exit 1; fi
  '';

  host = {
    users.users = lib.genAttrs [ "alice" "bob" ] (_: {
      isNormalUser = true;
    });
    virtualisation = {
      cores = 2;
      memorySize = 4096;
    };
    systemd.services.page = {
      wantedBy = [ "multi-user.target" ];
      script = ''
        echo "of the host" > page
        exec ${lib.getExe pkgs.python3} -m http.server --bind 127.0.0.1 8000
      '';
      serviceConfig = {
        DynamicUser = true;
        RuntimeDirectory = "page";
        WorkingDirectory = "/run/page";
      };
    };
  };
in
{
  # A host whose accounts may make sandboxes, with these settings of the module.
  machineWith = settings: {
    imports = [
      self.nixosModules.default
      host
    ];
    services.claude-sandbox = settings // {
      enable = true;
    };
  };

  # The beginning of a test's script.
  prelude = ''
    import shlex

    PROJECT = "/home/alice/shop"
    FILES = {
        "foreign": "${foreign}",
        "look": "${look}",
        "look-online": "${lookOnline}",
        "look-offline": "${lookOffline}",
    }


    def as_account(host: "BaseMachine", account: str, *words: str) -> str:
        """What a command says that an account runs, errors and all; the test ends where it fails."""
        return host.succeed(f"runuser --login {account} --command {shlex.quote(shlex.join(words))} < /dev/null 2>&1")


    def inside(host: "BaseMachine", account: str, command: str, *words: str) -> str:
        """What a shell with these words says in a sandbox on the project."""
        return as_account(host, account, command, "--shell", PROJECT, "--", *words)


    def prepare(host: "BaseMachine") -> None:
        """Wait for the host, and make a project of alice's, and beside it what is no project's."""
        host.wait_for_unit("multi-user.target")
        host.wait_for_open_port(8000)
        as_account(host, "alice", "mkdir", PROJECT)
        for name, source in FILES.items():
            as_account(host, "alice", "cp", source, f"{PROJECT}/{name}")
        host.succeed(f"echo by the host > {PROJECT}/told; echo of alice > /home/alice/secret")


    def looks_right(host: "BaseMachine", account: str, command: str) -> None:
        """Whether the inside is as it should be, and what was written there is the owner's on the host."""
        inside(host, account, command, "look")
        answer = host.succeed(f"cat {PROJECT}/answer; stat --format %U {PROJECT}/answer").splitlines()
        assert answer == ["by the sandbox", "alice"], answer
        host.succeed(f"rm {PROJECT}/answer")


  '';
}
