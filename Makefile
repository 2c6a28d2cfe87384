# Each target is a thin line over a tool that also runs without make. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is kept, whatever the shell says: without it every stage would pay seconds of imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo down test check bench lock format

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install: $(VENV)/.installed ## Make .venv from the lock (LEPTON_TORCH=cpu|auto|cu130|... chooses the build of torch)

$(VENV)/.installed: requirements.txt pyproject.toml install.py
	$(PYTHON) install.py
	@touch $@

demo: export LEPTON_DEMO_BEGAN := $(shell date +%s)
demo: ## Start everything, run a use case through Airflow, show a prediction; leaves it running
	@$(MAKE) -s --no-print-directory install || { echo "demo: failed at install: its message is above"; exit 1; }
	@$(BIN)/lepton demo

down: ## Stop what `make demo` started, children included
	@if [ -x $(BIN)/lepton ]; then $(BIN)/lepton down; else echo "stopped: nothing was installed"; fi

check: install ## ruff, mypy, import-linter, unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit -n 2 --dist worksteal

test: check ## Every check and test of the project
	$(BIN)/pytest -q tests --ignore tests/unit -n 2 --dist loadfile --no-loadscope-reorder --durations 10

bench: install ## Every benchmark; results in benchmarks/results
	$(BIN)/python -m benchmarks

lock: install ## Write requirements*.txt anew
	$(PYTHON) install.py --lock

format: install ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
