# Every target works from a bare clone: it needs Python 3.11 or newer, a C compiler and make.
#
#   make test ARGS="-k frame"          more arguments for pytest; so for make quick
#   make test ARGS="-n 0 -x"           one test after the other, in this process
#   make test PYTHON=python3.13        another interpreter, in a virtual environment of its own
#   make test RIO_DEBUG=1              the core built with its assertions on
#   make fuzz RIO_SANITIZE=1           the core built with the sanitizers of GCC
#   make fuzz MINUTES=10 ARGS=reader   also REPLAY=file, which a run that has found something names
#   make test-storage SERVERS=system   PostgreSQL and Redis as the system has them, not as wheels
#   make check VERSIONS=lowest         on the oldest versions that pyproject.toml allows, or the newest
#   make chaos MINUTES=60 STORAGE=redis  also SEED, PRESET and FAULTS: see tests/cluster/processes/chaos.py

WINDOWS := $(filter Windows_NT,$(OS))
PYTHON ?= $(if $(WINDOWS),python,python3)
VENV   := .venv$(if $(filter-out python python3,$(PYTHON)),-$(notdir $(PYTHON)))$(if $(VERSIONS),-$(VERSIONS))
BIN    := $(VENV)/$(if $(WINDOWS),Scripts,bin)
TOOLS  := $(VENV)/.tools
AUDIT  := $(VENV)/audit
WHEELS := $(VENV)/wheels
BUILT  := $(VENV)/.built$(if $(filter 1,$(RIO_DEBUG)),-debug)$(if $(filter 1,$(RIO_SANITIZE)),-sanitized)
RUST   := $(VENV)/peers/rust
PEERS  := $(patsubst bench/peers/requirements/%.txt,$(VENV)/peers/%/.installed,$(wildcard bench/peers/requirements/*.txt))
CORE   := setup.py $(wildcard src/rio/_core/*.pyx src/rio/_core/*.pxd)
SYSTEM_SERVERS = RIO_TEST_POSTGRES_BIN=$(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin))) \
                 RIO_TEST_REDIS_BIN=$(shell command -v redis-server || command -v valkey-server)
# how uv calls the oldest and the newest versions that are allowed
RESOLUTION = $(if $(filter lowest,$(1)),lowest-direct,highest)
# Python itself is built without the sanitizers, so they are loaded before it.
SANITIZERS = LD_PRELOAD="$(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)" \
             ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=halt_on_error=1 PYTHONMALLOC=malloc
export RIO_DEBUG RIO_SANITIZE

.PHONY: help demo quick test test-assertions test-dev test-eager test-storage test-lowest test-newest sweep chaos fuzz \
        check audit audit-lowest audit-newest sdist wheels release-check bench bench-full bench-instructions bench-peers soak build clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BUILT)  ## start a cluster on this machine, use it, and break it
	@$(BIN)/python -m examples.metric_aggregator.demo

quick: $(BUILT)  ## run the tests that need neither servers nor processes, with fewer examples: under a minute
	@RIO_QUICK=1 $(BIN)/python -m pytest -n auto -m "not (servers or processes or slow)" $(ARGS)

test: $(BUILT)  ## run all tests
	@$(BIN)/python -m pytest -n auto $(ARGS)

test-eager: $(BUILT)  ## run the tests of clients and servers in one process under the eager task factory: Python 3.12 or newer
	@RIO_EAGER=1 $(BIN)/python -m pytest -n auto tests/client tests/server tests/cluster --ignore tests/cluster/processes $(ARGS)

test-assertions:  ## run all tests on the core built with its assertions, and those of Cython and CPython
	@$(MAKE) --no-print-directory test RIO_DEBUG=1

test-dev: $(BUILT)  ## run the tests without processes in Python's development mode, each warning an error from the start
	@$(BIN)/python -X dev -W error -m pytest -n 0 -m "not processes" $(ARGS)

test-storage: $(BUILT)  ## run the tests of the storages; SERVERS=system takes the servers of the system
	@$(if $(filter system,$(SERVERS)),$(SYSTEM_SERVERS)) $(BIN)/python -m pytest -n auto tests/storage $(ARGS)

test-lowest:  ## run all tests with the oldest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory test VERSIONS=lowest

test-newest:  ## run all tests with the newest versions that there are today
	@rm -f $(VENV)-newest/.tools
	@$(MAKE) --no-print-directory test VERSIONS=newest

sweep: $(BUILT)  ## let each point of a small life of a cluster fail in each way
	@RIO_SWEEP=1 $(BIN)/python -m pytest -n auto tests/faults $(ARGS)

chaos: $(BUILT)  ## break a cluster under load, and count what is lost
	@$(BIN)/python -m tests.cluster.processes.chaos

fuzz: $(BUILT)  ## hand wrong input to all that reads, for MINUTES=10, or again with REPLAY=file
	@$(if $(filter 1,$(RIO_SANITIZE)),$(SANITIZERS)) $(BIN)/python -m fuzz \
	  $(if $(REPLAY),--replay $(REPLAY),--minutes $(or $(MINUTES),10)) $(ARGS)

check: $(BUILT)  ## run the linters and the type checkers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --output-format concise .
	PATH="$(BIN):$$PATH" cython-lint src/rio/_core
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --concise rio._core
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/zizmor --quiet --offline --persona pedantic .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

audit: audit-lowest audit-newest  ## look for known vulnerabilities of the oldest and the newest versions: asks pypi.org

audit-lowest audit-newest: audit-%: $(AUDIT)/.installed
	@$(AUDIT)/bin/python -m tests.audit
	@echo "the $* versions:"
	@$(AUDIT)/bin/uv pip compile --quiet --resolution $(call RESOLUTION,$*) --upgrade --all-extras --group dev \
	  --generate-hashes --python $(AUDIT)/bin/python --output-file $(AUDIT)/$*.txt pyproject.toml >/dev/null
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --requirement $(AUDIT)/$*.txt

sdist: $(TOOLS)  ## make the archive of the sources, in dist
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(BIN)/python -m build --sdist

wheels: $(WHEELS)/.installed  ## build the wheels of Linux and try each as a new user; compile the core for other systems
	@$(WHEELS)/bin/python -m pytest -rs --confcutdir tests/wheels tests/wheels/linux.py tests/wheels/elsewhere.py $(ARGS)

release-check:  ## say whether TAG=v1.2.3 may be released, and print its notes
	@$(PYTHON) -m tests.release $(TAG)

bench: $(BUILT)  ## run the benchmarks that take a few minutes
	@$(BIN)/python -m pytest bench/ --benchmark-autosave $(ARGS)

bench-full: $(BUILT)  ## run all benchmarks
	@$(BIN)/python -m pytest bench/ --full --benchmark-autosave $(ARGS)

bench-instructions: $(BUILT)  ## count the instructions of the hot paths; ACCEPT=1 writes new baselines
	@$(BIN)/python -m bench.instructions $(if $(filter 1,$(ACCEPT)),--accept)

soak: $(BUILT)  ## work for MINUTES=10 and look for growth
	@$(BIN)/python -m bench.soak $(MINUTES)

bench-peers: $(BUILT) $(PEERS) $(RUST)/.built  ## measure rio beside other systems
	@$(BIN)/python -m bench.peers.run $(VENV)/peers $(or $(ARGS),--save)

build:  ## build the compiled core again, whether it changed or not
	@rm -f $(BUILT)
	@$(MAKE) --no-print-directory $(BUILT)

clean:  ## remove everything that was built, and the virtual environments
	rm -rf .venv .venv-* build dist src/*.egg-info src/rio/_core/*.so .*_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/peers/%/.installed: bench/peers/requirements/%.txt
	@echo "installing what the peer $* needs"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(RUST)/.built: $(addprefix bench/peers/rust/,Cargo.toml Cargo.lock src/main.rs)
	@if command -v cargo >/dev/null; then \
	  echo "building the peer rio-rs"; \
	  cargo build --quiet --release --locked --manifest-path $(<D)/Cargo.toml --target-dir $(@D) && touch $@; \
	else echo "cargo is missing: the peer rio-rs is left out"; fi

$(AUDIT)/.installed: pyproject.toml
	@echo "installing what audits into $(AUDIT)"
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --upgrade pip
	@$(AUDIT)/bin/python -m pip install --quiet --group audit
	@touch $@

$(WHEELS)/.installed: pyproject.toml
	@echo "installing what builds wheels into $(WHEELS)"
	@$(PYTHON) -m venv --clear $(WHEELS)
	@$(WHEELS)/bin/python -m pip install --quiet --upgrade pip
	@$(WHEELS)/bin/python -m pip install --quiet --group wheels
	@touch $@

$(TOOLS): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("rio needs Python 3.11 or newer: make PYTHON=python3.13" if sys.version_info < (3, 11) else 0)'
	@echo "installing the tools into $(VENV)"
	@$(PYTHON) -m venv $(if $(VERSIONS),--clear) $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip $(if $(VERSIONS),uv)
	@$(BIN)/python -m $(if $(VERSIONS),uv pip install --quiet --python $(BIN)/python --resolution \
	  $(call RESOLUTION,$(VERSIONS)) --requirement pyproject.toml --all-extras,pip install --quiet) --group dev
	@touch $@

$(BUILT): $(TOOLS) $(CORE)
	@echo "building the compiled core"
	@rm -f $(VENV)/.built* && touch $(VENV)/.building
	@$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[all]'
	@$(BIN)/python -m compileall -q src/rio  # for the hundreds of processes that tests start
	@mv $(VENV)/.building $@  # as old as the build's beginning: a source that changed meanwhile is built again
