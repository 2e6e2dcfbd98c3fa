# Each target creates .venv when it is absent. PYTHON selects the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests and studies start many processes; without its bytecode on disk, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-gpu lint typecheck format bench bench-source bench-converters bench-matrix bench-damage bench-random bench-packages bench-half bench-startup bench-embed bench-export bench-finetune bench-evaluate bench-distil bench-lost-code bench-search bench-decoding bench-gallery bench-occlusion clean bench-serving

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/rtool demo

# Three processes on two cores, since tests that wait for a server leave one idle; one thread of torch in each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

test: $(STAMP)
	$(PYTEST) -m 'not slow and not gpu'

test-all: $(STAMP)
	$(PYTEST) -m 'not gpu'

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The package is the repository root, so mypy finds it through a link.
typecheck: $(STAMP)
	mkdir -p .typing && ln -sfn .. .typing/rtool
	$(BIN)/mypy -p rtool

# Conformance of the converters: every node case of ONNX, in about one minute.
bench: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.onnx_conformance

# Length and readability of `model.py` over 64 exports of eight networks; about 3 minutes on one core.
bench-source: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.model_source

# Coverage, time, memory and speed beside other converters, which are installed into .peers; about 30 minutes on 2 cores.
# PARTS="nodes" measures one part.
bench-converters: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.converters_bench $(PARTS)

# Every exporter, opset, batch and network, compared with the original module; about 45 minutes on 2 cores.
bench-matrix: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.conversion.export_matrix --missing

# 2,000 damaged files through the Python calls and 100 through the commands; about 15 minutes on 2 cores.
bench-damage: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.damage --cli 100

# 1,000 random networks by both exporters at every opset, converted, trained and written back; an hour and a half on one
# core. JOURNAL=FILE goes on where FILE ends; SHARD=0/4 takes every fourth, and `--join FILES` makes one table of them.
bench-random: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.random_exports --shard $(or $(SHARD),0/1) $(if $(JOURNAL),--journal $(JOURNAL))

# ONNX files inside 18 packages, which are downloaded into .packages and never run; half an hour on one core.
# JOURNAL=FILE goes on where FILE ends.
bench-packages: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.packages $(if $(JOURNAL),--journal $(JOURNAL))

# rtool's float16 converter and onnxconverter-common on the demo's model, five networks and 40 random files; ten minutes.
bench-half: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.robustness.half_converters

# Seconds of the commands that load no torch; half a minute.
bench-startup: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.startup

# What a row costs through Triton, the packer, kill -9 of every part, its ports, ten minutes of load with publishes and
# poisons; 25 minutes on 2 cores. PARTS="cost packer" measures these two.
bench-serving: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.serving_drills.serving_bench $(PARTS)

bench-embed: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.embedding

# Write-back, BatchNorm restored and folded, latency and fp16 on eight networks, int8 on three, and the accuracy gained by
# restoring BatchNorm; about one hour on 2 cores.
bench-export: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.export.export_bench
	$(BIN)/python -m rtool.benchmarks.export.restoring_value
	$(BIN)/python -m rtool.benchmarks.export.int8_bench demo osnet_x1_0 iresnet50

# Training steps, time spent waiting for data, PartialFC and accuracy; about one hour on 2 cores.
# NAMES="step partial_fc" measures these two; NAMES="quality --seeds 0 --att-faces FOLDER" one seed, with the AT&T faces.
bench-finetune: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.training.finetune_bench $(NAMES)

# Fine-tuning from a fused ONNX file beside fine-tuning from the original checkpoint, people and faces, five pairs each;
# half an hour on one core. SUBJECTS="people" makes one of them; a stopped one goes on.
bench-lost-code: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.training.lost_code $(SUBJECTS)

# JPEG decoding by rtool, Pillow, simplejpeg and cv2, which is installed into .peers, and the loader's rate; three minutes.
bench-decoding: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.training.decoding_bench

# What a teacher is worth: every recipe with three seeds, people and faces; about an hour on 2 cores. JOURNAL=FILE goes on
# where the file ends.
bench-distil: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.distillation.distil_bench $(if $(JOURNAL),--journal $(JOURNAL))
	$(BIN)/python -m rtool.benchmarks.distillation.int8_training

# Whether a search avoids an operation that ignores its input, and what its cells are worth beside random ones; about an
# hour of processor time. WORK=DIR keeps the runs, and goes on where it was stopped.
bench-search: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.searching.planted_space $(if $(WORK),--work $(WORK)/planted)
	$(BIN)/python -m rtool.benchmarks.searching.people_study $(if $(WORK),--work $(WORK)/people)

# Matching beside the embedding on drawn faces behind masks, six variants and three seeds; about an hour on 2 cores.
# ATT_FACES=FOLDER measures the AT&T faces too.
bench-occlusion: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.occlusion.occlusion_bench $(if $(ATT_FACES),--att-faces $(ATT_FACES))

# Retrieval, re-ranking and verification beside their usual forms, large sets, and how often intervals hold the truth;
# about 20 minutes on 2 cores, 12 GB. PARTS="retrieval" measures one part.
bench-evaluate: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.evaluation.evaluation_bench $(PARTS)

# Threshold, 10,000 crops, and adaptation over three seeds; half an hour on 2 cores. PARTS="threshold size" measures these.
bench-gallery: $(STAMP)
	$(BIN)/python -m rtool.benchmarks.gallery.gallery_bench $(PARTS)

clean:
	rm -rf .venv .peers .packages .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
