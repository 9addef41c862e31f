# Two commands do all the set-up on a fresh machine: make reproduce, make test
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# small tensors gain nothing from many threads, and lose much on a busy machine
export OMP_NUM_THREADS ?= 1

.PHONY: help setup reproduce recorded test torture lint notebooks book clean
help:
	@echo 'make reproduce   every notebook on the demo corpus; report in _build/demo/report.html'
	@echo 'make test        every test (ARGS="-k tables" for some)'
	@echo 'make torture     every reader on hostile and damaged files, for minutes'
	@echo 'make lint        format, lint and types, as pre-commit checks them'
	@echo 'make recorded    draw every table and figure from results/'
	@echo 'make notebooks   export, run in place and clean every notebook'
	@echo 'make book        notebooks and API reference as a site in _build/book, offline'
	@echo 'make clean       remove _build'

setup: $(VENV)/.ready

# torch comes first and alone: everything after it finds it installed, whichever build was asked for
$(VENV)/.ready: settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "erc needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: setup
	$(BIN)/erc reproduce --profile demo $(ARGS)

recorded: setup
	$(BIN)/erc reproduce --profile recorded $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

# not a test: 50,000 damaged files; the tests have a short form
torture: setup
	nice $(BIN)/python tests/torture.py $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# run in the order of their numbers, so that each finds the modules of those before it
notebooks: setup
	$(BIN)/nbdev_export
	for nb in nbs/*.ipynb; do JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=900 $$nb || exit 1; done
	$(BIN)/nbdev_clean

book: setup
	$(BIN)/python docs/build.py _build/book

clean:
	rm -rf _build
