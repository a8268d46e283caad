# Verbs of the project; each one installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.ready-test
export HF_HUB_OFFLINE := 1
export PYTHONWARNINGS := ignore::SyntaxWarning
unexport PYTHONDONTWRITEBYTECODE  # with it every process would compile PyTorch's modules again, see --no-compile

.PHONY: setup setup-test detectron2 demo test trust docs static-checks format ablation

setup: $(READY)

setup-test: $(TEST_READY)

$(READY): setup.py requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.10 or newer, or call make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing CMPF and what it needs (PyTorch is the large part: two to four minutes with a good connection)"
	@# --no-compile: Python compiles a module when it is first imported; most of PyTorch's never are.
	@$(BIN)/python -m pip install --disable-pip-version-check --no-compile -r requirements.txt
	@# --no-build-isolation: with PyTorch's setuptools instead of downloading another one.
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(TEST_READY): $(READY) requirements-test.txt
	@echo "Installing what the tests need: their tools, and the extras that they run"
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements-test.txt
	@touch $@

# Not on PyPI; the commits that are tested.
DETECTRON2 := git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833
PANOPTICAPI := git+https://github.com/cocodataset/panopticapi@7bb4655548f98f3fedc07bf37e9040a992b054b0

detectron2: export FORCE_CUDA ?= 0
detectron2: export MAX_JOBS ?= 2
detectron2: $(READY)
	@echo "Building Detectron2 and panopticapi from GitHub: this needs the network, git and a C++ compiler, and takes some minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet ninja setuptools wheel
	@$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation "$(DETECTRON2)" "$(PANOPTICAPI)" || { echo "Detectron2 was not built: is github.com reachable, and are git and g++ installed?"; exit 1; }
	@cd / && "$(abspath $(BIN))/python" -c "import cmpf.detectron2; print('Detectron2 is ready: --engine detectron2, docs/detectron2.md')"

demo: $(READY)
	$(BIN)/python demo/quickstart.py --output output/demo $(if $(WORDS),--words "$(WORDS)") $(if $(PHOTO),--photo "$(PHOTO)")

test: export OMP_NUM_THREADS := 1
test: $(TEST_READY)
	$(BIN)/python -m pytest -q -n 2

trust: export OMP_NUM_THREADS := 1
trust: $(TEST_READY)
	$(BIN)/python -m benchmarks.trust --output output/trust.md

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(TEST_READY)
	@$(BIN)/python -m mkdocs build --quiet
	@echo "site/index.html: the documents, to be opened in a browser"

static-checks: $(TEST_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cmpf tools/tiny_encoders

format: $(TEST_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ablation: $(READY)
	$(BIN)/python tools/ablation.py --output output/ablation
