# Each target sets up what it needs in a virtual environment of its own, .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help demo test test-long coverage lint docs install clean

help:
	@echo "make demo       the whole main job on a phantom: data, training, prediction, submission.zip, score, demo/report.png"
	@echo "make test       the test suite (about five minutes on two cores)"
	@echo "make test-long  the tests that take minutes each"
	@echo "make coverage   both, and the share of the package's lines that they run (numba kernels apart)"
	@echo "make lint       style, formatting and types"
	@echo "make docs       the guides and the API reference, as HTML: site/index.html"
	@echo "make install    only the virtual environment"
	@echo "make clean      remove all that these made"

install: $(VENV)/installed

$(VENV)/installed: requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@# A plain path to the checkout: numba's kernels, which pip leaves behind when it replaces an ordinary installation, shadow any other link.
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[test]"
	touch $@

demo: install
	$(BIN)/vesuvius-kit demo --output demo

# A file's tests stay together, since they share what was made for them; so do results, which no test gets from another file.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: install
	$(PYTEST) -m "not long and not gpu"

test-long: install
	$(PYTEST) -m "long and not gpu"

coverage: install
	$(PYTEST) -m "not gpu" --cov --cov-report term:skip-covered

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo site build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
