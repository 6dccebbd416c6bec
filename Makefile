# make run | tables | test | lab | bench | readme | outputs | prepare | clean. Each makes its own environment in .venv when there is none.
#   make run SAMPLER=cr-sam RATIO=2       the main experiment with other parameters (see `make help`)
#   make test PYTHON=python3.12           the Python that .venv is made with
#   make lab PY=python                    use an environment that is already there (conda, a container); nothing is installed
SHELL  := /bin/bash
PYTHON ?= python3
VENV   ?= .venv
PY     ?= $(VENV)/bin/python

# The parameters of `make run`, which are those of the notebook. Empty means the notebook's own default.
NOTEBOOK ?= 07_affectnet
SAMPLER  ?= cl-sam
RATIO    ?= 1
SCALE    ?= laptop
SEED     ?= 0
DATA     ?= drawn
ROOT     ?=
CLASSES  ?=
# Which tables `make tables` makes (empty: all on what we draw; see the Snakefile), with how many cores at once, which seeds; FRESH=1: all anew.
TABLE    ?=
CORES    ?= all
SEEDS    ?=
FRESH    ?=
# Further arguments for papermill (run), Snakemake (tables), JupyterLab (lab), bench.py (bench) or pytest (test).
ARGS     ?=

OWN := $(VENV)/bin/python
ifeq ($(PY),$(OWN))
READY := $(VENV)/.ready
endif
BIN = $$(dirname "$$(command -v $(PY))")

# The kernel of a notebook is the Python that runs papermill, whatever kernels the user has registered elsewhere.
export JUPYTER_PREFER_ENV_PATH := 1

export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run tables test lab bench readme outputs prepare clean

help:  ## what can be typed here
	@grep -hE '^[a-z]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'
	@echo "  Parameters of run: SAMPLER=$(SAMPLER) RATIO=$(RATIO) SCALE=$(SCALE) SEED=$(SEED) DATA=$(DATA) ROOT=$(ROOT) CLASSES=$(CLASSES)"

# ---- the environment ------------------------------------------------------------------------------------------------
define check_python
@command -v $(PYTHON) >/dev/null || { \
	echo "There is no '$(PYTHON)' here. Install Python 3.10 or newer, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "Python 3.10 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
endef

$(VENV)/.ready: settings.ini pyproject.toml setup.py
	$(check_python)
	@if [ ! -x $(VENV)/bin/pip ]; then \
		echo "Making $(VENV) with $$($(PYTHON) --version). PyTorch and its companions are up to 5 GB: 3 to 20 minutes, once."; \
		$(PYTHON) -m venv $(VENV) || { \
			echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	else echo "Bringing $(VENV) in line with settings.ini."; fi
	@set -o pipefail; $(OWN) -m pip install --no-input --progress-bar off --editable '.[dev]' 2>&1 | tee $(VENV)/install.log \
		| awk '/Downloading .*\([0-9.]+ [MG]B\)/ { print "  " $$2, $$3, $$4; fflush() } /^Installing collected/ { print "  installing"; fflush() }' \
		|| { tail -n 20 $(VENV)/install.log >&2; echo "The installation failed; all that pip said is in $(VENV)/install.log." >&2; exit 1; }
	@$(hooks)
	@touch $@

# nbdev's hooks merge notebooks cell by cell and trust what was pulled. They go into this clone only (nbdev would also
# write to ~/.jupyter, hence HOME), by their full path, so that they work where .venv is not active. A post-merge hook
# that somebody else wrote stays.
hooks = if [ -d .git ] && [ -z "$$CI" ] && { [ ! -e .git/hooks/post-merge ] || grep -q nbdev .git/hooks/post-merge; }; then \
	bin=$$(cd $(VENV)/bin && pwd); HOME=$${bin%/bin} PATH="$$bin:$$PATH" nbdev_install_hooks >/dev/null \
	&& git config --local merge.nbdev-merge.driver "'$$bin/nbdev_merge' %O %A %B %P" \
	&& printf '\#!/bin/bash\n"%s/nbdev_trust"\n' "$$bin" > .git/hooks/post-merge \
	|| echo "nbdev's git hooks could not be installed; everything else works without them." >&2; fi

# ---- what a person types --------------------------------------------------------------------------------------------
# Only what was typed (or set in the environment) is passed on; the rest is the notebook's own default.
typed = $(if $(filter-out file undefined,$(origin $(1))),$(if $($(1)),$(2) '$($(1))'))
parameters = $(call typed,SAMPLER,-r sampler) $(call typed,RATIO,-p ratio) $(call typed,SCALE,-r scale) $(call typed,SEED,-p seed) \
	$(call typed,DATA,-r data) $(call typed,ROOT,-r root) $(call typed,CLASSES,-r classes)

run: $(READY)  ## one run of the main experiment, from training the GAN to the table (10 minutes on two cores)
	@folder=$${SYNTHNB_RUNS:-runs}/$(NOTEBOOK); mkdir -p $$folder; page=$$folder/notebook-$$$$; touch $$page.start; \
	trap 'rm -f '$$page.start EXIT; \
	SYNTHNB_RECORD="$$(cd $$folder && pwd)/$${page##*/}.start" $(PY) -m papermill nbs/$(NOTEBOOK).ipynb $$page.ipynb --kernel python3 $(parameters) $(ARGS) \
		--no-progress-bar --stdout-file - --stderr-file - 2> >(grep --line-buffered -v 'TCP without encryption' >&2) \
	|| { echo "The run stopped. What it had done so far: $$page.ipynb; what was finished will be reused." >&2; exit 1; }; \
	$(PY) -m nbconvert --log-level ERROR --to html --CoalesceStreamsPreprocessor.enabled=True $$page.ipynb || exit 1; \
	record=$$(cat $$page.start); record=$${record#$(CURDIR)/}; \
	if [ ! -e "$$record/metrics.json" ]; then echo "The notebook ended without leaving a record in $$folder." >&2; exit 1; fi; \
	for kind in ipynb html; do mv $$page.$$kind "$$record/notebook.$$kind"; done; \
	echo; echo "The record:  $$record  (params.json, metrics.json, tables/, figures/)"; \
	echo "As a page:   $$record/notebook.html"

# SCALE counts here only where it was typed: the tables have scales of their own. The tables are made from whatever records
# there are, so also when runs failed, and say what is missing; then the exit status is that of the runs. They are of the
# scale that was typed; the table gpu has its own.
verdict_scale = $(if $(filter-out file,$(origin SCALE)),$(SCALE),$(if $(filter gpu,$(TABLE)),gpu,laptop))
grid = $(if $(TABLE),table='$(TABLE)') $(if $(ROOT),root='$(ROOT)') $(if $(SEEDS),seeds='$(SEEDS)') \
	$(if $(filter-out file,$(origin SCALE)),scale='$(SCALE)') $(if $(FRESH),fresh=1)
here = --cores $(CORES) --resources gpu=1 mem_mb=$$($(PY) -c 'import psutil; print(psutil.virtual_memory().available//10**6)')
tables: $(READY)  ## every run that the tables need and that has no record yet, then the tables from the records
	@$(PY) -m snakemake $(if $(findstring --profile,$(ARGS)),,$(here)) $(if $(FRESH),--forceall) $(ARGS) \
		$(if $(strip $(grid)),--config $(grid)); runs=$$?; \
	$(if $(filter -n --dry-run,$(ARGS)),exit $$runs;) \
	$(MAKE) --no-print-directory run NOTEBOOK=14_verdict parameters='-r scale $(verdict_scale)' ARGS= && exit $$runs

# Each step says how long it took; pytest comes last, so that the last line counts what ran. Notebooks run two at a
# time at smoke scale, the long ones (the last) first, each in a process of its own with one thread, and what they
# make goes to a scratch folder: nothing here writes to runs/.
test_notebook = began=$$SECONDS; if said=$$("$$0" --path "$$1" --n_workers 0 2>&1) && [[ "$$said" == *Success.* ]]; \
	then echo "$$1  $$((SECONDS - began)) s"; else printf "%s\n" "$$said" "$$1 FAILED"; exit 1; fi
step = echo; echo "== $(1)"; began=$$SECONDS; { $(2); } || exit 1; echo "   $$((SECONDS - began)) s"
test: $(READY)  ## everything: in sync, clean, ruff, every notebook at smoke scale, pytest (under 15 minutes)
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(call step,the repository: in sync and clean,$(PY) -m pytest -q --no-header tests/test_repository.py); \
	$(call step,ruff,$(PY) -m ruff check --quiet --output-format concise synthnb tests nbs setup.py && echo "nothing to say"); \
	$(call step,nbdev_test: the notebooks,ls -r nbs/*.ipynb | SYNTHNB_RUNS="$$scratch" IN_TEST=1 OMP_NUM_THREADS=1 \
		xargs -n 1 -P 2 bash -c '$(test_notebook)' "$(BIN)/nbdev_test"); \
	echo; echo "== pytest"; $(PY) -m pytest -q --no-header --durations=10 --numprocesses 2 --dist loadfile $(ARGS) tests

lab: $(READY)  ## JupyterLab, opened on the notebooks
	@$(PY) -m jupyterlab --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/nbs $(ARGS)

bench: $(READY)  ## the speed and memory table, on the CPU or on CUDA
	@$(PY) tests/bench.py $(ARGS)

readme: $(READY)  ## README.md and its pictures, from nbs/index.ipynb
	@$(PY) tests/readme.py

outputs: $(READY)  ## execute the notebooks in NAMES (default: all) and keep their outputs, small enough for git
	@JUPYTER_PREFER_ENV_PATH=1 $(PY) tests/outputs.py $(NAMES) && "$(BIN)/nbdev_clean"

prepare: $(READY)  ## before a commit: export the notebooks, clean them, render the README
	@"$(BIN)/nbdev_export" && "$(BIN)/nbdev_clean" && $(PY) tests/readme.py

clean:  ## remove artefacts, executed notebooks and caches; records and .venv stay
	@rm -rf runs/artefacts runs/*/notebook-* runs/*/*/notebook.ipynb runs/*/*/notebook.html build dist *.egg-info
	@rm -rf .pytest_cache .ruff_cache .hypothesis .snakemake runs/.snakemake runs/logs _docs _proc
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print0 | xargs -0 rm -rf
	@echo "Removed artefacts, executed notebooks and caches. The records in runs/ and $(VENV) are as they were."
