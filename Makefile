# Each target sets up what it needs in a virtual environment of its own, .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export NO_ALBUMENTATIONS_UPDATE := 1

PYTHON_VERSION ?= 3.12
# Packages that the machine with the GPU has beyond PyTorch, NumPy, SciPy, numba and scikit-image.
PRESENT ?=

.PHONY: help demo test test-long coverage lint docs gpu gpu-wheels install clean

help:
	@echo "make demo       the whole main job on a phantom: data, training, tuning, submission.zip, score, demo/report.html"
	@echo "make test       the test suite (about five minutes on two cores)"
	@echo "make test-long  the tests that take minutes each"
	@echo "make coverage   both, and the share of the package's lines that they run (numba kernels apart)"
	@echo "make lint       style, formatting and types"
	@echo "make docs       the guides and the API reference, as HTML: site/index.html"
	@echo "make gpu        on a machine with a GPU, without a network: its tests and benchmarks in under eight minutes: gpu.md"
	@echo "make gpu-wheels beforehand, with a network: the folder of wheels for it, gpu-wheels (PYTHON_VERSION=3.12 PRESENT=...)"
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

# Of the machine's own Python, which has PyTorch: no virtual environment is made. docs/gpu.md says more.
gpu:
	$(PYTHON) benchmarks/gpu_setup.py

gpu-wheels: install
	$(BIN)/python benchmarks/gpu_wheels.py --python-version $(PYTHON_VERSION) --present $(PRESENT)

clean:
	rm -rf $(VENV) demo site build gpu-wheels .gpu-packages *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
