# make setup      .venv with the tested versions, once
# make test       the tests (minutes)
# make slow       the slow tests, each told beforehand with its time and claim; make slow TOPIC=gate for some of them
# make bench      the benchmarks, each with what it shows and how long it takes; make bench TOPIC=gate runs some of them
# make demo       the main job on synthetic Hebrew speech, into runs/demo
# make golden     logits and texts of qwen-asr itself that tests/model/test_golden.py compares with; an environment apart
# make schemas    docs/schemas, from the documents' classes
# make docs       the documentation as pages in build/site; a dead link is an error
# make lint       formatting and style

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup test slow bench demo golden schemas docs lint

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

docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	$(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
