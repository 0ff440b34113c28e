# make test: lint, type check and the tests but the slow ones. make lint format typecheck: these alone.
# make test-fast: without those that train, run commands, export, or start processes either. make test-all: all tests.
# make fuzz: tests/fuzz with 10,000 mutated inputs; make fuzz CASES=N with N.
# make demo: detect with the pretrained detector; train, evaluate, detect and export on a generated set.
# make fidelity: run the comparisons with the authors' program and write docs/fidelity.md from them;
# PUBLISHED_AP=FOLDER adds those with published AP (tests/evaluation/test_published_ap.py says what the folder holds).
# make docs: write docs/configuration.md from the config's dataclasses, and docs/configs.md from configs/.
# make site: build the pages as a site in docs/_build/site, with every warning and every dead link as an error.
# All set up .venv first: GPU requirements where there is an NVIDIA driver, CPU requirements elsewhere.

REQUIREMENTS := $(shell nvidia-smi >/dev/null 2>&1 && echo requirements.txt || echo requirements-cpu.txt)
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
IN_VENV := .venv/bin/python
INSTALLED := .venv/installed-$(REQUIREMENTS)
RUN := runs/shapes
CASES := 10000
SITE := docs/_build/site
SITE_INSTALLED := .venv/installed-site

.PHONY: test test-fast test-all lint format typecheck fuzz fidelity docs site demo clean-demo

# The files of tests are shared out among processes (tests/conftest.py groups them), because TensorFlow seldom keeps
# more than one core busy here.
# They keep their order, in which those with few but long tests do not come last.
TEST = $(IN_VENV) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder

test: lint typecheck
	$(TEST)

test-fast: $(INSTALLED)
	$(TEST) -m "not slow and not story"

test-all: lint typecheck $(SITE_INSTALLED)
	$(TEST) -m "slow or not slow"

lint: $(INSTALLED)
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

# Rewrites the files.
format: $(INSTALLED)
	$(IN_VENV) -m ruff check --fix .
	$(IN_VENV) -m ruff format .

typecheck: $(INSTALLED)
	$(IN_VENV) -m mypy

fuzz: $(INSTALLED)
	$(IN_VENV) -m pytest tests/fuzz --fuzz-cases=$(CASES)

fidelity: $(INSTALLED)
	$(IN_VENV) -m pytest -m golden --fidelity=docs/fidelity.md $(if $(PUBLISHED_AP),--published-ap=$(PUBLISHED_AP))

docs: $(INSTALLED)
	$(IN_VENV) docs/generate_configuration.py
	$(IN_VENV) docs/generate_configs.py

# Notebooks whose cells have not changed are not executed again, unless docs/_build is removed.
site: $(SITE_INSTALLED)
	@$(IN_VENV) -c "import sphinx" 2>/dev/null || { echo "error: make site needs Python 3.11 or later" >&2; exit 2; }
	rm -rf $(SITE)
	$(IN_VENV) -m sphinx -W -n -E -q -c docs/site -d docs/_build/doctrees . $(SITE)
	$(IN_VENV) docs/site/check_links.py $(SITE)
	@echo "Open $(SITE)/index.html"

demo: $(INSTALLED)
	rm -rf runs/photos
	$(IN_VENV) detect.py examples/photos --output runs/photos
	$(IN_VENV) -m refinedet_tf generate-shapes data/shapes
	$(IN_VENV) train.py --config shapes.json --output $(RUN) --resume
	$(IN_VENV) evaluate.py --config $(RUN) --json $(RUN)/test.json --curves $(RUN)/precision_recall.png
	rm -rf $(RUN)/detections
	$(IN_VENV) detect.py --config $(RUN) 'data/shapes/VOC2007/JPEGImages/test_00000*.jpg' --output $(RUN)/detections
	$(IN_VENV) export_savedmodel.py --config $(RUN) --output exports/shapes
	@echo "Look at runs/photos, $(RUN)/detections, $(RUN)/curves.png and $(RUN)/precision_recall.png, or run: .venv/bin/tensorboard --logdir runs"

# Removes the demo's data, run and export, so that it starts over.
clean-demo:
	rm -rf data/shapes $(RUN) exports/shapes

$(INSTALLED): $(REQUIREMENTS) requirements-base.txt requirements-serving.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 to 3.13 is needed, none was found" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-serving.txt
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# The extra `docs` by itself, since the package is installed without its dependencies. Python 3.10 has no Sphinx 9.
DOCS_EXTRA := import sys; sys.version_info >= (3, 11) or sys.exit(); import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")

$(SITE_INSTALLED): $(INSTALLED) pyproject.toml
	$(IN_VENV) -c '$(DOCS_EXTRA)' > .venv/requirements-docs.txt
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check -r .venv/requirements-docs.txt
	@touch $@
