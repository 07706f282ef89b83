# `make up` puts a sandbox on this machine, `make test` runs everything that must pass. Both need python3-venv and nothing else
# to begin with.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin

# The settings of whoever runs this must not decide what happens: no ANSIBLE_* but our own, and the configuration by name,
# since Ansible ignores an ansible.cfg that lies in a world-writable folder.
$(foreach v,$(filter ANSIBLE_%,$(.VARIABLES)),$(eval unexport $(v)))
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

# --- Environment ----------------------------------------------------------------------------------------------------------

# .venv remembers, by a copy, the locks that it was made from: comparing them needs no trust in modification times. What is
# locked to test holds what is locked to run.
# $(1) is a list in requirements/ without its ending.
define install
	@if ! $(BIN)/python -c '' 2>/dev/null; then
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
			echo "$$($(PYTHON) -V) is too old: 3.11 or later is needed. Another one is chosen by 'make PYTHON=python3.12 …'." >&2; exit 1; }
		$(PYTHON) -c 'import ensurepip' 2>/dev/null || {
			echo "Python cannot make an environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
		rm -rf .venv && $(PYTHON) -m venv .venv
	fi
	cmp -s requirements/$(1).txt .venv/$(1).txt || {
		total=$$(grep -c '^[a-z0-9]' requirements/$(1).txt)
		echo "Installing requirements/$(1).txt into .venv: at most $$total packages …"
		$(BIN)/pip install --no-input --progress-bar off --require-hashes -r requirements/$(1).txt |
			awk -v total=$$total '/^Collecting/ { sub(/==.*/, "", $$2); printf "  %3d/%d %s\n", ++n, total, $$2; fflush() } /^Installing/ { print "  unpacking …"; fflush() }'
		cp $(foreach list,$(sort runtime $(1)),requirements/$(list).txt) .venv; }
endef

.PHONY: env
env: ## .venv with what is needed to run (a no-op when up to date)
	$(call install,runtime)

.PHONY: env-dev
env-dev: ## .venv with what is needed to test, too
	$(call install,dev)

.PHONY: lock
lock: env-dev ## Renew requirements/*.txt (docs/dependencies.md)
	@for list in runtime manager dev; do
		UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal --generate-hashes \
			--no-emit-index-url --no-emit-find-links --python-version 3.11 $(LOCKFLAGS) requirements/$$list.in --output-file requirements/$$list.txt
	done

# --- Use ------------------------------------------------------------------------------------------------------------------

.PHONY: up
up: env ## A sandbox on this machine, ready to attach to
	@ask=
	if [ "$$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then ask=--ask-become-pass; fi
	$(BIN)/ansible-playbook $$ask playbooks/quickstart.yml

# Where the guest of the backend vm is put; it is made again only when what it is made from has changed.
GUEST_DIR ?= /usr/local/lib/claude-sandbox/guest

.PHONY: guest
guest: ## Kernel and initial file system for the backend vm, in GUEST_DIR
	@$(PYTHON) roles/sandbox/files/guest/build.py "$(GUEST_DIR)"

# A tree for `toolchain: rootfs`, as root.
ROOTFS_DIR ?= /usr/local/lib/claude-sandbox/rootfs

.PHONY: rootfs
rootfs: ## Programs for sandboxes that shall not see the host's own, in ROOTFS_DIR
	@$(PYTHON) roles/sandbox/files/rootfs/build.py "$(ROOTFS_DIR)"

# What the manager's pages load, as locked; a copy of the lock among it says what it was made from. npm works in .cache.
STATIC := manager_app/static/vendor

.PHONY: static
static: ## The libraries of the manager's pages (a no-op when up to date)
	@if cmp -s manager_app/package-lock.json $(STATIC)/package-lock.json; then exit 0; fi
	command -v npm >/dev/null || { echo "npm is needed. On Debian and Ubuntu: apt-get install npm" >&2; exit 1; }
	mkdir -p .cache/static
	cp manager_app/{package.json,package-lock.json,.npmrc} .cache/static
	(cd .cache/static && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
	rm -rf $(STATIC)
	mkdir -p $(STATIC)
	while read -r package file name; do cp ".cache/static/node_modules/$$package/$$file" "$(STATIC)/$$name"; done <manager_app/vendor.txt
	# Last, so that what was broken off begins anew.
	cp manager_app/package-lock.json $(STATIC)

# For whoever types it; with PREFIX=/usr/local, as root, for all. The commands have an environment of their own there.
PREFIX ?= $(HOME)/.local
COMMANDS := claude-remote claude-sandbox claude-sandbox-container claude-sandbox-manager claude-sandbox-vm

.PHONY: install
install: static ## claude-sandbox, claude-remote and claude-sandbox-manager, in PREFIX (~/.local)
	@lib="$(PREFIX)/lib/claude-sandbox"
	mkdir -p .cache "$$lib" "$(PREFIX)"/bin "$(PREFIX)"/share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	$(PYTHON) -m venv --clear "$$lib"
	# The locked versions, without their hashes: pip wants one of everything then, and a folder has none.
	sed -E '/^ +--hash/d; s/ \\$$//' requirements/dev.txt >.cache/constraints.txt
	"$$lib/bin/pip" install --quiet --no-input -c .cache/constraints.txt '.[manager]' shtab argparse-manpage
	"$$lib/bin/python" cli/generate.py .cache/generated
	"$$lib/bin/pip" uninstall --quiet --yes shtab argparse-manpage
	for name in $(COMMANDS); do ln -sf "$$lib/bin/$$name" "$(PREFIX)/bin/$$name"; done
	cp .cache/generated/man/*.1 "$(PREFIX)/share/man/man1"
	cp .cache/generated/completions/claude-sandbox.bash "$(PREFIX)/share/bash-completion/completions/claude-sandbox"
	cp .cache/generated/completions/claude-sandbox.zsh "$(PREFIX)/share/zsh/site-functions/_claude-sandbox"
	cp .cache/generated/completions/claude-sandbox.fish "$(PREFIX)/share/fish/vendor_completions.d/claude-sandbox.fish"
	echo "claude-sandbox is in $(PREFIX)/bin."
	case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "That is not in your PATH: add it." ;; esac

.PHONY: uninstall
uninstall: ## Remove what `make install` has put into PREFIX
	@rm -rf "$(PREFIX)/lib/claude-sandbox" "$(PREFIX)"/share/man/man1/claude-sandbox*.1
	rm -f $(foreach name,$(COMMANDS),"$(PREFIX)/bin/$(name)") "$(PREFIX)/share/bash-completion/completions/claude-sandbox" \
		"$(PREFIX)/share/zsh/site-functions/_claude-sandbox" "$(PREFIX)/share/fish/vendor_completions.d/claude-sandbox.fish"

.PHONY: manager
manager: env static ## The dashboard and the API, at 127.0.0.1:3000
	@export PYTHONPATH=$(CURDIR):$(CURDIR)/plugins/module_utils
	exec $(BIN)/python -m manager_app

.PHONY: wheel
wheel: env ## The manager's wheel, with what its pages load, in .cache/wheel (a no-op when up to date)
	@$(BIN)/python roles/manager/files/release.py

# What is published: roles may use only what lies in the collection, so the wheel is put into it, and the lock of what it needs.
.PHONY: release
release: env ## The collection as a tarball for ansible-galaxy, in dist/
	@copy=$$(tests/copy-collection release)
	$(BIN)/python roles/manager/files/release.py --into "$$copy/roles/manager/files"
	cd "$$copy"
	$(BIN)/ansible-galaxy collection build --force --output-path "$(CURDIR)/dist"

# Hosts for playbooks to be tried on, as root.
N ?= 3

.PHONY: hosts-up
hosts-up: env-dev ## N Debian hosts with an inventory: see tests/hosts
	@$(BIN)/python -m tests.hosts up --count $(N)

.PHONY: hosts-down
hosts-down: env-dev ## End them
	@$(BIN)/python -m tests.hosts down

# --- Tests ----------------------------------------------------------------------------------------------------------------

PARTS := lint unit sanity docs-lint ansible-lint changelog-lint integration nix fleet molecule commands web e2e
# Our own scripts, by their first line.
SCRIPTS = $$(git grep --untracked -lE '^\#!(/usr/bin/env |/usr/bin/|/bin/)(ba)?sh' -- ':!*.py')

.PHONY: test
test: test-deps test-guest $(PARTS) ## Everything that must pass, in parts that can be asked for by name

.PHONY: $(PARTS)
$(PARTS): env-dev
# What each part begins with. A heading, and at the end the time, whether it went well or not; a result for .ci/run where pytest
# writes none. A home of its own and nothing of the user's environment: no setting or key gets in, nothing is left behind.
define begin
	@printf '\n=== $@\n'
	result=$(CURDIR)/.cache/results/$@
	export HOME=$(CURDIR)/.cache/home PATH=$(BIN):$$PATH LC_ALL=C.UTF-8
	unset $${!XDG_*} $${!TMUX*} $${!GIT_*} $${!PYTHON*} $${!PYTEST_*} $${!ANTHROPIC_*} $${!CLAUDE*} $${!MAKE*} MFLAGS DISPLAY WAYLAND_DISPLAY
	mkdir -p "$$HOME" "$${result%/*}"
	rm -f "$$result".*
	since=$$EPOCHREALTIME
	end() {
		if [ "$$1" = 0 ]; then word=ok; else word=FAILED; fi
		[ -e "$$result.xml" ] || touch "$$result.$${word,,}"
		awk -v a="$$since" -v b="$$EPOCHREALTIME" -v word="$$word" 'BEGIN { printf "=== $@ %s in %.1f s\n", word, b - a }'
	}
	trap 'end $$?' EXIT
endef

lint: ## ruff, mypy, shellcheck, yamllint
	$(begin)
	ruff check .
	ruff format --check .
	mypy --exclude 'tests/(launcher|manager|remote)' -p ansible_collections.claude_code.nix_sandbox.plugins -p tests -p bench
	# Here the engine has the name that it has in the wheel.
	MYPYPATH=plugins/module_utils:cli mypy --cache-dir .cache/mypy-wheel -p claude_launcher -p claude_remote -p manager_app -p tests.launcher -p tests.manager -p tests.remote
	shellcheck $(SCRIPTS)
	yamllint --strict .

unit: ## Unit tests
	$(begin)
	pytest tests/unit --junitxml=.cache/results/unit.xml

sanity: ## ansible-test sanity, on a copy
	$(begin)
	tests/sanity-run

docs-lint: ## The modules' documentation
	$(begin)
	cd "$$(tests/copy-collection docs-lint)"
	antsibull-docs lint-collection-docs --plugin-docs .

ansible-lint: ## Roles and playbooks, production profile
	$(begin)
	ansible-lint --strict

changelog-lint: ## The changelog's fragments
	$(begin)
	antsibull-changelog lint

integration: ## The modules through Ansible
	$(begin)
	pytest -n 2 tests/integration --junitxml=.cache/results/integration.xml

nix: ## The flake, by a real Nix with stand-ins for its inputs
	$(begin)
	pytest tests/nix --junitxml=.cache/results/nix.xml

.PHONY: test-nix
test-nix: env-dev ## Evaluate the flake with NIXPKGS=FOLDER, and its agent's flake with CLAUDE_CODE=FOLDER
	$(BIN)/python -m tests.nix.real "$(NIXPKGS)" $(if $(CLAUDE_CODE),--claude-code "$(CLAUDE_CODE)")

# A file's tests share hosts, which take longer to make ready than the tests.
fleet: ## Roles, playbooks and plugins on booted hosts, over SSH
	$(begin)
	pytest -n 2 --dist loadfile tests/hosts tests/fleet --junitxml=.cache/results/fleet.xml

SCENARIOS = $(notdir $(patsubst %/molecule.yml,%,$(wildcard extensions/molecule/*/molecule.yml)))
molecule: ## The roles' scenarios, each from bare hosts to their end
	$(begin)
	failed=
	for scenario in $(SCENARIOS); do molecule test -s "$$scenario" || failed+=" $$scenario"; done
	[ -z "$$failed" ] || { echo "These failed:$$failed" >&2; exit 1; }

# What a sandbox needs comes by the role that brings it to every host.
define with_claude
	command -v claude >/dev/null || ansible localhost -c local -m ansible.builtin.include_role -a name=claude_code.nix_sandbox.sandbox
endef

commands: ## claude-sandbox and claude-remote, through a terminal
	$(begin)
	$(with_claude)
	pytest tests/launcher tests/remote --junitxml=.cache/results/commands.xml

web: static ## The manager: its parts, its API, its pages in a browser
	$(begin)
	$(with_claude)
	pytest tests/manager --junitxml=.cache/results/web.xml

e2e: ## Claude Code and Chromium in a real sandbox
	$(begin)
	$(with_claude)
	pytest tests/e2e --junitxml=.cache/results/e2e.xml

.PHONY: bench
bench: env-dev ## One line a figure: NAME RATIO <= LIMIT ok
	$(begin)
	PYTHONPATH=.collections python -m bench

# What the tests start that pip cannot give: command → package.
DEPS := bwrap:bubblewrap systemd-nspawn:systemd-container sudo:sudo qemu-system-x86_64:qemu-system-x86 qemu-ga:qemu-guest-agent \
	Xorg:xserver-xorg-core debootstrap:debootstrap tmux:tmux Xvfb:xvfb xauth:xauth chromium:chromium ip:iproute2 nsenter:util-linux socat:socat strace:strace \
	sshd:openssh-server ssh:openssh-client curl:curl rsync:rsync unison:unison shellcheck:shellcheck git:git npm:npm node:nodejs setpriv:util-linux ssh-keygen:openssh-client \
	busybox:busybox-static

# What the tests' virtual machines start from; only root makes and tests them.
.PHONY: test-guest
test-guest: test-deps
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory guest || { apt-get update -qq && $(MAKE) --no-print-directory guest; }; fi

.PHONY: test-deps
test-deps: ## Install by apt what the tests need and this machine lacks
	@missing=()
	for dep in $(DEPS); do command -v "$${dep%%:*}" >/dev/null || missing+=("$${dep##*:}"); done
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi
	echo "Missing: $${missing[*]}"
	as_root=(env DEBIAN_FRONTEND=noninteractive)
	if [ "$$(id -u)" != 0 ]; then as_root=(sudo "$${as_root[@]}"); fi
	command -v "$$as_root" >/dev/null || { echo "Neither root nor sudo is there to install them." >&2; exit 1; }
	"$${as_root[@]}" apt-get update -qq
	"$${as_root[@]}" apt-get install -y --no-install-recommends "$${missing[@]}"

.PHONY: clean
clean: ## Remove what can be made again
	rm -rf .venv .cache .ansible build dist $(STATIC) plugins/module_utils/*.egg-info claude_code-nix_sandbox-*.tar.gz
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
