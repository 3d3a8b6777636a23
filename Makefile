# The first interpreter of this list that is new enough and can make virtual environments builds .venv;
# `make setup PYTHON=/path/to/python` names another one, `make setup EXTRAS=test,parity` installs more.
PYTHON ?= python3.11 python3.12 python3.13 python3
EXTRAS ?= test
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup verify test lint types clean

setup: $(STAMP)

verify: setup
	$(VENV)/bin/jaxsink verify

# In as many processes as there are cores: most of the time goes into compiling, which keeps one core busy.
test: setup
	$(VENV)/bin/python -m pytest -n logical --dist worksteal

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/python -m mypy

# Results under runs/ and out/ stay: they may have cost hours.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find jaxsink theory experiments tests -type d -name __pycache__ -prune -exec rm -rf {} +

# An environment without a working pip is what an interrupted set-up leaves: it is made anew.
$(STAMP): pyproject.toml
	@set -eu; \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	  chosen=; old=; bare=; \
	  for candidate in $(PYTHON); do \
	    "$$candidate" -c '' >/dev/null 2>&1 || continue; \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$old $$candidate"; continue; }; \
	    "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 || { bare="$$bare $$candidate"; continue; }; \
	    chosen="$$candidate"; break; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "make setup: no usable Python >= 3.11 among: $(PYTHON)" >&2; \
	    [ -z "$$old" ] || echo "  too old:$$old" >&2; \
	    [ -z "$$bare" ] || echo "  without the venv module (on Debian or Ubuntu: apt install python3-venv):$$bare" >&2; \
	    echo "  Install one, or name one: make setup PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "make setup: $$("$$chosen" --version) in $(VENV)"; \
	  "$$chosen" -m venv --clear $(VENV); \
	fi; \
	echo "make setup: installing jaxsink and its dependencies (a few minutes the first time)"; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'; \
	touch $(STAMP)
