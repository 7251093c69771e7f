# make demo: LAMMPS and i-PI move a five-metal alloy on a ForceNet. make test: the fast tests.
# Both set up .venv first; nothing outside this folder is needed but Python 3.11+ and a C++ compiler.
PYTHON ?= python3
BIN := .venv/bin
# torch spins when threads share cores; one thread per process unless said otherwise.
export OMP_NUM_THREADS ?= 1

# Tests run two at a time: many of them wait for processes to start and end. The fast ones go by
# file, so that the server that a file's tests share is started once. Without a browser (Debian's
# chromium-headless-shell) those of report pages are skipped.
.PHONY: demo test long lint clean

demo: .venv/ready
	$(BIN)/forcenet-md demo

test: .venv/ready
	$(BIN)/pytest -n 2 --dist loadfile

long: .venv/ready
	$(BIN)/pytest -m waits & waiting=$$!; \
	$(BIN)/pytest -n 2 -m "slow and not waits"; rest=$$?; \
	wait $$waiting && exit $$rest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/forcenet-md build-plugin
	touch $@

clean:
	rm -rf .venv demo-out dist build
