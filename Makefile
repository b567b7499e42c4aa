# The two commands for a fresh machine: `make demo` and `make test`. Everything goes into .venv.
PYTHON ?= python3
VENV ?= .venv
PYTEST_OPTIONS ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo notebook test test-browser lint bench docs fuzz soak check-dependencies sbom clean

demo: $(VENV)/installed-demo
	$(VENV)/bin/regaudit demo

notebook: $(VENV)/installed-notebook
	$(VENV)/bin/jupyter lab notebooks/01_audit.ipynb

test: $(VENV)/installed-test
	$(VENV)/bin/pytest $(PYTEST_OPTIONS)

test-browser: $(VENV)/installed-test
	$(VENV)/bin/pytest -m browser $(PYTEST_OPTIONS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Some 25 minutes; QUICK=1 takes four and shows that everything runs.
bench: $(VENV)/installed-bench
	$(VENV)/bin/python benchmarks/results.py $(if $(QUICK),--quick)

# The site, into build/site/; NOTEBOOKS=off shows the notebooks without running them.
docs: $(VENV)/installed-docs
	$(VENV)/bin/sphinx-build -q -W --keep-going -c docs . build/site

# Ten minutes unless `make fuzz SECONDS=3600`; `TARGETS="manifest plan"` searches in some parsers alone.
fuzz: $(VENV)/installed-fuzz
	$(VENV)/bin/python tests/fuzzing.py --seconds $(or $(SECONDS),600) $(TARGETS)

# Audits, deletions and their undoing under faults, for ten minutes unless `make soak SECONDS=7200`.
soak: $(VENV)/installed-test
	$(VENV)/bin/python tests/soak.py --seconds $(or $(SECONDS),600)

# Both without a network: what is installed against the list of known vulnerabilities, and a bill of materials (CycloneDX).
check-dependencies: $(VENV)/installed-test
	$(VENV)/bin/python tests/supply_chain.py check

sbom: $(VENV)/installed-test
	$(VENV)/bin/python tests/supply_chain.py sbom > regaudit.cdx.json

clean:
	rm -rf $(VENV) build dist demo-report .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz regaudit.cdx.json

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "regaudit needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: EXTRA = sandbox
$(VENV)/installed-notebook: EXTRA = notebook
$(VENV)/installed-test: EXTRA = test,browser
$(VENV)/installed-dev: EXTRA = dev
$(VENV)/installed-docs: EXTRA = docs
$(VENV)/installed-bench: EXTRA = test,browser
$(VENV)/installed-fuzz: EXTRA = test,fuzz
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[$(EXTRA)]"
	@touch $@
