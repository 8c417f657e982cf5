# make demo   a CT denoised by a pix2pix trained here (CT=/path/to/series for your own)
# make test   make lint, then the test suite
# make lint   style, format, who imports whom, types
# make wheels   dist/*.whl, which pip install takes as they are
# make bench  speed and memory beside plain Chainer, PyTorch, ONNX Runtime and OpenVINO (brings them): $(RESULTS)/speed.md
# make quality CT=/path/to/series   trains the presets and compares them with classical filters: $(WORK)/quality.md
# make gpu-kit  build/gpu-kit: a folder with run.sh for a machine with a GPU and without a network (docs/gpu.md)
# make weights DATA=/path/to/data   trains the packaged models again, in models/: some hours of one core
# make reconstruction [CT="/path/to/series ..." OTHERS="/path/to/series ..."]
#                      trains what reconstructs and compares it: $(WORK)/reconstruction.md
# WRITE=docs/speed.md or docs/quality.md writes the page of the documentation instead.
# All make .venv first. PYTHON=python3.13 selects another interpreter, VENV=dir another place.
PYTHON ?= python3
VENV   ?= .venv
PIP     = $(VENV)/bin/python -m pip --disable-pip-version-check
READY   = $(VENV)/.ready
DEMO   ?= demo
WORK   ?= quality
RESULTS = benchmarks/results
TREE    = build/tree/medi2i
MINUTES ?= 10

.PHONY: test compiled demo bench gpu-kit quality weights reconstruction wheels lint clean

$(READY): setup.py pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); medi2i needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.13" >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-compile uv
	UV_PROJECT_ENVIRONMENT=$(VENV) $(VENV)/bin/uv sync -q --inexact --extra test
	touch $@

# A process for each core, so one thread is enough for each.
test: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint compiled
	PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# What the commands that tests start import is compiled before, once; not by them, for some of them have a full disk, and
# half a compiled module is an error to all that come after.
compiled: $(READY)
	PYTHONWARNINGS=ignore $(VENV)/bin/python -m compileall -q -x '/(tests?|mypy|mypyc|babel|networkx|fontTools|pip)/' \
	  $(VENV)/lib $(patsubst %/__init__.py,%,$(wildcard */__init__.py))

demo: $(READY)
	$(VENV)/bin/python -m medi2i.tools.demo --out $(DEMO) $(if $(CT),--ct "$(CT)")

bench: $(READY)
	$(PIP) install -q -e ".[bench]"
	$(VENV)/bin/python benchmarks/bench.py --out $(RESULTS) --write $(or $(WRITE),$(RESULTS)/speed.md)

gpu-kit: $(READY)
	$(VENV)/bin/python benchmarks/gpu_kit.py build/gpu-kit

weights: $(READY)
	@test -n "$(DATA)" || { echo "error: make weights DATA=/path/to/data: the folder of the series that benchmarks/weights.py names" >&2; exit 1; }
	$(VENV)/bin/python benchmarks/weights.py "$(DATA)" --work weights

quality: $(READY)
	@test -n "$(CT)" || { echo "error: make quality CT=/path/to/series: a CT as DICOM is needed" >&2; exit 1; }
	$(PIP) install -q -e ".[quality]"
	$(VENV)/bin/python benchmarks/quality.py "$(CT)" --work "$(WORK)" --minutes $(MINUTES) --write "$(or $(WRITE),$(WORK)/quality.md)" \
	  $(if $(JOBS),--jobs $(JOBS)) $(if $(ABOUT),--about "$(ABOUT)")

reconstruction: $(READY)
	@mkdir -p "$(WORK)"
	$(VENV)/bin/python benchmarks/reconstruction.py --train $(if $(findstring command,$(origin MINUTES)),$(MINUTES),40) --dip 32 --work "$(WORK)/reconstruction" \
	  --write "$(or $(WRITE),$(WORK)/reconstruction.md)" $(if $(CT),--ct $(CT)) \
	  $(if $(OTHERS),--others $(OTHERS))

# Chainer and ChainerCV have no wheels and do not build with today's tools. Built here, any pip installs them on any
# system: ChainerCV's is Python alone, since CC=true leaves its C extension out, but setuptools does not know that.
wheels:
	rm -rf build/lib build/bdist*
	$(PYTHON) -m venv build/wheels
	build/wheels/bin/pip install -q "setuptools>=77,<81" wheel numpy
	CC=true build/wheels/bin/pip wheel -q --no-deps --no-build-isolation -w dist . \
	  $(shell sed -n 's/^ *"\(chainer[a-z]*==.*\)",/\1/p' pyproject.toml)
	build/wheels/bin/wheel tags --remove --python-tag py3 --abi-tag none --platform-tag any dist/chainercv-*.whl

lint: $(READY)
	$(VENV)/bin/ruff check -q .
	$(VENV)/bin/ruff format --check -q .
	@mkdir -p $(TREE)
	@ln -sfn $(patsubst %/__init__.py,../../../%,$(filter-out api/%,$(wildcard */__init__.py))) \
	  $(addprefix ../../../,$(wildcard api/*.py)) $(TREE)
	PYTHONPATH=build/tree $(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
