# make run | tables | sprint | sprint-in | test | lab | docs | bench | torture | readme | outputs |
# shipped | prepare | lock | audit | clean.
# How, is in tools/.
#   make run SAMPLER=cr-sam RATIO=2       the main experiment with other parameters
#   make tables TABLE=gpu SEEDS=0,1       tables of config/tables.yaml; also SCALE, ROOT, FRESH=1
#   make tables TABLE=own DATA=folder ROOT=faces SEEDS=0,1,2   your images, over several seeds
#   make sprint MINUTES=9                 what of config/sprint.yaml a GPU does in that time, packed
#   make sprint MINUTES=2 SCALE=smoke     its rehearsal; also JOBS, LIST=mine.yaml, SPRINT=to/file
#   make bench ARGS="--only gan"          ARGS: more for papermill, Snakemake, pytest, JupyterLab
#   make torture MINUTES=60 SEED=3        bad files, kills, crowds and full disks, at random
#   make shipped ARGS="--only oracle"     after a change of what trains it: the tests say when
#   make test ALL=1                      the tests that are long, too; ALL=ci: as CI has it
#   make test PYTHON=python3.12           the Python that .venv is made with, when there is none yet
#   make test LOCK=1                      a new .venv gets the versions of requirements.lock
#   make run DATA=csv ROOT=a/list.csv SYNTHNB_OUTSIDE=/data   a list may lead to files in there, too
#   make lab PY=python                    an environment that is there (conda, a container)
#   make docs                             the book as a site: _docs/_build/html/index.html
# What is typed goes to the tools through the environment, so that blanks and quotes in it stay as
# they are, and no shell reads it. What is not typed is the notebook's own default.
SHELL    := /bin/bash
PYTHON   ?= python3
VENV     ?= .venv
PY       ?= $(VENV)/bin/python
NOTEBOOK ?= 07_affectnet

# The kernel of a notebook is the Python that runs papermill, whatever kernels there are elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export GOALS := $(MAKECMDGOALS)
export NOTEBOOK ARGS NAMES LOCK

BIN = $$(dirname "$$(command -v $(PY))")
ifeq ($(PY),$(VENV)/bin/python)
READY := $(VENV)/.ready
BOOK  := $(VENV)/.docs
else
READY := hooks
BOOK  := hooks
endif

.DEFAULT_GOAL := help
.PHONY: help run tables sprint sprint-in test lab docs bench torture readme outputs shipped prepare \
	lock audit clean hooks

help:  ## what can be typed here
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Parameters of run: NOTEBOOK=$$NOTEBOOK SAMPLER=cl-sam RATIO=1 SCALE=laptop SEED=0" \
		"DATA=drawn ROOT= CLASSES= TRAININGS=2"

$(VENV)/.ready: settings.ini pyproject.toml setup.py
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' here. Install Python 3.10 or" \
		"newer, or name it: make $$GOALS PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) tools/environment.py $(VENV) "$$GOALS"

# Jupyter Book is for the site alone, and comes with the first `make docs`.
$(VENV)/.docs: $(VENV)/.ready
	@$(PY) tools/environment.py --docs $(VENV)

hooks: # notebooks merge cell by cell in this clone, also where the environment is not ours
	@$(PY) tools/environment.py --hooks

run: $(READY)  ## one run of the main experiment, from GAN to table (minutes on two cores)
	@$(PY) tools/run.py

tables: $(READY)  ## every run that the tables need and that has no record, then the tables
	@$(PY) tools/tables.py

sprint: $(READY)  ## as much of config/sprint.yaml as MINUTES=9 allow, packed into one file
	@$(PY) tools/sprint.py

sprint-in: $(READY)  ## the records of another machine's sprint, from FILE=sprint.tar.gz into runs/
	@$(PY) tools/sprint.py in

test: $(READY)  ## in sync, clean, ruff, every notebook at smoke scale, pytest (17 minutes, two cores)
	@$(PY) tools/test.py

lab: $(READY)  ## JupyterLab, opened on the front page; saved as git keeps it
	@$(PY) tools/lab.py

docs: $(READY) $(BOOK)  ## the book as a site in _docs/, from the notebooks, without a network
	@$(PY) tools/docs.py

bench: $(READY)  ## the speed and memory table, on the CPU or on CUDA
	@$(PY) tools/bench.py

torture: $(READY)  ## bad files, torn checkpoints, kills, crowds and full disks, for MINUTES=1
	@$(PY) tools/torture.py

readme: $(READY)  ## README.md and its pictures, from nbs/index.ipynb
	@$(PY) tools/readme.py

outputs: $(READY)  ## execute the notebooks in NAMES (default: all) and keep their outputs
	@$(PY) tools/outputs.py && "$(BIN)/nbdev_clean"

shipped: $(READY)  ## the networks that come with the book, trained anew (9 minutes on one core)
	@$(PY) tools/shipped.py

prepare: $(READY)  ## before a commit: export the notebooks, clean them, render the README
	@"$(BIN)/nbdev_export" && "$(BIN)/nbdev_clean" && $(PY) tools/readme.py

lock: $(READY)  ## requirements.lock, the versions that this environment has and LOCK=1 installs
	@$(PY) tools/lock.py

audit: $(READY)  ## whether pip-audit knows one of these versions to be unsafe (needs the network)
	@$(PY) tools/lock.py audit

clean:  ## remove artefacts, executed notebooks and caches; records and .venv stay
	@rm -rf runs/artefacts runs/*/notebook-* runs/*/*/notebook.ipynb runs/*/*/notebook.html
	@rm -rf runs/.snakemake runs/logs .snakemake .pytest_cache .ruff_cache .hypothesis _docs _proc
	@rm -rf build dist *.egg-info
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-type d -print0 | xargs -0 rm -rf
	@echo "Removed artefacts, executed notebooks, caches. Records in runs/ and $(VENV) are untouched."
