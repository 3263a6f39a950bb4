# Everything runs in .venv, which the first target that needs it creates. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXPERIMENT ?= demo
DEMO := outputs/$(EXPERIMENT)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint docs site bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## create .venv with everything that the commands need

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[synthetic,capture,mesh,viewer,raw,official,sweeps,dashboards,notebooks,dev]'
	touch $@

demo: $(DEMO)/.done ## novel views, depth, video and a PSNR table, in 10 minutes on 2 CPU cores; EXPERIMENT=demo_paper
	@cat $(DEMO)/.done

$(DEMO)/.done: $(VENV)/.ready
	$(BIN)/python prepare.py source=synthetic object=vase object.root=data/demo source.image_side=128
	$(BIN)/python train.py experiment=$(EXPERIMENT) hydra.run.dir=$(DEMO) resume=auto
	$(BIN)/python evaluate.py ckpt=$(DEMO)/checkpoints/best.ckpt trainer.gpus=0 > $(DEMO)/table.txt
	$(BIN)/python render.py ckpt=$(DEMO)/checkpoints/best.ckpt trainer.gpus=0 trajectory=spiral >> $(DEMO)/table.txt
	@echo 'video:   $(DEMO)/render/spiral/video.mp4' >> $(DEMO)/table.txt
	mv $(DEMO)/table.txt $@

test: $(VENV)/.ready ## the test suite, under 10 minutes on 2 CPU cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(VENV)/.ready ## the tests that take minutes each, half an hour on 2 CPU cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.ready ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready ## write docs/reference/configuration.md from the schema and conf/
	$(BIN)/python docs/generate_configuration.py

site: .venv-docs/.ready ## the documentation as a site, site/index.html; broken links are errors
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean

.venv-docs/.ready: pyproject.toml constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install -q -c constraints.txt -r .venv-docs/requirements.txt
	touch $@

bench: $(VENV)/.ready ## time and memory beside a plain baseline; ARGS="--sizes S,P,G,F,n", ARGS="--device cuda"
	$(BIN)/python benchmarks/speed.py $(ARGS)

clean: ## remove the demo, the site and the caches; data/, other runs and .venv stay
	rm -rf site outputs/demo outputs/demo_paper .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
