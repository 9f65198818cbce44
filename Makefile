# `make demo` and `make test` each make what they need: a virtual environment in .venv and the
# packages in it. Nothing else is touched, and nothing is fetched after that.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check stubs bench clean

demo: $(VENV)/demo.installed
	$(BIN)/splitbed demo

test: check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Format, lint, strict types, stubs as proto/ has them. `make test` runs it first.
check: $(VENV)/dev.installed
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/python tests/stub_drift.py

stubs: $(VENV)/dev.installed
	$(BIN)/python -m grpc_tools.protoc -Isplitbed/wire=proto --python_out=. --pyi_out=. \
		splitbed/wire/split.proto

bench: $(VENV)/dev.installed
	$(BIN)/python tests/benchmarks/transport.py
	$(BIN)/python tests/benchmarks/settings.py
	$(BIN)/python tests/benchmarks/relay.py
	$(BIN)/python tests/benchmarks/replay.py
	$(BIN)/python tests/benchmarks/end_to_end.py
	$(BIN)/python tests/benchmarks/cutting.py
	$(BIN)/python tests/benchmarks/tax.py
	$(BIN)/python tests/benchmarks/coding.py
	$(BIN)/python -m tests.benchmarks.pipelining
	$(BIN)/python -m tests.benchmarks.stall
	$(BIN)/python tests/benchmarks/framework.py
	$(BIN)/python tests/benchmarks/devices.py --cut stem
	$(BIN)/python tests/benchmarks/footprint.py
	$(BIN)/python tests/benchmarks/sampling.py
	$(BIN)/python tests/benchmarks/clocks.py
	$(BIN)/python tests/benchmarks/intervals.py

$(VENV)/demo.installed: pyproject.toml | $(VENV)/made
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/dev.installed: pyproject.toml | $(VENV)/made
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/demo.installed

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "splitbed needs Python 3.11 or newer: install one, then 'make PYTHON=python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: install it, on Debian and Ubuntu with 'apt install python3-venv'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
