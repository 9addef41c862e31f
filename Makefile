# Two commands do all the set-up on a fresh machine: make reproduce, make test
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# small tensors gain nothing from many threads, and lose much on a busy machine
export OMP_NUM_THREADS ?= 1

.PHONY: help setup reproduce recorded cluster test test-media test-cluster torture endurance audit lint notebooks book clean
help:
	@echo 'make reproduce   every table and figure on the demo corpus; report in _build/demo/report.html'
	@echo 'make cluster     what is missing, as a workflow on this machine (ARGS="--config target=sagru")'
	@echo 'make test        every test (ARGS="-k tables" for some)'
	@echo 'make test-media  the tests of recordings that need openSMILE and weights (100 MB, then 320 on disk)'
	@echo 'make test-cluster  the workflow on a real SLURM of one node, killed and resumed, for minutes'
	@echo 'make torture     every reader on hostile and damaged files, for minutes'
	@echo 'make endurance   work that is killed, shared, large or in odd places, for minutes'
	@echo 'make audit       known vulnerabilities of what is installed (asks the network)'
	@echo 'make lint        format, lint and types, as pre-commit checks them'
	@echo 'make recorded    draw every table and figure from results/'
	@echo 'make notebooks   export, run in place and clean every notebook'
	@echo 'make book        notebooks and API reference as a site in _build/book, offline'
	@echo 'make clean       remove _build'

setup: $(VENV)/.ready

# torch comes first and alone: everything after it finds it installed, whichever build was asked for;
# HASHED=1, as in the public workflows, checks each file of everything else against its hash
$(VENV)/.ready: settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "erc needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
ifdef HASHED
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-hashed.txt
endif
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

reproduce: setup
	$(BIN)/erc reproduce --profile demo $(ARGS)

recorded: setup
	$(BIN)/erc reproduce --profile recorded $(ARGS)

# Snakemake has an environment of its own, which sees what is installed beside it
CLUSTER := _build/cluster
$(CLUSTER)/.ready: setup
	test -x $(CLUSTER)/bin/python || $(PYTHON) -m venv $(CLUSTER)
	$(CLUSTER)/bin/python -m pip install --quiet $$($(BIN)/python -c "from configparser import ConfigParser as C; c = C(delimiters=['=']); c.read('settings.ini'); print(c['DEFAULT']['cluster_requirements'])")
	@touch $@

cluster: $(CLUSTER)/.ready
	PATH="$(abspath $(BIN)):$$PATH" $(CLUSTER)/bin/snakemake --snakefile workflow/Snakefile --workflow-profile workflow/profiles/local --directory _build/workflow $(ARGS)

# not a test: needs root and Debian's packages slurm-wlm and munge; ARGS="together overhead" for parts that need no SLURM
test-cluster: $(CLUSTER)/.ready
	SNAKEMAKE=$(abspath $(CLUSTER))/bin/snakemake $(BIN)/python tests/cluster/trial.py $(ARGS)

# two processes, each file in one of them: much of the time is spent waiting for kernels and commands
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# What reads recordings has an environment of its own, which sees what is installed beside it: openSMILE is
# for research alone, and with the pyarrow that it installs pandas keeps text in another way
MEDIA := _build/media
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(MEDIA)/.ready: $(VENV)/.ready requirements-media.txt
	test -x $(MEDIA)/bin/python || $(PYTHON) -m venv $(MEDIA)
	$(BIN)/python $(PACKAGES) > "$$($(MEDIA)/bin/python $(PACKAGES))/beside.pth"
	$(MEDIA)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements-media.txt
	@touch $@

test-media: $(MEDIA)/.ready
	PYTHONPATH="$(CURDIR)" $(MEDIA)/bin/python -m pytest -m media tests/test_media.py $(ARGS)

# not a test: 50,000 damaged files; the tests have a short form
torture: setup
	nice $(BIN)/python tests/torture.py $(ARGS)

# not a test: kills, shared files, orders, scale, places; ARGS="kills run" for one of them
endurance: setup
	nice $(BIN)/python tests/endurance.py $(ARGS)

# in an environment of its own, so that nothing here depends on it; a package of which nothing is
# known fails it, and builds such as torch's for the CPU count as their version
audit: setup
	$(PYTHON) -m venv _build/audit
	_build/audit/bin/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > _build/audit/installed.txt
	_build/audit/bin/pip-audit --strict --no-deps --disable-pip -r _build/audit/installed.txt $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# run in the order of their numbers, so that each finds the modules of those before it; the page of the
# extra `media` keeps its pictures where what draws them is missing
DRAWN_WITH := av dlib face_recognition_models opensmile resemblyzer
notebooks: setup
	$(BIN)/nbdev_export
	for nb in nbs/*.ipynb; do case $$nb in nbs/085_*) { command -v espeak-ng && $(BIN)/python -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, sys.argv[1:])))' $(DRAWN_WITH); } > /dev/null || { echo "$$nb: left as it is, without what draws it"; continue; };; esac; JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=900 $$nb || exit 1; done
	$(BIN)/nbdev_clean

book: setup
	$(BIN)/python docs/build.py _build/book

clean:
	rm -rf _build
