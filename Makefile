# The one door: make up · make test · make bench · make dist. Needs Python >= 3.11, git and make.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
PACKAGES := kit $(wildcard servers/*) supervisor
PROJECTS := $(addsuffix /pyproject.toml,$(PACKAGES))
PYTEST_ARGS ?=

.PHONY: up down test test-clients bench dist docs lock lint format clean

up: .venv/.installed
	@$(BIN)/hostwright up $(if $(DETACH),--detach)

down:
	@$(BIN)/hostwright down

test: .venv/.installed-dev
	$(BIN)/python scripts/test_deps.py
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not clients_large" $(PYTEST_ARGS)

test-clients: .venv/.installed-dev
	$(BIN)/python scripts/test_deps.py --clients
	$(BIN)/python -m pytest -m "clients or clients_large" tests/clients $(PYTEST_ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/tool_docs.py --check
	$(BIN)/python scripts/manifest_docs.py --check
	$(BIN)/python scripts/event_docs.py --check

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed-dev
	$(BIN)/python -m bench

dist: .venv/.installed
	rm -rf dist
	$(UV) build --quiet --all-packages --wheel --out-dir dist

docs: .venv/.installed-dev
	$(BIN)/python scripts/tool_docs.py
	$(BIN)/python scripts/manifest_docs.py
	$(BIN)/python scripts/event_docs.py

# Exact versions with hashes for Linux and macOS. uv.lock itself records hosts and is not committed.
lock: .venv/.uv
	$(UV) lock --quiet --upgrade
	$(UV) export --quiet --frozen --no-header --no-emit-workspace --no-dev -o requirements.lock
	$(UV) export --quiet --frozen --no-header --no-emit-workspace --only-dev -o requirements-dev.lock

.venv/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Fix: make PYTHON=python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

.venv/.installed: .venv/.uv requirements.lock $(PROJECTS)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(addprefix -e ./,$(PACKAGES))
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.lock
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

clean:
	rm -rf .venv .test-deps dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
