# The manager as a service, and a sandbox that it makes.
{
  self,
  pkgs,
  lib,
}:
let
  packages = self.packages.${pkgs.stdenv.hostPlatform.system};
in
pkgs.testers.runNixOSTest {
  name = "claude-sandbox-manager";
  globalTimeout = 1800;
  nodes.machine = {
    imports = [ self.nixosModules.manager ];
    services.claude-sandbox-manager = {
      enable = true;
      sandboxPackages = [ packages.default ];
      operators = [ "alice" ];
    };
    users.users.alice.isNormalUser = true;
    users.users.bob.isNormalUser = true;
    environment.systemPackages = [
      pkgs.curl
      pkgs.file
    ];
    systemd.tmpfiles.settings."10-project"."/srv/shop".d = {
      user = "claude-manager";
      mode = "0755";
    };
    virtualisation = {
      cores = 2;
      memorySize = 3072;
    };
  };
  testScript = ''
    import json
    import shlex

    UNIT = "claude-sandbox-manager.service"
    TOKEN = "/etc/claude-sandbox/manager-token"
    ATTACH = "/etc/claude-sandbox/attach"
    URL = "http://127.0.0.1:3000"


    def ask(path: str, *words: str, account: str = "alice") -> str:
        """What the manager answers an account that shows the token; the test ends where that is an error."""
        curl = shlex.join(["curl", "--silent", "--show-error", "--fail-with-body", *words, f"{URL}{path}"])
        command = f'{curl} --header "Authorization: Bearer $(cat {TOKEN})"'
        return machine.succeed(f"runuser --user {account} -- sh -c {shlex.quote(command)}")


    def status_of(path: str, *words: str) -> str:
        """The status that the manager answers with."""
        argv = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", *words, f"{URL}{path}"]
        return machine.succeed(shlex.join(argv)).strip()


    def inside(command: str) -> str:
        """What a command says in the sandbox."""
        argv = ["claude-sandbox", "exec", "--state-dir", "/var/lib/claude-manager", "shop", "--", "sh", "-c", command]
        return machine.succeed(f"cd / && runuser --user claude-manager -- {shlex.join(argv)} < /dev/null")


    machine.wait_for_unit(UNIT)

    with subtest("It answers, and demands a token"):
        machine.wait_until_succeeds(f"curl --fail --silent {URL}/healthz", timeout=60)
        assert status_of("/api/sandboxes") == "401"
        assert status_of("/api/sandboxes", "--header", "Authorization: Bearer 0123456789abcdef0123") == "401"
        assert json.loads(ask("/api/sandboxes")) == []

    with subtest("Operators read the token, and others do not"):
        machine.fail(f"runuser --user bob -- cat {TOKEN}")

    with subtest("It makes a sandbox"):
        asked = {"name": "shop", "backend": "bubblewrap", "project_dir": "/srv/shop", "agent": ["shell"]}
        body = ["--header", "Content-Type: application/json", "--data", json.dumps(asked)]
        made = json.loads(ask("/api/sandboxes", "--header", "Prefer: wait=60", *body))
        assert made["status"] == "running", made
        assert [each["name"] for each in json.loads(ask("/api/sandboxes"))] == ["shop"]

    with subtest("Its programs are those of the package, and its project can be written"):
        toolchain = machine.succeed("realpath /etc/claude-sandbox/toolchains/bubblewrap/bin").strip()
        assert inside("command -v claude").startswith(toolchain)
        inside("echo by the sandbox > /srv/shop/answer && test ! -e /var/lib/claude-sandbox && test ! -e /etc/shadow")
        assert machine.succeed("stat --format %U /srv/shop/answer").strip() == "claude-manager"

    with subtest("It shows its screen"):
        ask("/api/sandboxes/shop/screenshot", "--output", "/tmp/screen.png")
        machine.succeed("file --brief --mime-type /tmp/screen.png | grep --fixed-strings image/png")

    with subtest("Operators attach, by sudo and a name, and others do not"):
        machine.succeed(f"runuser --user alice -- sudo -n -l -u claude-manager {ATTACH} shop")
        refused = machine.fail(f"runuser --user alice -- sudo -n -u claude-manager {ATTACH} other 2>&1")
        assert "attach: " in refused and "other" in refused, refused
        machine.fail("runuser --user alice -- sudo -n -u claude-manager id")
        machine.fail(f"runuser --user bob -- sudo -n -l -u claude-manager {ATTACH} shop")

    with subtest("A restart of the manager leaves it running"):
        sandbox = machine.succeed("pgrep --exact --uid claude-manager bwrap")
        for pid in sandbox.split():
            machine.succeed(f"grep --fixed-strings .scope /proc/{pid}/cgroup")
        before = machine.get_unit_property(UNIT, "MainPID")
        machine.succeed(f"systemctl restart {UNIT}")
        machine.wait_for_unit(UNIT)
        assert machine.get_unit_property(UNIT, "MainPID") != before
        machine.wait_until_succeeds(f"curl --fail --silent {URL}/healthz", timeout=60)
        assert machine.succeed("pgrep --exact --uid claude-manager bwrap") == sandbox
        assert json.loads(ask("/api/sandboxes/shop"))["status"] == "running"

    with subtest("It removes the sandbox, and leaves the project"):
        ask("/api/sandboxes/shop", "--request", "DELETE", "--header", "Prefer: wait=60")
        assert json.loads(ask("/api/sandboxes")) == []
        machine.fail("pgrep --exact --uid claude-manager bwrap")
        machine.succeed("test -e /srv/shop/answer")

    with subtest("The token stays the same, also when the manager starts again"):
        token = machine.succeed(f"cat {TOKEN}")
        machine.succeed(f"systemctl restart {UNIT}")
        machine.wait_for_unit(UNIT)
        assert machine.succeed(f"cat {TOKEN}") == token
  '';
}
