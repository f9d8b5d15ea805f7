# make setup      .venv with the tested versions, once
# make test       the tests (minutes)
# make slow       the slow tests, each told beforehand with its time and claim; make slow TOPIC=gate for some of them
# make bench      the benchmarks, each with what it shows and how long it takes; make bench TOPIC=gate runs some of them
# make demo       the main job on synthetic Hebrew speech, into runs/demo
# make golden     logits and texts of qwen-asr itself that tests/model/test_golden.py compares with; an environment apart
# make schemas    docs/schemas and docs/recipe-reference.md, from the classes of documents and settings
# make docs       the documentation as pages in build/site; a dead link is an error
# make lint       formatting and style
# make test-lowest           the tests with the lowest versions that pyproject.toml allows
# make test-newest           the tests with the newest versions, which is what pip installs where there are no constraints
# make test-py PY=3.13       the tests with another Python that is installed
# make dist       sdist and wheel, checked, and a list of the tested packages with versions and licences (SBOM), into dist/
# make release    the same for a package index; refused as long as pyproject.toml has no addresses of the project

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup test slow bench demo golden schemas docs lint test-lowest test-newest test-py dist release

setup: $(READY)

# torch first: the rest then finds it and takes no other build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch --constraint constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,dev]' --constraint constraints.txt
	touch $@

test: $(READY)
	$(BIN)/pytest

slow: $(READY)
	$(BIN)/pytest -m slow -n 0 --topic '$(TOPIC)'

bench: $(READY)
	$(BIN)/python benchmarks/run.py $(TOPIC)

demo: $(READY)
	$(BIN)/shibolet demo

# qwen-asr pins transformers 4: it never shares an environment with ours.
build/golden-venv/.ready:
	$(PYTHON) -m venv build/golden-venv
	build/golden-venv/bin/pip install --quiet --disable-pip-version-check torch --constraint constraints.txt
	build/golden-venv/bin/pip install --quiet --disable-pip-version-check qwen-asr==0.0.6
	touch $@

golden: $(READY) build/golden-venv/.ready
	rm -rf build/golden
	$(BIN)/python tests/model/golden/tiny_models.py build/golden
	build/golden-venv/bin/python tests/model/golden/reference.py build/golden tests/model/golden/qwen_asr.json
	$(BIN)/python tests/model/golden/speech_models.py build/golden-speech
	build/golden-venv/bin/python tests/model/golden/card_code.py build/golden-speech tests/model/golden/card_texts.json

schemas: $(READY)
	$(BIN)/python tests/schemas.py
	$(BIN)/python tests/recipe_reference.py

docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	$(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# ARGS are pytest's, as in make test-lowest ARGS=tests/serve. Environments of their own: .venv stays the tested one.
UV := build/uv/bin/uv

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv

test-lowest: $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) build/lowest
	$(UV) pip install --quiet --python build/lowest --resolution lowest-direct --editable '.[demo,dev]'
	build/lowest/bin/python -m pytest $(ARGS)

test-newest: $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) build/newest
	$(UV) pip install --quiet --refresh --python build/newest --editable '.[demo,dev]'
	build/newest/bin/python -m pytest $(ARGS)

test-py: $(UV)
	@test -n '$(PY)' || { echo 'make test-py needs PY, as in PY=3.13'; exit 2; }
	$(UV) venv --quiet --clear --python $(PY) build/py$(PY)
	$(UV) pip install --quiet --python build/py$(PY) --constraint constraints.txt --editable '.[demo,dev]'
	build/py$(PY)/bin/python -m pytest $(ARGS)

# A package index shows these addresses beside the description, and links them.
release:
	@grep -q '^\[project.urls\]' pyproject.toml || \
	{ echo 'make release: pyproject.toml has no [project.urls]; fill it in as CONTRIBUTING.md says'; exit 2; }
	$(MAKE) dist

dist: $(READY)
	rm -rf dist build/lib
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check build twine cyclonedx-bom
	build/release/bin/python -m build
	build/release/bin/twine check --strict dist/*
	build/release/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml -o dist/sbom.cdx.json $(BIN)/python
