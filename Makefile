# `make` lists the targets. Each sets up what it needs: Python >= 3.11 with venv, make and git are enough.
# Installed is exactly what requirements/*.lock say, checked by hash; again only after one of them changed.

PYTHON  ?= python3
WORKERS ?= 3# processes of tests side by side; more than there are processors, as much of the time is waiting
ARGS    ?=
TABLE   ?= tests/simulation/real_process_runs.md

VENV  := .venv
BIN   := $(VENV)/bin
PROTO := .make/proto
PIP   := -m pip --disable-pip-version-check install --quiet

INSTALLED := $(VENV)/.installed
GENERATOR := $(PROTO)/.installed

PROTOS       := proto/orchestrator_api/v1/*.proto
RELEASED_API := proto/released.binpb
BUF          := BUF_CACHE_DIR=.make/buf $(BIN)/buf# a home that can't be written to is no obstacle
CLUSTER_TESTS = tests/cluster tests/upgrade
PYTEST       := $(BIN)/python -m pytest --timeout=300

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install proto proto-check proto-lint proto-release release-fixture release ruff types contracts \
	lint test test-long check compiled test-compiled simulate faults bus-faults verify fuzz bench demo helm image-compiled \
	lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up ---------------------------------------------------------------------------------------------------------

install: $(INSTALLED) ## Install everything into .venv

define CHECK_PYTHON
@command -v "$(PYTHON)" >/dev/null || { echo "make: there is no '$(PYTHON)'; say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "make: $$("$(PYTHON)" --version 2>&1) is too old, 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: '$(PYTHON)' can't make a venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
endef

# Not in an isolated build: what builds is in a lock too, so that nothing unpinned is fetched.
$(VENV)/.locked: requirements/build.lock requirements/dev.lock
	$(CHECK_PYTHON)
	@echo "installing into $(VENV)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) --require-hashes -r requirements/build.lock
	@$(BIN)/python $(PIP) --require-hashes --no-build-isolation -r requirements/dev.lock
	@touch $@

$(INSTALLED): $(VENV)/.locked pyproject.toml
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# The generator is old (it sets the lowest protobuf that users may have), so it has a venv of its own.
$(GENERATOR): requirements/proto.lock
	$(CHECK_PYTHON)
	@echo "installing into $(PROTO)"
	@mkdir -p $(dir $(PROTO))
	@"$(PYTHON)" -m venv --clear $(PROTO)
	@$(PROTO)/bin/python $(PIP) --require-hashes --only-binary :all: -r requirements/proto.lock
	@touch $@

# --- the API --------------------------------------------------------------------------------------------------------

# $(call GENERATE,folder): the plug-ins of protoc are found by PATH.
GENERATE = PATH="$(CURDIR)/$(PROTO)/bin:$$PATH" $(PROTO)/bin/python -m grpc_tools.protoc -I proto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

proto: $(GENERATOR) ## Generate the stubs anew from the .proto files
	@rm -f proto/orchestrator_api/v1/*_pb2*.py proto/orchestrator_api/v1/*_pb2*.pyi
	@$(call GENERATE,proto)

proto-check: $(GENERATOR) ## Are the committed stubs those of the .proto files?
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; $(call GENERATE,"$$fresh"); \
	diff -rq -x '*.proto' -x __init__.py -x py.typed -x __pycache__ "$$fresh/orchestrator_api" proto/orchestrator_api || { \
		echo "the stubs are stale: run 'make proto' and commit what it writes" >&2; exit 1; }
	@echo "stubs are fresh"

# Compared is the API of the last release, as an image that is committed with it: no tag or earlier commit is needed (a
# shallow clone and a source archive have none), and what was never released may still change.
proto-lint: $(INSTALLED) ## buf: the API's style, and nothing broken since the last release
	@$(BUF) lint proto
	@if [ -e $(RELEASED_API) ]; then $(BUF) breaking proto --against $(RELEASED_API); \
	else echo "no API released yet ($(RELEASED_API)): nothing that could break"; fi

proto-release: $(INSTALLED) proto-lint ## Part of a release: from now on, this API must not break
	@$(BUF) build proto --exclude-source-info --output $(RELEASED_API)

# Committed with a release: tests of later ones run nodes of this wheel, open what they have written, and compare.
release-fixture: $(INSTALLED) ## Part of a release: its wheel, and data that nodes of it have written, for tests/upgrade
	@$(BIN)/python -m tests.upgrade.cut

release: proto-release release-fixture ## What a release leaves in the repository; commit it, then raise the version

# --- deploying ------------------------------------------------------------------------------------------------------

# No package registry has Helm itself, but all that it is built from, by hash. Without optimising, which takes longer than
# all that is done with it.
HELM := .make/helm/helm

$(HELM): requirements/helm.lock requirements/helm/go.mod requirements/helm/go.sum
	$(CHECK_PYTHON)
	@echo "building $(HELM): this takes minutes, once"
	@rm -rf .make/helm && "$(PYTHON)" -m venv .make/helm/go
	@.make/helm/go/bin/python $(PIP) --require-hashes --only-binary :all: -r requirements/helm.lock
	@cd requirements/helm && PATH="$(CURDIR)/.make/helm/go/bin:$$PATH" GOTOOLCHAIN=local CGO_ENABLED=0 \
		GOPATH="$(CURDIR)/.make/helm/modules" GOCACHE="$(CURDIR)/.make/helm/cache" GOFLAGS=-modcacherw \
		go build -trimpath -gcflags='all=-N -l' -ldflags='-s -w' -o "$(CURDIR)/$(HELM)" helm.sh/helm/v4/cmd/helm
	@rm -rf .make/helm/go .make/helm/modules .make/helm/cache

helm: $(HELM) ## Build Helm, without which the tests of the chart are skipped

image-compiled: $(INSTALLED) ## Carry out the Dockerfile as it is built for use, with the engine compiled; takes minutes
	COMPILED=1 $(PYTEST) tests/deploy/test_image.py $(ARGS)

# --- checks ---------------------------------------------------------------------------------------------------------

ruff: $(INSTALLED) ## Lint (rules and reasons: pyproject.toml)
	@$(BIN)/ruff check .

types: $(INSTALLED) ## mypy --strict, server and SDK
	@$(BIN)/mypy

contracts: $(INSTALLED) ## Who may import whom
	@$(BIN)/lint-imports

lint: ruff types contracts proto-lint proto-check ## All checks that run nothing of ours

# Tests of real processes come after the others. Much of their time is waiting for what was killed to be missed.
test: $(INSTALLED) ## All tests but the long ones
	$(PYTEST) -n $(WORKERS) -m "not long" $(addprefix --ignore=,$(CLUSTER_TESTS)) $(ARGS)
	$(PYTEST) -n $(WORKERS) -m "not long" --dist worksteal $(CLUSTER_TESTS) $(ARGS)

test-long: $(INSTALLED) ## Those that `make test` leaves out: planted mistakes, faults, verification, images, hours
	$(PYTEST) -n $(WORKERS) -m long --dist worksteal tests $(ARGS)

check: ## lint, test and test-long, in this order
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-long

# The engine as extension modules, in a folder of its own: what is edited is never hidden by what was compiled before.
COMPILED := .make/compiled
SOURCES   = $(shell find orchestrator client/orchestrator_client proto/orchestrator_api deploy/compile -name '*.py')
WITH_COMPILED = PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED)

$(COMPILED)/.built: $(INSTALLED) $(SOURCES)
	@echo "compiling the engine into $(COMPILED): this takes minutes"
	@$(BIN)/python deploy/compile/hook.py $(COMPILED)
	@ln -s ../../tests $(COMPILED)/tests
	@touch $@

compiled: $(COMPILED)/.built ## Compile what applies the log, with mypyc

# Not those that put a function of their own in the place of one of the engine's, which compiled code does not notice.
test-compiled: compiled ## The tests of the engine and of storage, on what was compiled
	$(WITH_COMPILED) $(PYTEST) -n $(WORKERS) -o pythonpath=$(COMPILED) -m "not patches_engine" $(COMPILED)/tests/engine \
		$(COMPILED)/tests/requirements $(COMPILED)/tests/codec $(COMPILED)/tests/storage \
		$(COMPILED)/tests/replication/test_applier.py $(COMPILED)/tests/replication/test_staging.py $(ARGS)

# How much: SEED=7 (one, with its trace), SEEDS=500 or SECONDS=60, which is the default; what else there is, below.
SIMULATION = $(if $(SEED),--seed $(SEED),$(if $(SEEDS),--seeds $(SEEDS),--seconds $(or $(SECONDS),60))) \
	$(if $(FROM),--from $(FROM)) $(if $(TROUBLE),--trouble $(TROUBLE)) $(if $(AT_LEAST),--at-least $(AT_LEAST)) \
	$(if $(TABLE),--table $(TABLE)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS)

simulate: $(INSTALLED) ## Whole clusters under virtual time: SEED=7, SEEDS=500, SECONDS=60; FROM TROUBLE AT_LEAST TABLE MUTANT
	@$(BIN)/python -m tests.simulation $(SIMULATION)

# What it did and found becomes a section of the page.
faults: $(INSTALLED) ## Real processes under kill -9, power loss and cut networks; MINUTES=60 or SEED=7, FROM=0, TABLE=page
	@$(BIN)/python -m tests.cluster.faults $(if $(SEED),--seed $(SEED),--minutes $(or $(MINUTES),10) --table $(TABLE)) \
		$(if $(FROM),--from $(FROM)) $(ARGS)

bus-faults: $(INSTALLED) ## Real processes whose Redis, leader or network between them break; MINUTES=10 or ROUNDS=30, SEED=7
	@$(BIN)/python -m tests.cluster.bus_faults $(if $(ROUNDS),--rounds $(ROUNDS),--minutes $(or $(MINUTES),10)) \
		$(if $(SEED),--seed $(SEED)) $(ARGS)

# With a TABLE of its own, the run becomes a section of that page.
verify: $(INSTALLED) ## The operator's fault test on three nodes of its own, as root; MINUTES=60, SEED=7, TABLE=tests/verify/runs.md
	@$(BIN)/python -m orchestrator verify --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) \
		$(if $(filter command environment,$(firstword $(origin TABLE))),--table $(TABLE)) $(ARGS)

fuzz: $(INSTALLED) ## Messages and bytes at random against a real node; SECONDS=60, SEED=7
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

# --- to see it work -------------------------------------------------------------------------------------------------

bench: compiled ## Measure, compiled as a release is; ARGS=--help tells what, without ARGS everything, for an hour, into .bench
	@mkdir -p .bench
	$(WITH_COMPILED) $(BIN)/python -m tests.benchmarks $(or $(ARGS),--json .bench/rows.json --plot .bench/rows.svg)

demo: $(INSTALLED) ## Orders on three nodes while leaders are killed; PLAIN=1 prints lines
	@PLAIN="$(PLAIN)" $(BIN)/python client/examples/orders/demo.py $(ARGS)

# --- upkeep ---------------------------------------------------------------------------------------------------------

LOCK := .make/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	--no-emit-find-links --quiet $(if $(UPGRADE),--upgrade)

lock: ## Write requirements/*.lock anew; UPGRADE=1 takes newer versions
	$(CHECK_PYTHON)
	@"$(PYTHON)" -m venv .make/lock && .make/lock/bin/python $(PIP) uv==0.13.9
	@$(LOCK) pyproject.toml --group build --group dev --output-file requirements/dev.lock
	@$(LOCK) --group build --constraints requirements/dev.lock --output-file requirements/build.lock
	@$(LOCK) --group proto --output-file requirements/proto.lock
	@$(LOCK) pyproject.toml --constraints requirements/dev.lock --output-file requirements/node.lock
	@$(LOCK) --group wheel --constraints requirements/dev.lock --output-file requirements/wheel.lock
	@$(LOCK) --group helm --output-file requirements/helm.lock

clean: ## Remove everything that make and the tools have put here
	rm -rf $(VENV) .make .demo .dev .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
