# make demo, make test, make lint: each prepares .venv by itself; the second call finds it ready.
#
#   make TORCH='torch==2.13.0 --index-url URL' demo    another build of torch
#   make PYTHON=python3.12 test                        another Python, 3.11 or newer

TORCH ?= torch==2.13.0
PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
READY := $(VENV)/ready
# torch.compile cannot see through the shape checks that the other tests run under.
PLAIN := --strict-markers --strict-config --import-mode=importlib -q

.PHONY: demo test lint format clean

demo: $(READY)
	$(BIN)/snello demo $(DEMO)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts="$(PLAIN)" -m compiled $(TESTS) || [ $$? -eq 5 ]
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch comes first and alone; the constraint then keeps every later step from replacing it.
$(READY): pyproject.toml setup.py Makefile $(wildcard src/snello/ops/*.h src/snello/ops/*/*.cpp src/snello/ops/*/*.inc)
	@$(PYTHON) -c 'import sys; sys.exit("snello needs Python 3.11 or newer, this is %d.%d; try make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1'
	$(PIP) install $(TORCH)
	$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/torch.txt
	$(PIP) install 'setuptools>=77'
	$(PIP) install --no-build-isolation --constraint $(VENV)/torch.txt --editable '.[demo]' --group dev
	@touch $@
