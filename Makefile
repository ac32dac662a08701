# `make` alone lists the targets. Works from a fresh clone on Debian 12 and 13 with git and make.

MAKEFLAGS += --no-print-directory
PYTHON := .venv/bin/python
REPORTS := build/reports
TOOLS := packaging/install-tools
PYTEST := $(PYTHON) -m pytest
# Gateways booted at a time by the system tests; they wait more than they compute.
GATEWAYS ?= 3

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@sed -n -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: setup
setup: ## install with apt what the other targets need (as root; they do it by themselves when run as root)
	@$(TOOLS) build check test

.venv/.stamp: packaging/requirements-dev.txt
	@$(TOOLS) check
	/usr/bin/python3 -m venv --system-site-packages .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement packaging/requirements-dev.txt
	@touch $@

.PHONY: tools
tools: .venv/.stamp
	@$(TOOLS) check

.PHONY: check
check: tools ## lint, types, import layers, unit tests: no root, under a minute
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict
	.venv/bin/lint-imports
	$(PYTEST) tests/unit --numprocesses=auto --junitxml=$(REPORTS)/check.xml

.PHONY: host
host: tools ## test on real files, with inotify and a real broker (as root)
	$(PYTEST) tests/host --numprocesses=auto --junitxml=$(REPORTS)/host.xml

.PHONY: deb
deb: ## build dist/tedge-agentd_<version>_all.deb
	@$(TOOLS) build
	@packaging/build-deb

.PHONY: system
system: tools deb ## boot gateways of both releases and test on them (as root)
	@$(TOOLS) test
	$(PYTEST) tests/system --numprocesses=$(GATEWAYS) --durations=10 --junitxml=$(REPORTS)/system.xml

.PHONY: forky
forky: tools deb ## the system tests on Debian testing, with Mosquitto 2.1 (as root, half an hour; TESTS=...)
	@$(TOOLS) test
	$(PYTEST) $(or $(TESTS),tests/system) --suite forky --numprocesses=$(GATEWAYS) --junitxml=$(REPORTS)/forky.xml

.PHONY: test
test: check host system ## everything: check, host, deb, system (as root)

.PHONY: install
install: deb ## build the package and install it on this gateway (as root)
	apt-get install -y --reinstall "$$(ls -t "$$PWD"/dist/tedge-agentd_*_all.deb | head -n 1)"

.PHONY: demo
demo: tools deb ## show what the daemon does, on a gateway that is booted for it (as root)
	@$(TOOLS) test
	$(PYTHON) -m tests.system.demo

.PHONY: bench
bench: tools deb ## measure how long things take, beside a .path unit with a shell script (as root)
	@$(TOOLS) test
	$(PYTHON) -m tests.bench

.PHONY: fuzz
fuzz: tools ## try 20,000 inputs on each property of the way from tedge.toml to a plan (minutes; EXAMPLES=N)
	TEDGE_AGENTD_FUZZ=$(or $(EXAMPLES),20000) $(PYTEST) tests/fuzz --numprocesses=auto --junitxml=$(REPORTS)/fuzz.xml

.PHONY: soak
soak: tools deb ## run 10,000 passes on a gateway and see whether anything grows (as root, 15 minutes; PASSES=N)
	@$(TOOLS) test
	$(PYTHON) -m tests.soak --passes $(or $(PASSES),10000)

.PHONY: clean
clean: ## remove what the targets above have made
	rm -rf build dist .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
