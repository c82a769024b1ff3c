# make demo: a film on a bare machine. make test: everything CI runs. Both install what they need into .venv.
# make studio: the same nodes in ComfyUI's page, in your browser.
PYTHON ?= python3
# for two cores: the tests of the page mostly wait
WORKERS ?= 3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo studio test suite floor newest lint types clean

demo: $(READY)
	mkdir -p out
	$(VENV)/bin/sana-video film demo/film.txt --out out/demo.mp4 --sheet out/demo.png

studio: $(READY)
	mkdir -p out
	$(VENV)/bin/sana-video studio --base out

test: lint $(VENV)/.browser
	$(MAKE) --jobs 2 types suite

suite: $(VENV)/.browser
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile --durations 10

# The fast tests of what leans on other packages once more, with the oldest that we say we run on (Python 3.10
# or 3.11). Their place is before that of the others, so torch and pytest stay as they are.
FLOOR := $(VENV)/floor
floor: $(READY)
	rm -rf $(FLOOR)
	sed -n 's/>=/==/p' requirements.txt > $(VENV)/floor.txt
	$(RUN) -m pip install --quiet --no-warn-conflicts --only-binary :all: --target $(FLOOR) \
		--requirement $(VENV)/floor.txt
	PYTHONPATH=$(FLOOR) $(RUN) -m pytest --numprocesses 2 --dist loadfile -m "not slow and not comfy" \
		tests/core/checkpoints tests/core/files tests/core/streaming tests/core/text tests/nodes \
		tests/command_line

# The tests of the page once more, on the newest frontend: it may be ahead of us.
newest: $(READY) $(VENV)/.browser
	rm -rf $(VENV)/newest
	$(RUN) -m pip install --quiet --no-deps --target $(VENV)/newest comfyui-frontend-package
	EVERY_WORKFLOW=1 SANA_VIDEO_FRONTEND=$(VENV)/newest/comfyui_frontend_package/static \
		$(RUN) -m pytest -m "not comfy" tests/browser

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

# Debian's Chromium, where root may install it; elsewhere the tests of the page are skipped, and say so.
$(VENV)/.browser: $(READY)
	command -v chromium || test -n "$$CHROMIUM" || test "$$(id -u)" != 0 || ! command -v apt-get || \
		(apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium > /dev/null)
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
