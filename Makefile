# Umbel. `make` without a target lists the targets.
#
# demo, up and test need nothing but make and a Python >= 3.10: they create .venv and install into it once, and
# again only when setup.cfg has changed.

VENV ?= .venv
HOST ?=
PORT ?=
ARGS ?=
BIN := $(VENV)/bin
PYTHON ?=
CODE := sdk/umbel endpoint_worker federation webapp
ALL_CODE := $(wildcard $(CODE) tests examples benchmarks docs/conf.py docs/_ext)
BLACK := $(BIN)/black --quiet --line-length 110 --target-version py310
JOURNEYS := tests/e2e
OVER_SERVICES := tests/contract/ledger tests/soak tests/faults
BUGS := tests/simulation/test_simulation.py::test_a_bug_is_found
RUN_STAMP := $(VENV)/.installed-to-run
DEV_STAMP := $(VENV)/.installed-to-develop

.DEFAULT_GOAL := help
.PHONY: help setup demo up test e2e e2e-journeys e2e-services cluster soak fuzz mutate simulate bench lint format docs build clean

help: ## show this list
	@echo "Umbel: your functions on your machines. Targets:"
	@sed -n 's/^\([a-z0-9]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Another Python: make PYTHON=/path/to/python3.12 demo.   Arguments: make ARGS=\"-k states\" test"

setup: $(DEV_STAMP) ## create .venv with everything for development

demo: $(RUN_STAMP) ## run a real workload on an embedded federation, check the results, clean up
	@$(BIN)/python examples/metadata_extraction.py $(ARGS)

up: $(RUN_STAMP) ## start the embedded federation (HOST=, PORT=, ARGS="--flower --workers 4"); Ctrl-C stops it
	@exec $(BIN)/python -m federation up $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(DEV_STAMP) ## run all tests that need only Python
	$(BIN)/python -m pytest tests --ignore=tests/e2e --ignore=tests/faults --ignore=tests/soak/test_soak.py \
		--deselect $(BUGS) $(ARGS)

e2e: $(DEV_STAMP) ## run the tests with real processes and services (as root: installs the services)
	@.ci/services
	UMBEL_E2E=1 $(BIN)/python -m pytest $(JOURNEYS) $(OVER_SERVICES) -m "not long" $(ARGS)

# the two parts of e2e, which may run at the same time
e2e-journeys e2e-services: e2e-%: $(DEV_STAMP)
	@.ci/services
	UMBEL_E2E=1 $(BIN)/python -m pytest $(if $(filter journeys,$*),$(JOURNEYS),$(OVER_SERVICES)) -m "not long" $(ARGS)

cluster: $(DEV_STAMP) ## as root: the provisioner on real sshd, Slurm and GridEngine, with the long tests
	@.ci/services
	UMBEL_E2E=1 $(BIN)/python -m pytest tests/e2e/provision $(ARGS)

soak: $(DEV_STAMP) ## random work for a quarter of an hour while processes are killed, verified from the logs
	SOAK_SECONDS=$${SOAK_SECONDS:-900} SOAK_INTERVAL=$${SOAK_INTERVAL:-20} $(BIN)/python -m pytest -s tests/soak/test_soak.py $(ARGS)

simulate: $(DEV_STAMP) ## random schedules of the service on a fake clock (SEEDS=20000 FIRST=0)
	$(BIN)/python -m tests.simulation $${FIRST:-0} $${SEEDS:-20000}
	$(BIN)/python -m pytest $(BUGS) $(ARGS)

fuzz: $(DEV_STAMP) ## a million random inputs for each parser of another party's bytes (FUZZ_SEED= for others)
	FUZZ_INPUTS=$${FUZZ_INPUTS:-1000000} $(BIN)/python -m pytest tests/fuzz $(ARGS)

mutate: $(DEV_STAMP) ## change one place of a module at a time, print what no test finds (ARGS="webapp.parking --every 5")
	nice -n 10 $(BIN)/python -m tests.mutation $(ARGS)

bench: $(DEV_STAMP) ## compare the performance of Umbel and its peers
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEV_STAMP) ## black, isort, flake8, mypy, import-linter: report only, change nothing
	$(BLACK) --check --diff $(ALL_CODE)
	$(BIN)/isort --quiet --check-only --diff $(ALL_CODE)
	$(BIN)/flake8 $(ALL_CODE)
	$(BIN)/mypy $(CODE)
	PYTHONPATH=sdk:. $(BIN)/lint-imports --config setup.cfg

format: $(DEV_STAMP) ## format the code with black and isort
	$(BIN)/isort --quiet $(ALL_CODE)
	$(BLACK) $(ALL_CODE)

docs: $(DEV_STAMP) ## build the documentation into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Read docs/_build/html/index.html"

build: $(DEV_STAMP) ## build the wheel (umbel and endpoint_worker) into dist/
	$(BIN)/python -m federation.packages.build dist

clean: ## remove .venv and everything built
	rm -rf $(VENV) build dist docs/_build .mypy_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf sdk/*.egg-info

# A broken Python or an incomplete environment must not leave a directory that looks complete.
$(BIN)/python:
	@python=$$(PYTHON='$(PYTHON)' .ci/find-python) || exit 2; \
	echo "Creating $(VENV) with $$python"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

$(RUN_STAMP): setup.cfg | $(BIN)/python
	@echo "Installing what Umbel needs to run (once, one to three minutes)"
	@.ci/install $(BIN)/python '.[endpoint,server]'
	@touch $@

$(DEV_STAMP): setup.cfg | $(BIN)/python
	@echo "Installing what developing Umbel needs (once, two to four minutes)"
	@.ci/install $(BIN)/python '.[endpoint,server,dev]'
	@touch $@ $(RUN_STAMP)
