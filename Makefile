# make demo    what the package does, on what ships in it (under 3 minutes)
# make test    the whole test suite, in TEST_JOBS processes (2)
# make oldest  the base install's tests under the oldest NumPy, zarr and constriction that it allows
# make test-adapters  the backbones of timm, TorchGeo, TerraTorch and transformers, in an environment of their own
# make lint    ruff and mypy
# make bench   the codec's bytes and speed beside alternatives, in one run
# make kernel  the compiled coder anew, after a change of its source
# make sanitize  the coder's tests and a million random frames under the address and undefined-behaviour sanitizers
# make fuzz    a million mutated frames, coarse grids and metadata each, guided by coverage (hours)
# make model   rebuild the shipped models and store from EuroSAT_RGB.zip (an hour and a half on 2 cores)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
RUNS ?= runs
TEST_JOBS ?= 2
EUROSAT ?= $(or $(NEC_DATA),../shared/data)/EuroSAT_RGB.zip
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

OLDEST := numpy==1.26.4 zarr==3.1.4 constriction==0.4.1

ADAPTERS := timm==1.0.31 transformers==5.24.0 torchgeo==0.8.1 requests

.PHONY: demo test oldest test-adapters lint format bench kernel sanitize fuzz model clean

$(VENV)/user: pyproject.toml constraints.txt setup.py $(wildcard src/nec/codec/_*.[ch])
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nec needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/dev: $(VENV)/user
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/user
	$(BIN)/nec demo --out $(OUT)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

# NumPy 1.26 has wheels for Python 3.11 and 3.12.
oldest:
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check $(OLDEST) cyclopts docstring-parser google-crc32c pytest pytest-xdist hypothesis
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(VENV)-oldest/bin/python -m pytest -n $(TEST_JOBS) --dist worksteal tests/codec tests/store --ignore tests/store/raster

# These import torchvision, which does not import beside a CPU build of PyTorch: tests/adapters/conftest.py sees to that.
# TerraTorch wants another TorchGeo; its test runs where both are there.
test-adapters:
	test -x $(VENV)-adapters/bin/python || $(PYTHON) -m venv $(VENV)-adapters
	$(VENV)-adapters/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch]' pytest $(ADAPTERS)
	$(VENV)-adapters/bin/python -m pytest tests/adapters

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/user
	$(BIN)/python benchmarks/codec.py

kernel:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77'
	$(BIN)/python setup.py --quiet build_ext --inplace --force

RUNS_OF_FUZZ ?= 1000000
SANITIZERS := -fsanitize=address,undefined
SANITIZED := $(VENV)/sanitized

# A copy of the package whose kernel stops at the first access out of bounds and the first undefined operation.
sanitize: $(VENV)/dev
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r src setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	cd $(SANITIZED) && NEC_NEED_KERNEL=1 NEC_LDFLAGS="$(SANITIZERS)" \
		NEC_CFLAGS="$(SANITIZERS) -O1 -g -fno-sanitize-recover=all -DNEC_ONE_TARGET" \
		$(abspath $(BIN))/python setup.py --quiet build_ext --inplace --force
	PYTHONPATH=$(SANITIZED)/src LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 $(BIN)/python tests/fuzz/fuzz_codec.py legal --runs $(RUNS_OF_FUZZ) --random

fuzz: $(VENV)/dev
	-$(PIP) atheris
	$(BIN)/python tests/fuzz/fuzz_codec.py frame --runs $(RUNS_OF_FUZZ)
	$(BIN)/python tests/fuzz/fuzz_codec.py coarse --runs $(RUNS_OF_FUZZ)
	$(BIN)/python tests/fuzz/fuzz_codec.py metadata --runs $(RUNS_OF_FUZZ)
	$(BIN)/python tests/fuzz/fuzz_codec.py legal --runs $(RUNS_OF_FUZZ) --random

model: $(VENV)/user
	PATH="$(abspath $(BIN)):$$PATH" EUROSAT="$(EUROSAT)" RUNS="$(RUNS)" sh recipes/eurosat-tiny.sh

clean:
	rm -rf src/nec/codec/_kernel.*.so $(VENV) $(VENV)-oldest $(VENV)-adapters $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
