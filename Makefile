# Two commands that do all their own set-up: make demo, make test. They need Python 3.10+, make and a C toolchain, and for
# the web target node and npm (without them its tests are skipped).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
# Where to take torch from; a machine without a GPU saves gigabytes with https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

# Packages that only tests look into; each file says why it is not a dependency.
ONLY_TESTS := $(wildcard tests/requirements-*.txt)

# Isolated toolchains (edgekit toolchain install), here and not in the user's own folder.
export EDGEKIT_TOOLCHAINS ?= $(CURDIR)/$(VENV)/toolchains
TOOLCHAINS := coreai rknn qnn imx500 imx500-converter tensorrt-rtx

# Threads that wait for each other in a spin loop take the core from those that work, where tests run side by side. Not for
# the demo: what it measures would wake up late.
test test-all test-toolchains: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo demo-all test test-web test-swift test-kotlin test-all test-toolchains test-arm64 accuracy ablation blip2-table lint types check format tables bench golden clean

demo: $(VENV)/.installed            ## a trained detector and a small BLIP-2, converted, measured and shown, in three minutes
	$(BIN)/edgekit demo -o out/demo -j $(JOBS)

demo-all: $(VENV)/.installed        ## the detector to every target in every precision
	$(BIN)/edgekit demo --target all --precision fp32,fp16,int8 --scenes 300 -o out/demo -j $(JOBS)

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder

test: $(VENV)/.installed lint       ## lint, types (tests/test_static.py) and the short suite
	$(PYTEST)

test-all: $(VENV)/.installed lint   ## everything: all targets, precisions and recipes, clean environments, accuracy, training; with coverage
	EDGEKIT_TEST_ALL=1 $(PYTEST) --cov --cov-report=term

test-toolchains: $(VENV)/.installed ## install the isolated toolchains, then run what needs them
	$(BIN)/edgekit toolchain install $(TOOLCHAINS)
	$(BIN)/edgekit toolchain check
	EDGEKIT_TEST_TOOLCHAINS=1 EDGEKIT_TEST_ALL=1 $(PYTEST) -m toolchain

accuracy: $(VENV)/.installed        ## INT8 of all detectors on every target that executes, emulates or interprets here
	EDGEKIT_TEST_ALL=1 $(BIN)/python -m pytest -q tests/test_int8_accuracy.py
	EDGEKIT_TEST_ALL=1 EDGEKIT_TEST_TOOLCHAINS=1 $(BIN)/python -m pytest -q tests/test_int8_accuracy.py

test-web: $(VENV)/.installed        ## the web runtime in node and Chromium: golden set, bundles, the app; needs node 20 and npm
	cd platforms/web && npm ci --no-audit --no-fund --ignore-scripts && npm run build
	EDGEKIT_TEST_ALL=1 $(BIN)/python -m pytest -q tests/test_platform_web.py

test-swift: $(VENV)/.installed      ## the Swift runtime: golden set, converted bundles, thread sanitizer; sets Swift 6 up by debootstrap
	platforms/swift/test.sh prepare
	EDGEKIT_TEST_ALL=1 $(BIN)/python -m pytest -q tests/test_platform_swift.py

test-kotlin: $(VENV)/.installed     ## the Kotlin runtime: golden set, converted bundles; sets the Kotlin compiler up by npm
	platforms/kotlin/test.sh prepare
	EDGEKIT_TEST_ALL=1 $(BIN)/python -m pytest -q tests/test_platform_kotlin.py

test-arm64: $(VENV)/.installed $(VENV)/arm64/.installed ## the device runtime on an emulated ARM board; needs qemu-user, apt-get
	EDGEKIT_ARM64=$(VENV)/arm64 $(BIN)/python -m pytest -m arm64

check: lint types

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: $(VENV)/.installed          ## write the generated tables into README.md and docs
	$(BIN)/python docs/tables.py

ablation: $(VENV)/.installed        ## what each method of the quantisation plan is worth, into docs/figures/ablation.json
	$(BIN)/python docs/ablation.py

blip2-table: $(VENV)/.installed     ## what each precision of each part of a BLIP-2 costs, into docs/figures/blip2.json and docs/BLIP2.md
	$(BIN)/python docs/blip2_table.py
	$(BIN)/python docs/tables.py

golden: $(VENV)/.installed          ## write the golden set, which the runtimes of all platforms are checked with
	$(BIN)/python -m golden.write

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/overhead_tasks.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/pool.py

# torch first and alone: it decides which build (CPU or CUDA) everything else finds installed.
$(VENV)/.installed: pyproject.toml constraints.txt $(ONLY_TESTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[convert,dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(addprefix --requirement ,$(ONLY_TESTS))
	if command -v npm > /dev/null; then $(BIN)/edgekit toolchain install web; fi
	touch $@

$(VENV)/arm64/.installed: tests/arm64/prepare.sh tests/arm64/requirements.txt
	tests/arm64/prepare.sh $(VENV)/arm64 $(BIN)/python

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
