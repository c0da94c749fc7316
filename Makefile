# Each target does its own set-up: a fresh clone needs Python 3.10 to 3.12 and make, nothing else.
# VENV, PYTHON (to make it with) and PYTEST_FLAGS may be set: make test PYTHON=python3.12 VENV=.venv312 PYTEST_FLAGS=-x

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
OUTPUT ?= demo-output
BIN := $(VENV)/bin
READY := $(VENV)/.zoo-installed
TORCH_VENV ?= .venv-torch
TORCH_READY := $(TORCH_VENV)/.zoo-installed
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PROJECTS := . ops $(PLUGINS)
EDITABLE := -e ops -e '.[cpu,dev,docs]' $(addprefix -e ,$(PLUGINS))

# Paddle's matrix library takes its quick path on AMD processors only when told so before it is loaded. Threads stay at
# one: tests are small, and those that start processes divide the cores among them.
ifneq ($(shell grep -s -m 1 AuthenticAMD /proc/cpuinfo),)
export MKL_DEBUG_CPU_TYPE ?= 5
endif

# The tests start hundreds of interpreters. Where no bytecode is kept each compiles Paddle anew, which takes longer (7 s)
# than most of them have to do, for uv does not compile what it installs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test lint soak record bench docs wheels clean
help:
	@echo "make demo    train a tokenizer and a small model, in one process and in four, and sample from it (10 min)"
	@echo "make test    style, types, import rules and all tests (20 min)"
	@echo "make record  run what proves the capability matrix, write evidence.json and the tables (45 min)"
	@echo "make soak    what is too long for make test: kill loops, repeated starts"
	@echo "make bench   speed of training, saving, converting and planning; what transformers makes of exports"
	@echo "make docs    build the documents into site/; a broken link fails"
	@echo "make wheels  build the distributions into dist/"
	@echo "make lint    style, types and import rules only"
	@echo "make clean   remove what the other targets made, the environment included"

install: $(READY)

# uv is quicker and optional: where it cannot be had, or does not know this machine's package index, pip does the same.
$(READY): $(addsuffix /pyproject.toml,$(PROJECTS))
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "zoo needs Python 3.10 to 3.12: make PYTHON=/path/to/it" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv 2>/dev/null || true
	@echo "installing zoo, its plugins and PaddlePaddle into $(VENV)"
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python $(EDITABLE) 2>/dev/null || \
		$(BIN)/python -m pip install --quiet $(EDITABLE)
	@touch $@

demo: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/demo.py $(OUTPUT)

# Two tests at a time, then one at a time those that start several processes (t2): these need all cores, and gloo gives
# up on a peer that gets none. The second part runs whatever the first found; 5 is pytest's word for "nothing to run".
test: lint
	@one=0; two=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not soak and not t2" $(PYTEST_FLAGS) || one=$$?; \
	$(BIN)/python -m pytest -m "t2 and not soak" $(PYTEST_FLAGS) || two=$$?; \
	case "$$one $$two" in "0 0" | "0 5" | "5 0") ;; *) echo "tests failed: $$one alone, $$two of several processes" >&2; exit 1 ;; esac

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

soak: $(READY)
	$(BIN)/python -m pytest -m soak -s -v $(PYTEST_FLAGS)

# Every test that says what it proves. Where there is a GPU its tests record too; without one the cells stay declared.
record: $(READY)
	$(BIN)/python -m pytest --zoo-record -m "soak or not soak" $(PYTEST_FLAGS) \
		$$(grep -rl --include='test_*.py' zoo_evidence tests plugins/*/tests | grep -v tests/matrix)
	$(BIN)/python docs/generate.py

bench: $(READY) $(TORCH_READY)
	$(BIN)/python benchmarks/ops.py
	$(BIN)/python benchmarks/train_speed.py --torch-python $(TORCH_VENV)/bin/python
	$(BIN)/python benchmarks/decode_speed.py --torch-python $(TORCH_VENV)/bin/python
	$(BIN)/python benchmarks/export_speed.py
	cd benchmarks && $(abspath $(BIN))/python static_speed.py
	$(BIN)/python benchmarks/save.py
	$(BIN)/python benchmarks/convert.py
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/finetune.py
	$(BIN)/python benchmarks/serve_speed.py
	$(BIN)/python benchmarks/plan_speed.py
	$(BIN)/python benchmarks/plan_memory.py
	$(BIN)/python tools/check_transformers.py --torch-python $(TORCH_VENV)/bin/python
	$(BIN)/python docs/generate.py

# The other side of the comparison, in an environment of its own; pip, because it knows this machine's wheels.
$(TORCH_READY): Makefile
	@$(BIN)/python -m venv $(TORCH_VENV)
	@echo "installing PyTorch and transformers into $(TORCH_VENV)"
	@$(TORCH_VENV)/bin/python -m pip install --quiet torch==2.13.0
	@$(TORCH_VENV)/bin/python -m pip install --quiet transformers==5.23.0 safetensors==0.8.0 numpy
	@touch $@

# The variable keeps the theme from advertising its successor.
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "built: open site/index.html, or for the search: $(BIN)/python -m http.server --directory site"

wheels: $(READY)
	rm -rf dist
	@for project in $(PROJECTS); do $(BIN)/python -m build --no-isolation --outdir dist "$$project" >/dev/null || exit 1; done
	@ls dist

clean:
	rm -rf $(VENV) $(TORCH_VENV) dist site $(OUTPUT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
