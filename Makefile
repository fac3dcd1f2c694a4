# make demo   trains a small LLaMA on real text and lets it write
# make test   runs every test, the notebooks included
PYTHON ?= python3
VENV   ?= .venv
# A Python that is asked for, and is not the one in .venv, gets an environment beside it: make test PYTHON=python3.13
ifneq ($(origin PYTHON),file)
  VERSION = import sys; print("%d.%d" % sys.version_info[:2])
  ASKED  := $(shell $(PYTHON) -c '$(VERSION)')
  THERE  := $(shell $(VENV)/bin/python -c '$(VERSION)' 2>/dev/null || echo $(ASKED))
  ifeq ($(ASKED),)
    $(error PYTHON=$(PYTHON) does not run; give the name or the path of a Python, such as PYTHON=python3.13)
  else ifneq ($(ASKED),$(THERE))
    VENV := .venv-$(ASKED)
  endif
endif
BIN    := $(VENV)/bin
DEMO   ?= --steps 900 --batch-size 8 --lr 4e-3
# The recipe of the course model; benchmarks/course_model.md says why.
COMPILE := $(if $(shell command -v g++ || command -v clang++),--compile)
COURSE ?= --corpus course:160000 --preset course --vocab-size 2048 --pattern gpt2 --validation-fraction 0.003 \
  --align-documents --steps 19500 --batch-size 4 --seq-len 512 --short-seq-len 256 --optimizer muon --lr 1.5e-3 \
  --embedding-lr-ratio 2 --weight-decay 0.2 --schedule linear --min-lr-ratio 0 --warmup-steps 300 \
  --precision bf16 $(COMPILE) --validate-every 500 --snapshot-every 500 --samples 5
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo pretrain adapters test chapters badges lab lint format bench clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# Made anew when the dependencies change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llama_minimal needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV), once (a few minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[course,dev,hub]'
	@touch $(READY)

demo: $(READY)  ## Train on Python's documentation, measure, write three samples (4 minutes)
	$(BIN)/llama-minimal train --corpus python-docs --out runs/demo --overwrite $(DEMO)
	@echo
	@echo "Next:"
	@echo "  $(BIN)/llama-minimal generate runs/demo --prompt 'The \"for\" statement'"
	@echo "  $(BIN)/llama-minimal train --corpus your_file.txt --out runs/mine"
	@echo "  make lab     opens the notebooks of the course"

pretrain: $(READY)  ## Train the course model anew, an hour or two; stop with Ctrl-C, go on with the same command
	@if [ -e runs/course/run.json ]; then $(BIN)/llama-minimal train --out runs/course --resume; \
	  else $(BIN)/llama-minimal train --out runs/course $(COURSE); fi
	$(BIN)/python -m llama_minimal.course.ship runs/course
	$(BIN)/llama-minimal evaluate course --data runs/course/data --write-card

adapters: $(READY)  ## Tune the course model's adapters anew, and measure them (an hour); goes on where it was stopped
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m llama_minimal.course.adapters make
	$(BIN)/python -m llama_minimal.course.adapters measure

test: $(READY)  ## Run all tests, and the notebooks
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 --dist loadfile --nbval

chapters: $(READY)  ## Run all notebooks anew, and store their outputs and figures
	$(BIN)/python -m llama_minimal.course.execute chapters/[0-9]*.ipynb chapters/solutions/*.ipynb

badges: $(READY)  ## Point the Colab and Binder badges at a public copy: make badges REPOSITORY=owner/name
	$(BIN)/python -m llama_minimal.course.badges $(REPOSITORY)

lab: $(READY)  ## Open JupyterLab on the chapters
	$(BIN)/jupyter lab chapters

lint: $(READY)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Compare speed and memory with transformers (half an hour)
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/decode.py

clean:  ## Remove the environments and all runs
	rm -rf $(VENV) .venv-3.* runs
