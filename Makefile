# make demo: a video on a bare machine. make test: everything CI runs. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test lint types clean

demo: $(READY)
	$(VENV)/bin/sana-video run workflows/00_without_downloads.json --base out --output out --sheet out/demo.png

test: lint
	$(RUN) -m pytest

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)
	$(VENV)/bin/pyright --pythonpath $(RUN)

$(READY): pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
