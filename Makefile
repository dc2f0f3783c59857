# Two commands do everything: `make repro` and `make test`. `make` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The stages' `python` is the one of the virtual environment; nobody's usage is reported to anybody.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup repro sweep serve test test-fast campaign golden mutations check docs format lock ui clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## the virtual environment, exactly as requirements.lock pins it

# uv comes first by pip, at the version the lock file pins; it then makes the environment equal to the lock.
# Byte code is compiled once, here: where Python may not write it later, each of twenty stages would compile it again.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet "$$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

repro: $(READY) ## the whole pipeline on params.yaml: by default the embedded demo, minutes on two cores
	dvc repro

sweep: $(READY) ## an ablation, e.g. AXIS=mask_ratio; also SEEDS=3 JOBS=1 RECIPE=FILE SET="KEY=VALUE ..."
	python -m pipelines.sweep $(AXIS) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(RECIPE),--recipe $(RECIPE)) $(foreach setting,$(SET),--set '$(setting)')

# Files of tests run side by side, each whole on one worker, so that what a file sets up is set up once. One worker more
# than cores: tests of flows and servers often wait.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(READY) ## all tests, side by side on all cores; WORKERS=1 for one after another
	$(PYTEST) $(ARGS)

# Most packages: all but what starts many processes: the stages, the flows, DVC, the goldens.
FAST := config data engine methods models evaluation interchange registry serving tracking report commands \
	pipelines/working_copy pipelines/retraining pipelines/sweeping test_pipeline.py test_command.py test_files.py \
	test_progress.py test_recipes.py
test-fast: $(READY) ## the quick tests of most packages, in minutes
	$(PYTEST) -m "not slow" $(addprefix tests/,$(FAST)) $(ARGS)

campaign: $(READY) ## kill stages and trainings at random until they end, and compare their bytes with unbroken ones; minutes
	python -m pytest --campaign -m campaign -s --write-table $(ARGS)

golden: $(READY) ## keep new results (tests/golden) of parts whose version in mae/results.yaml was raised; ARGS="-k cae"
	python -m pytest -q -s -n0 tests/golden --write-goldens $(ARGS)

mutations: $(READY) ## break one file at a time, in a copy, and see whether the goldens notice; half an hour; ARGS=--first is faster
	python tests/golden/campaign.py $(ARGS)

check: $(READY) ## lint, format, types, import layers, the lock file
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	! grep -n '://' requirements.lock

docs: $(READY) ## the site of docs/ into docs/_build; a broken link is an error
	sphinx-build -b html -E -n -W --keep-going -q docs docs/_build

format: $(READY) ## rewrite the code in the house's format
	ruff check --fix .
	ruff format .

lock: $(READY) ## pin the dependencies of pyproject.toml anew
	uv pip compile --quiet --universal --no-emit-index-url --no-header --generate-hashes pyproject.toml --group dev -o requirements.lock

serve: $(READY) ## run the flows on their schedules (prefect.yaml), and when a page asks: http://127.0.0.1:4200, or ARGS="--port 4201"
	exec python -m pipelines.serve $(ARGS)

ui: $(READY) ## the pages of MLflow and Prefect on this machine: http://127.0.0.1:5000 and :4200; ARGS=--help
	exec python -m pipelines.pages $(ARGS)

clean: ## remove what the pipeline made here (data, models, runs), not the environment, the caches or the reports
	rm -rf data models work mlruns mlartifacts mlflow.db
