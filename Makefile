# `make demo` and `make test` set up whatever they need.
SHELL := /bin/bash
BIN := .venv/bin
# Where there is no screen, a virtual one with software OpenGL.
SCREEN := $(if $(DISPLAY)$(WAYLAND_DISPLAY),,xvfb-run -a -s "-screen 0 1280x1024x24")

.PHONY: demo test check screenshots zoo clean

demo:  ## the main job on the shipped sample: a napari window, or files in out/ where there is no screen
	@.ci/setup pyqt5
	$(BIN)/napari-mrsr demo

test:  ## all tests; those of the windows on PyQt5 and PyQt6, side by side
	@.ci/setup pyqt5,pyqt6,tissue,dev
	QT_API=pyqt5 $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore=tests/gui
	@echo "tests/gui on PyQt5 and PyQt6"; log=$$(mktemp); \
	(QT_API=pyqt6 PYTEST_QT_API=pyqt6 $(SCREEN) $(BIN)/python -m pytest -q -m "not slow" tests/gui > $$log 2>&1) & other=$$!; \
	QT_API=pyqt5 $(SCREEN) $(BIN)/python -m pytest -q tests/gui; first=$$?; \
	wait $$other; second=$$?; echo "PyQt6:"; cat $$log; rm -f $$log; exit $$((first || second))

check:  ## lint, types, import contracts, manifest
	@.ci/setup pyqt5,pyqt6,tissue,dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari-mrsr

screenshots:  ## the pictures in README
	@.ci/setup pyqt5,pyqt6,tissue,dev
	QT_API=pyqt6 $(SCREEN) $(BIN)/python tests/screenshots.py

# Folder of the training and test volumes.
DATA ?= ../shared/data

ZOO := cftn_x2 cftn_x3 fdvit_x2 fdvit_x4 dcamsr_x2 dcamsr_x4 cohft_x2 cohft_x3 cohft_x4 transmrsr_x4 transmrsr_x8

zoo:  ## train the shipped weights and fill their cards; what is there is left, what was interrupted goes on. One core each: nothing else should need it
	@.ci/setup pyqt5
	for recipe in $(ZOO); do \
	    $(BIN)/napari-mrsr train resources/recipes/$${recipe}_compact.yaml --data $(DATA) -o resources/weights --overwrite --resume && \
	    $(BIN)/napari-mrsr evaluate $${recipe//_/-} --card --missing --noise 0 --noise 1 --noise 3 --noise 5 --data $(DATA) || exit 1; \
	done

clean:
	rm -rf .venv build dist *.egg-info
