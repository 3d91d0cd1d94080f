PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DIRS ?= runs/demo
OUT ?= dist
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo test quick run sweep recipes bench bench-ship bench-skip bench-glue bench-audits bench-twelve bench-compensation bench-artefacts bench-analysis bench-peers bench-memory bench-parity bench-units bench-frontier bench-distill bench-kinds bench-families bench-sweep bench-placement bench-placement-gpu bench-gpu bench-fuzz soak lock audit wheel docs lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

install: $(STAMP)  ## make .venv with every version pinned

demo: $(STAMP)  ## fine-tune, compress, export and measure the embedded example
	$(BIN)/compressor demo

test: $(STAMP)  ## the fast tests: no network, no hub
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

quick: $(STAMP)  ## MODEL=directory DATA=file or folder [ARGS="--goal near"]: compress on your own texts, without a recipe
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo "make quick needs MODEL=directory and DATA=file" >&2; exit 2; }
	$(BIN)/compressor quick $(MODEL) $(DATA) $(ARGS)

run: $(STAMP)  ## RECIPE=recipes/sst2.yaml [MODEL=directory] [DATA=folder]: the whole pipeline
	@test -n "$(RECIPE)" || { echo "make run needs RECIPE=recipes/NAME.yaml" >&2; exit 2; }
	$(BIN)/compressor run $(RECIPE) $(if $(MODEL),--set model.path=$(MODEL)) $(if $(DATA),--set data.source=$(DATA))

sweep: $(STAMP)  ## SWEEP=recipes/sweep.yaml [ARGS="--dry-run"]: many models, data and settings, one run each
	@test -n "$(SWEEP)" || { echo "make sweep needs SWEEP=recipes/sweep/NAME.yaml" >&2; exit 2; }
	$(BIN)/compressor sweep $(SWEEP) $(ARGS)

recipes: $(STAMP)  ## check every shipped recipe
	@for recipe in recipes/*.yaml recipes/*/*.yaml; do $(BIN)/compressor validate --syntax-only $$recipe > /dev/null && echo "$$recipe: valid" || exit 2; done

bench: $(STAMP)  ## [DIRS="runs/a runs/b"]: time models or runs against each other
	$(BIN)/compressor bench $(DIRS)

bench-ship: $(STAMP)  ## MODELS=folder DATA=folder [ARGS="--device cuda"]: what to ship of seven models, beside PyTorch and Optimum
	$(BIN)/python -m benchmarks.ship.run --models $(MODELS) --data $(DATA) $(ARGS)

bench-skip: $(STAMP)  ## [MODELS=folder] [DATA=folder]: the five GLUE recipes, one layer skipped
	$(BIN)/python -m benchmarks.skip_one.run $(if $(MODELS),--models $(MODELS)) $(if $(DATA),--data $(DATA))

bench-glue: $(STAMP)  ## [MODELS=folder] [DATA=folder]: the frontier, five GLUE tasks x ways to choose x 1..4 layers
	$(BIN)/python -m benchmarks.frontier.run $(if $(MODELS),--models $(MODELS)) $(if $(DATA),--data $(DATA))

bench-audits: $(STAMP)  ## MODELS=folder DATA=folder [ARGS="--model sst2"]: every score of a layer against trials, seven models
	$(BIN)/python -m benchmarks.frontier.audits --models $(MODELS) --data $(DATA) $(ARGS)

bench-twelve: $(STAMP)  ## MODELS=folder DATA=folder [ARGS="--minutes 20"]: all sets of layers of two 12-layer models; goes on where it stopped
	$(BIN)/python -m benchmarks.frontier.twelve --models $(MODELS) --data $(DATA) $(ARGS)

bench-compensation: $(STAMP)  ## [MODELS=folder] [DATA=folder]: five GLUE tasks x ways to compensate x 1..3 layers; the cascade
	$(BIN)/python -m benchmarks.compensation.run $(if $(MODELS),--models $(MODELS)) $(if $(DATA),--data $(DATA))

bench-artefacts: $(STAMP)  ## MODELS=folder DATA=folder: the exact saving, 8 bits, fused nodes and fewer layers on a CPU
	$(BIN)/python -m benchmarks.artefacts.run --models $(MODELS) --data $(DATA)

bench-peers: $(STAMP)  ## [MODELS=folder] [DATA=folder]: one SST-2 model by this and by other tools; installs TextPruner beside it
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers/requirements.txt
	$(BIN)/python -m benchmarks.peers.run $(if $(MODELS),--models $(MODELS)) $(if $(DATA),--data $(DATA))

bench-analysis: $(STAMP)  ## MODELS=folder DATA=folder: FFN roles, confident errors and layer roles of five models
	$(BIN)/python -m benchmarks.analysis.run --models $(MODELS) --data $(DATA)

bench-units: $(STAMP)  ## MODELS=folder DATA=folder: layers, single blocks or neurons? five GLUE tasks at equal cost
	$(BIN)/python -m benchmarks.units.run --models $(MODELS) --data $(DATA)

bench-parity: $(STAMP)  ## [MODELS=folder]: models with fewer heads and neurons in PyTorch, ONNX files, transformers 4 and 5
	-@test -d $(VENV)/transformers5 || $(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(VENV)/transformers5 -r benchmarks/parity/requirements.txt
	$(BIN)/python -m benchmarks.parity.run $(if $(MODELS),--models $(MODELS))

bench-frontier: $(STAMP)  ## MODELS=folder DATA=folder [ARGS="--device cuda"]: seven models x what may go x cost x compensation
	$(BIN)/python -m benchmarks.units.run --models $(MODELS) --data $(DATA) --part mixes --part texts $(ARGS)
	$(BIN)/python -m benchmarks.distill.run --models $(MODELS) --data $(DATA) $(ARGS)

bench-distill: $(STAMP)  ## MODELS=folder DATA=folder [ARGS="--device cuda"]: half a model distilled on 500 texts to all there are
	$(BIN)/python -m benchmarks.distill.run --models $(MODELS) --data $(DATA) $(ARGS)

bench-kinds: $(STAMP)  ## DATA=folder: scores, many labels and rankings, fine-tuned here and compressed
	$(BIN)/python -m benchmarks.kinds.run --data $(DATA)

bench-sweep: $(STAMP)  ## MODELS=folder DATA=folder: twelve points one by one, on two workers, on Ray (pip install ray)
	$(BIN)/python -m benchmarks.sweep.run --models $(MODELS) --data $(DATA)

bench-families: $(STAMP)  ## DeBERTa-v2, ModernBERT and ALBERT, small, trained from nothing on the demo task and compressed
	$(BIN)/python -m benchmarks.families.run

bench-placement: $(STAMP)  ## [DATA=folder]: which layers need an FFN? twelve narrow layers, from scratch, 2 processes
	$(BIN)/python -m benchmarks.placement.run $(if $(DATA),--data $(DATA))

bench-placement-gpu: $(STAMP)  ## [DATA=folder] [ARGS="--set pretrain.steps=50000"]: the larger experiment, on one GPU
	$(BIN)/python -m benchmarks.placement.run --recipe recipes/placement/gpu.yaml --device cuda --processes 1 --out runs/ffn_placement_gpu $(if $(DATA),--data $(DATA)) $(ARGS)

soak: $(STAMP)  ## [ARGS="--short"]: an hour of kills, full disks, wrong inputs and load
	$(BIN)/python -m benchmarks.reliability.run $(ARGS)

bench-fuzz: $(STAMP)  ## [ARGS="--inputs 10000 --seed 0 --out FILE.json"]: wrong inputs of every kind, each to a command
	$(BIN)/python -m benchmarks.reliability.fuzz $(ARGS)

bench-memory: $(STAMP)  ## peak memory of the scoring pass at 1,000 and 10,000 rows, of an archive of up to 1,000,000, of an export
	$(BIN)/python -m benchmarks.memory.run
	$(BIN)/python -m benchmarks.memory.archive
	$(BIN)/python -m benchmarks.memory.exports

bench-gpu: $(STAMP)  ## [PART=latency] [ARGS="--precision fp16"]: BERT-base on a GPU, random weights; refuses without one
	$(BIN)/python -m benchmarks.gpu.run $(if $(PART),--part $(PART)) $(ARGS)

wheel: $(STAMP)  ## [OUT=dist]: the package as one file, the same bytes every time
	rm -rf build *.egg-info
	umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2> /dev/null || echo 315532800) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(OUT) .
	rm -rf build *.egg-info

lock: $(STAMP)  ## add the digests of this platform's files to docs/requirements.lock; after a change of constraints.txt
	$(BIN)/python docs/make_lock.py

audit: $(STAMP)  ## known weaknesses of the pinned versions: asks the package index, so no test does it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $(VENV)/audit pip-audit
	PYTHONPATH=$(VENV)/audit $(BIN)/python -m pip_audit --disable-pip --require-hashes -r docs/requirements.lock

docs: $(STAMP)  ## write the pages on recipes, families and licences anew, and the whole site into dist/site
	$(BIN)/python docs/make_recipes.py
	$(BIN)/python docs/make_families.py
	$(BIN)/python docs/make_licences.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/site/mkdocs.yml

lint: $(STAMP)  ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, caches and runs/demo
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
