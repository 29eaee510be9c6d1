# `make demo` and `make test` need nothing but Python >= 3.11 and make: each builds .venv first.
#   PYTHON=/path/to/python3.12 make test      chooses the interpreter
#   make test PYTEST_ARGS=--exitfirst         gives pytest further options
# Three stamps, so that the demo does not wait for the test tools, and the site not either.

VENV := .venv
BIN  := $(VENV)/bin
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev
DOCS_STAMP := $(VENV)/.stamp-docs
DEV_EXTRAS := dev,docs
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all examples check lint format-check types imports prose docs dist bench format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(RUN_STAMP) ## train on shards, forget a sample and verify it, on this machine, without any download of data
	$(BIN)/taft-ray demo

# Folders with long tests on Ray come first, so that no long one is left to a single process at the end.
TEST_FOLDERS := bits cli orchestration composer proof verbs web studies serving workers prefix run storage data tangent fitting sums models \
  additive answers attack benchmarks cluster doctests embedded evaluation examples pages plans privacy prose simulation systems
TESTS = $(TEST_FOLDERS:%=tests/%) $(wildcard tests/test_*.py)
SHOWN := tests/prose/test_notebook.py tests/examples tests/doctests/test_docstrings_on_ray.py
PYTEST := $(BIN)/python -m pytest --durations=25 $(PYTEST_ARGS)

# Two processes, a file of tests each at a time, in order: much of a test with Ray is waiting for its processes.
test: $(DEV_STAMP) ## the tests that take minutes in all (pytest fails when it finds none)
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

examples: $(DEV_STAMP) ## run what the documents show: examples, the notebook, docstrings that need Ray (minutes)
	$(PYTEST) -m "slow or not slow" -n 2 --dist load $(SHOWN)

test-%: $(DEV_STAMP) ## the tests of one folder, as in make test-composer
	$(PYTEST) tests/$*

test-all: $(DEV_STAMP) ## every test, those marked slow too
	$(PYTEST) -m "slow or not slow" $(TESTS)

check: lint format-check types imports prose ## everything a reviewer should not have to say; pre-commit runs the same targets

lint: $(DEV_STAMP) ## ruff's rules
	$(BIN)/ruff check .

format-check: $(DEV_STAMP) ## is the code formatted?
	$(BIN)/ruff format --check .

types: $(DEV_STAMP) ## pyright
	$(BIN)/pyright

imports: $(DEV_STAMP) ## the rooms of ARCHITECTURE.md
	$(BIN)/lint-imports

prose: $(DEV_STAMP) ## sentences of pages, docstrings, errors and comments, by the rules of CONTRIBUTING.md
	$(BIN)/python tests/prose/check_prose.py

docs: $(DOCS_STAMP) ## the site of docs/, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file docs/site/mkdocs.yml
	@echo "open site/index.html"

dist: $(DEV_STAMP) ## the sdist, and the wheel that is built from it, into dist/
	rm -rf dist
	$(BIN)/python -m build

bench: $(DEV_STAMP) ## the benchmarks, into benchmarks/README.md; with ASSETS=folder those on real pictures too
	$(BIN)/python -m benchmarks $(if $(ASSETS),--assets $(ASSETS))

format: $(DEV_STAMP) ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and every cache; runs/ stays
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip at work in one line: the packages as they are collected. Its errors stay on stderr, and its exit code is kept.
define pip_install
{ $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt $(1); echo "pip ended $$?"; } | { \
  sep="collecting "; \
  while read -r word name rest; do \
    case "$$word $$name" in \
      "Collecting "*) printf '%s%s' "$$sep" "$${name%%[][=<>!~;]*}"; sep=" " ;; \
      "Installing collected") [ "$$sep" = " " ] && echo; sep="collecting "; echo "installing them" ;; \
      "pip ended") code="$$rest" ;; \
    esac; \
  done; \
  [ "$$sep" = " " ] && echo; \
  exit "$$code"; }
endef

# The interpreter is looked for when it is needed, so that `make help` and `make clean` work without one.
# ensurepip is asked for because some distributions ship Python without it, and venv then fails half-way.
$(RUN_STAMP): pyproject.toml constraints.txt
	@found=; for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "expected Python >= 3.11 with venv and pip, got none of: $(CANDIDATES)" >&2; \
	  for python in $(CANDIDATES); do "$$python" --version >&2 2>/dev/null || true; done; \
	  echo "install Python 3.11 or newer (on Debian and Ubuntu python3-venv too), or run make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)
	@echo "installing the package (torch and its CUDA libraries are several GB: some minutes)"
	@$(call pip_install,-e .)
	@touch $@

$(DOCS_STAMP): $(RUN_STAMP)
	@$(call pip_install,-e ".[docs]")
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@$(call pip_install,-e ".[$(DEV_EXTRAS)]")
	@$(call pip_install,--no-deps dp-accounting) # it asks for attrs < 24 and needs nothing of it; `dev` has what it needs
	@touch $@
