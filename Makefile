.PHONY: help install install-gpu repair moved check demo run baselines page serve worker push test reliability fuzz lint format lock bench clean
.DEFAULT_GOAL := help

# the first of these commands that is a Python which this project supports
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv/installed
# the project itself: the command dogs-vs-cats, and its modules from any folder
SELF := .venv/project
# without isolation, in which pip fetches build tools without comparing hashes
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --no-build-isolation

# stages are started as `python -m tasks <stage>`, and Python finds modules in the current folder
unexport PYTHONSAFEPATH
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

help:
	@echo "make install  create the environment in .venv, with the command dogs-vs-cats; every package is checked against its hash"
	@echo "make demo     the whole pipeline on drawings of cats and dogs, in a minute or two, without an account"
	@echo "make run      the real job, as params.yaml configures it"
	@echo "make baselines   after make run: compare networks from logistic regression to fine-tuning (half an hour)"
	@echo "make page     a page to try the network in a browser, until Ctrl-C"
	@echo "make serve    Prefect on this machine: server, schedule and worker, until Ctrl-C"
	@echo "make worker   a worker in this clone for the Prefect server at PREFECT_API_URL, or else that of make serve"
	@echo "make push     send data, models and earlier runs to DVC's remote"
	@echo "make install-gpu   make install with CUDA's libraries, for TensorFlow on an NVIDIA GPU under Linux"
	@echo "make check    the linters, and the tests that need no process, server or training run (a minute)"
	@echo "make test     all tests"
	@echo "make reliability   the tests of what can go wrong, which write the tables of docs/reliability.md"
	@echo "make fuzz     the tests of damaged files with twenty thousand examples each (ten minutes)"
	@echo "make lint     ruff and mypy"
	@echo "make format   ruff's formatter and fixes"
	@echo "make bench    the benchmarks behind docs/results.md (half an hour; see benchmarks/)"
	@echo "make lock     write both locks from pyproject.toml (needs uv)"
	@echo "make clean    delete .cache/ (feature cache, downloads, scratch) and DVC's incomplete copies"

install: $(SELF)

# after the project was moved or copied, scripts and modules in .venv still name the folder in which it was made
ifneq ($(shell cat .venv/folder 2>/dev/null),$(CURDIR))
$(VENV) $(SELF): | repair
$(SELF): moved
endif

# the first lines of a script that finds its Python in its own folder
define SHEBANG
#!/bin/sh
'''exec' "$$(dirname -- "$$(realpath -- "$$0")")/python" "$$0" "$$@"
' '''
endef

repair: export HEADER = $(SHEBANG)
repair:
	@test ! -e $(VENV) || ! .venv/bin/python -c '' 2>/dev/null || { \
	echo "Repairing .venv, which was made in another folder ..."; \
	.venv/bin/python -m venv --without-pip .venv && \
	grep -lIE "^(#!|'''exec' \")/.*/\.venv/bin/python" .venv/bin/* 2>/dev/null | while IFS= read -r script; do \
		awk 'NR == 1 {print ENVIRON["HEADER"]} NR > 1 && !(NR < 4 && /^\047(\047\047exec\047| \047\047\047)/)' \
			"$$script" > .venv/script && cat .venv/script > "$$script"; done; \
	rm -f .venv/script $(SELF); echo "$(CURDIR)" > .venv/folder; }

$(VENV): requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed. Received: $$(python3 --version 2>&1). Install one, or run 'make PYTHON=/path/to/python'." >&2; exit 1; }
	@echo "Installing into .venv (3 GB; a few minutes) ..."
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@awk '/^[a-z]/ {builds = /^(setuptools|wheel)==/} builds' requirements.lock > .venv/builds.lock
	@$(PIP) --only-binary=:all: -r .venv/builds.lock
	@$(PIP) -r requirements.lock
	@echo "$(CURDIR)" > .venv/folder
	@touch $@

# it has no hash to compare, and needs neither an index nor build tools other than the locked ones
$(SELF): $(VENV) pyproject.toml
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

install-gpu: $(SELF)
	@$(PIP) -r requirements-gpu.lock

demo run baselines page serve worker push: $(SELF)
	@exec .venv/bin/dogs-vs-cats $@

# -rfE lists failures alone, not the hundreds of skipped tests
check: lint
	@.venv/bin/python -m pytest --quick --hypothesis-profile=quick -q -rfE

test: $(SELF)
	@.venv/bin/python -m pytest

reliability: $(SELF)
	@.venv/bin/python -m pytest -m reliability --write-reliability

fuzz: $(SELF)
	@.venv/bin/python -m pytest --hypothesis-profile=long --timeout=0 -m hypothesis

lint: $(SELF)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: $(SELF)
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: $(SELF)
	@.venv/bin/python -m benchmarks.cluster
	@.venv/bin/python -m benchmarks.extraction
	@.venv/bin/python -m benchmarks.fine_tuning
	@.venv/bin/python -m benchmarks.page
	@.venv/bin/python -m benchmarks.pipeline
	@.venv/bin/python -m benchmarks.prediction
	@.venv/bin/python -m benchmarks.flow

lock:
	uv pip compile pyproject.toml --extra dask --extra dev --extra export --extra s3 --universal --no-strip-extras --generate-hashes --no-header --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra gpu -c requirements.lock --universal --no-strip-extras --generate-hashes --no-header --quiet -o requirements-gpu.lock

clean:
	rm -rf .cache
	@test ! -d .dvc/cache || find .dvc/cache -name '.*.tmp' -delete # copies that a full disk cut short
