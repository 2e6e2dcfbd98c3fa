# Each target makes .venv when it is absent. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-gpu lint typecheck format bench bench-converters bench-matrix bench-damage bench-random bench-export bench-finetune clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/rtool demo

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow and not gpu'

test-all: $(STAMP)
	$(BIN)/python -m pytest -m 'not gpu'

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy finds the package, whose folder is the repository root, through a link.
typecheck: $(STAMP)
	mkdir -p .typing && ln -sfn .. .typing/rtool
	$(BIN)/mypy -p rtool

# Conformance of the converters: every ONNX node case, a minute. The other benchmarks take longer and stand alone.
bench: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.onnx_conformance

# Coverage, time, memory and speed beside the rivals, which get .peers; half an hour on 2 cores. PARTS="nodes" measures some.
bench-converters: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.converters_bench $(PARTS)

# Every exporter, opset, batch and network beside its original; three quarters of an hour on 2 cores.
bench-matrix: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.export_matrix --missing

# 2,000 damaged files through Python, 100 through the commands; a quarter of an hour on 2 cores.
bench-damage: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.damage --cli 100

# 1,000 random networks by both exporters at every opset, converted, trained and written back; an hour and a half on one
# core. JOURNAL=FILE goes on where FILE ends; SHARD=0/4 takes every fourth, and `--join FILES` makes one table of them.
bench-random: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.random_exports --shard $(or $(SHARD),0/1) $(if $(JOURNAL),--journal $(JOURNAL))

# Write-back, restore, fold, latency and fp16 on eight networks, int8 on three, the worth of restoring; an hour on 2 cores.
bench-export: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.export.export_bench
	$(BIN)/python -m rtool.benchmarks.export.restoring_value
	$(BIN)/python -m rtool.benchmarks.export.int8_bench demo osnet_x1_0 iresnet50

# Steps, data wait, PartialFC and quality; an hour on 2 cores. NAMES="step partial_fc" measures some,
# NAMES="quality --seeds 0 --att-faces FOLDER" one seed, real faces included.
bench-finetune: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.training.finetune_bench $(NAMES)

clean:
	rm -rf .venv .peers .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
