# The front door. `make help` lists what there is to do.

PYTHON  ?= python3
PROFILE ?= report
JOBS    ?= 2
PORT    ?= 8000

# The tensors are small: a second thread only slows a notebook down.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# SAEs that are trained at the same time: the cores, shared out over what runs at once.
CORES := $(shell env -u OMP_NUM_THREADS nproc 2> /dev/null || getconf _NPROCESSORS_ONLN 2> /dev/null || echo 1)
export MATRYOSHKA_MIXING_THREADS ?= $(shell expr $(CORES) / $(JOBS) '|' 1 2> /dev/null || echo 1)

PROFILES := $(basename $(notdir $(wildcard notebooks/profiles/*.yml)))
ifneq ($(words $(PROFILE)) $(filter $(PROFILE),$(PROFILES)),1 $(PROFILE))
$(error PROFILE=$(PROFILE) is unknown; choose one of: $(PROFILES))
endif

VENV      := .venv
PY        := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
BENCHMARK_VENV      := .venv-benchmark
BENCHMARK_PY        := $(BENCHMARK_VENV)/bin/python
BENCHMARK_INSTALLED := $(BENCHMARK_VENV)/installed
SWEEP_VENV      := .venv-sweep
SWEEP_INSTALLED := $(SWEEP_VENV)/installed
SWEEPS          := $(basename $(notdir $(wildcard sweeps/*.yml)))
BUILD     := _build/$(PROFILE)
NAMES     := $(basename $(notdir $(wildcard notebooks/[0-9][0-9]_*.py)))
EXECUTED  := $(NAMES:%=$(BUILD)/notebooks/%.ipynb)
README_FIGURE := notebooks/03_matryoshka_inherits.ipynb fig-matryoshka-curve book/_static/readme-figure.png
PACKAGE   := src/matryoshka_mixing
CHAPTERS  := $(PACKAGE)/chapters
# What every notebook stands on: code and data of the package, all but the chapters' own modules.
COMMON    := $(shell find $(PACKAGE) -type f \( -name '*.py' -o -name '*.json' -o -name '*.npz' -o -name '*.mplstyle' \) -not -path '$(CHAPTERS)/[!_]*')
# Folders are listed too: their dates tell of a file that was removed.
BOOK      := _config.yml _toc.yml benchmarks/. $(wildcard benchmarks/*.py benchmarks/*.json) \
             book/. $(shell find book -mindepth 1 -not -path "*/__pycache__*")
# What makes torch, NumPy and numba take the paths of another, older CPU.
ELSEWHERE := MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Prescott \
             NUMBA_CPU_NAME=nehalem NUMBA_CPU_FEATURES=+sse4.2,+popcnt
ONLY      ?= $(foreach name,$(NAMES),$(firstword $(subst _, ,$(name))))
NBVAL      = $(PY) -m pytest --nbval --nbval-current-env -n $(JOBS) --dist loadfile --nbval-cell-timeout 300
PARALLEL   = $(MAKE) --silent --no-print-directory --jobs=$(JOBS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book site pdf browser notebooks executed published test coverage elsewhere torture release-check lint format benchmark sweep serve clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "PROFILE=quick|report|full chooses how much is run (default: report); PYTHON=... the interpreter."

book: $(INSTALLED) ## run every notebook and render the site into _build/html
	@$(PY) scripts/alone.py _build/.lock $(PARALLEL) PROFILE=$(PROFILE) published

# In a folder of its own, so that `make book` does not take the copies for its own results.
site: $(INSTALLED) ## render the committed notebooks as they are into _build/html; WITH=out.ipynb: that one, of papermill, in its place
	@mkdir -p _build/committed/notebooks && cp $(NAMES:%=notebooks/%.ipynb) _build/committed/notebooks
	@$(if $(WITH),$(PY) scripts/render.py place _build/committed/notebooks $(WITH))
	@$(PY) scripts/alone.py _build/.lock $(PARALLEL) BUILD=_build/committed published

pdf: book ## print the whole book into _build/html/matryoshka-mixing.pdf (needs Debian's chromium)
	@$(PY) scripts/render.py pdf $(BUILD) _build/html

browser: $(INSTALLED) ## look at every page of _build/html in a real browser (needs Debian's chromium)
	@$(PY) -m pytest -n $(JOBS) tests/browser

notebooks: $(INSTALLED) ## refresh the outputs of the committed notebooks
	@$(PY) scripts/alone.py _build/.lock $(PARALLEL) PROFILE=report executed
	@for name in $(NAMES); do \
	  new=_build/report/notebooks/$$name.ipynb; old=notebooks/$$name.ipynb; \
	  cmp --silent $$new $$old && continue; \
	  cp $$new _build/$$name.partial && mv _build/$$name.partial $$old && echo "[$$name] refreshed"; \
	done
	@$(PY) scripts/render.py figure $(README_FIGURE)

test: lint ## check style and types, run the unit tests, and nbval over the committed notebooks
	@$(PY) -m pytest -n $(JOBS) --ignore tests/browser tests
	@$(NBVAL) notebooks

coverage: $(INSTALLED) ## which lines and branches the unit tests reach; fails below the floor in pyproject.toml (slower than test)
	@$(PY) -m pytest -n $(JOBS) --cov=matryoshka_mixing --ignore tests/browser tests

elsewhere: $(INSTALLED) ## nbval once more, as on another CPU: other BLAS kernels, and compiled code for an old processor
	@$(ELSEWHERE) $(NBVAL) $(ONLY:%=notebooks/%_*.ipynb)

torture: $(INSTALLED) ## kill, starve and crowd what `make book` does, and see that it comes right (half an hour)
	@$(PY) scripts/torture.py

release-check: $(INSTALLED) ## build wheel and sdist, install the wheel into an environment of its own, and use it there
	@$(PY) scripts/release_check.py

lint: $(INSTALLED) ## check style, formatting and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: $(INSTALLED) ## repair style and formatting
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

benchmark: $(BENCHMARK_INSTALLED) ## measure the speed beside JAX, SAELens and a plain loop (own environment, some 20 minutes)
	@$(BENCHMARK_PY) benchmarks/agreement.py
	@$(BENCHMARK_PY) benchmarks/exchange.py
	@$(BENCHMARK_PY) benchmarks/run.py --output benchmarks/results.json

sweep: ## run the notebook of sweeps/SWEEP.yml at every point of its design, or what is missing (own environment)
	@test -n "$(SWEEP)" -a -f "sweeps/$(SWEEP).yml" || { \
	  echo "error: SWEEP=$(SWEEP) is unknown; choose one of: $(SWEEPS), or write sweeps/NAME.yml" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(SWEEP_INSTALLED)
	@$(SWEEP_VENV)/bin/snakemake --snakefile sweeps/Snakefile --config sweep=sweeps/$(SWEEP).yml --cores $(JOBS)
	@echo "[sweep] table: _build/sweeps/$(SWEEP)/table.csv"

serve: ## show _build/html at http://localhost:8000 (PORT=... for another)
	@test -f _build/html/index.html || { echo "nothing to show yet: run 'make book' first" >&2; exit 1; }
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean: ## remove everything that was built
	rm -rf _build

distclean: clean ## remove the installed packages as well
	rm -rf $(VENV) $(BENCHMARK_VENV) $(SWEEP_VENV)

# Runs alone in this folder, see `book`.
published: $(BUILD)/rendered
	@$(PY) scripts/render.py publish $(BUILD) _build/html

# One recipe for all environments: the report's, the benchmark's with what it is compared to, and that of the sweeps.
$(INSTALLED): requirements.txt pyproject.toml
$(BENCHMARK_INSTALLED): benchmarks/requirements.txt pyproject.toml
$(SWEEP_INSTALLED): sweeps/requirements.txt pyproject.toml
$(INSTALLED) $(BENCHMARK_INSTALLED) $(SWEEP_INSTALLED):
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON) found; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version); name another with PYTHON=..." >&2; exit 1; }
	@rm -f $@
	@echo "[install] $$($(PYTHON) --version) into $(@D): pinned packages, some minutes the first time…"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r $<
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(@D)/bin/python -m compileall -qq -j 0 $(@D)/lib || true  # on all cores, which pip does on one; some files are no Python 3
	@touch $@
	@echo "[install] done"

executed: $(EXECUTED)

$(BUILD)/notebooks/%.ipynb: notebooks/%.py $(COMMON) notebooks/profiles/$(PROFILE).yml book/claims.yml \
                            scripts/execute.py scripts/kernels.py requirements.txt | $(INSTALLED)
	@$(PY) scripts/execute.py $< --profile notebooks/profiles/$(PROFILE).yml --output $@

# Notebook NN_name stands on its chapter as well: chapters/name.py, or what the folder chapters/name holds.
own = $(shell find $(CHAPTERS) -type f \( -path '$(CHAPTERS)/$(1).*' -o -path '$(CHAPTERS)/$(1)/*' \) -not -name '*.pyc')
name = $(1:$(firstword $(subst _, ,$(1)))_%=%)
$(foreach notebook,$(NAMES),$(eval $(BUILD)/notebooks/$(notebook).ipynb: $(call own,$(call name,$(notebook)))))

$(BUILD)/ledger.json: $(EXECUTED)
	@$(PY) -m matryoshka_mixing.claims collect $(EXECUTED) --ledger $@ --table $(BUILD)/verdicts.md \
		--page $(BUILD)/criteria.md

$(BUILD)/rendered: $(BUILD)/ledger.json $(BOOK) scripts/render.py scripts/tested.py scripts/mutate.py scripts/torture.py tests/test_decisive.py
	@$(PY) scripts/render.py build $(BUILD) $(EXECUTED)
