# Two commands matter: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
comma := ,
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
DEMO_FLAGS := $(if $(S3),--s3,)

.PHONY: demo test test-slow test-browser faults live dev lint format types layers check bench clean

demo: $(VENV)/.installed-$(if $(S3),all,demo)
	@$(BIN)/genblaze-dagster demo $(DEMO_FLAGS)

test: $(VENV)/.installed-all
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.installed-all
	$(BIN)/python -m pytest -m slow

test-browser: $(VENV)/.installed-all
	$(BIN)/python -m pytest -m browser

# Every scenario of failure in every layer, from 20 seeds each; writes the table of docs/reliability.md.
faults: $(VENV)/.installed-all
	$(BIN)/python -m tests.faults --seeds $(or $(SEEDS),20)

# One real call to one vendor; needs its key and costs money: make live VENDOR=runway
live: $(VENV)/.installed-all
	$(BIN)/python -m pytest -m live tests/live --vendor $(VENDOR)

dev: $(VENV)/.installed-demo
	@mkdir -p .demo/dagster
	DAGSTER_HOME=$(CURDIR)/.demo/dagster GENBLAZE_STORE=file://$(CURDIR)/.demo/store \
	  GENBLAZE_LEDGER=sqlite:///$(CURDIR)/.demo/ledger.db $(BIN)/dagster dev -w workspace.yaml

lint: $(VENV)/.installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-all
	$(BIN)/pyright

layers: $(VENV)/.installed-all
	$(BIN)/lint-imports

check: lint types layers test

bench: $(VENV)/.installed-all
	$(BIN)/python bench/manifest.py
	$(BIN)/python bench/transfer.py
	$(BIN)/python bench/dagster_batch.py
	$(BIN)/python bench/batch.py
	$(BIN)/python bench/embed.py
	$(BIN)/python bench/rendition.py
	$(BIN)/python bench/parquet_sink.py
	$(BIN)/python bench/ledger.py
	$(BIN)/python bench/budgets.py
	$(BIN)/python bench/memory.py

clean:
	rm -rf $(VENV) .demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(if $(UV),$(UV) venv --quiet --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

define install
	@echo "Installing genblaze-dagster[$(1)] into $(VENV) ..."
	@$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python -e '.[$(1)]',$(BIN)/python -m pip install --quiet -e '.[$(1)]')
	@touch $@
endef

$(VENV)/.installed-demo: $(VENV)/bin/python pyproject.toml
	$(call install,local)

$(VENV)/.installed-all: $(VENV)/bin/python pyproject.toml
	$(call install,local$(comma)test$(comma)dev)
