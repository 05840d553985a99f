# `make demo` and `make test` do all the set-up; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

ifneq ($(shell command -v uv 2>/dev/null),)
CREATE := uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL := uv pip install --quiet --python $(BIN)/python
else
CREATE := $(PYTHON) -m venv $(VENV)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

SCENES := detection instances segmentation detection-flat
detection: CONFIG = detection/digit_scenes_faster_rcnn_vmamba
instances: CONFIG = detection/digit_scenes_mask_rcnn_vmamba
segmentation: CONFIG = segmentation/digit_scenes_upernet_vmamba
detection-flat: CONFIG = detection/digit_scenes_faster_rcnn_vim

.PHONY: help $(SCENES) demo video test check format clean

help:  ## this list
	@sed -n 's/^\$$(SCENES):.*## /$(SCENES)\t/p; s/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.train  ## train a Vision Mamba on real handwritten digits and test it: a few minutes on two CPU cores
	$(BIN)/python tools/train.py configs/classification/digits_vim_nano.py --work-dir runs/demo --overwrite
	$(BIN)/python tools/test.py configs/classification/digits_vim_nano.py runs/demo/last.pth --split test --out-dir runs/demo

$(SCENES): $(VENV)/.dense  ## one of these: a detector or segmenter learns digit scenes from scratch, up to 15 minutes each
	$(BIN)/python tools/train.py configs/$(CONFIG).py --work-dir runs/$@ --overwrite
	$(BIN)/python tools/test.py configs/$(CONFIG).py runs/$@/last.pth --split test --out-dir runs/$@ --json runs/$@/test.json

video: $(VENV)/.video  ## a model of clips learns moving digits from real mp4 files: about ten minutes
	$(BIN)/python tools/train.py configs/video/moving_digits_videomamba.py --work-dir runs/video --overwrite
	$(BIN)/python tools/test.py configs/video/moving_digits_videomamba.py runs/video/last.pth --split test --out-dir runs/video

test: $(VENV)/.dev  ## the whole test suite, on every core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/.dev  ## format, lint, types, imports and the fast tests: under two minutes
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow'

format: $(VENV)/.dev  ## rewrite the sources in the project's format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## remove the virtual environment and what was generated
	rm -rf $(VENV) runs build dist *.egg-info kernels/*/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps make a second call quick; they go stale when the dependencies or the compiled kernels change.
$(VENV)/.train $(VENV)/.dense $(VENV)/.video $(VENV)/.dev: $(VENV)/.%: setup.cfg setup.py pyproject.toml $(wildcard kernels/*/*.cpp kernels/*/*.h)
	@echo "installing vimamba[$*] into $(VENV) (a few minutes the first time)"
	@$(CREATE)
	@$(INSTALL) -e '.[$*]'
	@touch $@
