# `make demo` and `make test` set up whatever they need.
SHELL := /bin/bash
BIN := .venv/bin
# Where there is no screen, a virtual one with software OpenGL.
SCREEN := $(if $(DISPLAY)$(WAYLAND_DISPLAY),,xvfb-run -a -s "-screen 0 1280x1024x24")

.PHONY: demo test test-qt6 check screenshots zoo clean

demo:  ## the main job on the shipped sample: a napari window, or files in out/ where there is no screen
	@.ci/setup pyqt5
	$(BIN)/napari-mrsr demo

test:  ## all tests on PyQt5, then the GUI tests on PyQt6
	@.ci/setup pyqt5,pyqt6,dev
	QT_API=pyqt5 $(SCREEN) $(BIN)/python -m pytest -q
	QT_API=pyqt6 PYTEST_QT_API=pyqt6 $(SCREEN) $(BIN)/python -m pytest -q tests/gui

check:  ## lint, types, import contracts, manifest
	@.ci/setup pyqt5,pyqt6,dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari-mrsr

screenshots:  ## the pictures in README
	@.ci/setup pyqt5,pyqt6,dev
	$(SCREEN) $(BIN)/python tests/screenshots.py

zoo:  ## train the shipped weights and fill their cards (hours; data: see README)
	@.ci/setup pyqt5
	$(BIN)/napari-mrsr train resources/recipes/cftn_x2_compact.yaml -o resources/weights --overwrite --resume-if-there
