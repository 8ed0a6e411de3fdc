# Two commands are all a newcomer needs: `make course` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
CLASS := build/sample-class
STUDENTS ?= 4

.PHONY: course test slow notebooks site lint lock clean

## Install, write the student notebooks, build the site, grade a sample class, and say where to look.
course: notebooks site
	rm -rf $(CLASS)
	$(BIN)/autograder sample-class $(CLASS) --students $(STUDENTS) --seed 1
	$(BIN)/autograder grade $(CLASS)
	@echo
	@echo "The site:          build/site/_build/html/index.html"
	@echo "Student notebooks: chapters/exercises/"
	@echo "The gradebook:     build/course (nbgrader's own: there, 'jupyter lab' has the formgrader)"

## Everything that the project promises. TOPIC=softmax: only that topic's tests, for its author.
ifdef TOPIC
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --topic $(TOPIC)
else
test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	@command -v chromium chromium-browser google-chrome >/dev/null || echo "LEFT OUT: no page was opened, for want of Chromium."
endif

## A thousand seeds for the rule of right and wrong, 10,000 mutated notebooks, 200 kills. Takes hours.
slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 tests/test_intake.py tests/test_class.py --mutations 10000 --kills 200
	$(BIN)/python -m pytest -n 2 tests/test_tolerance.py --seeds 1000

notebooks: $(INSTALLED)
	$(BIN)/autograder build

site: $(INSTALLED)
	$(BIN)/jupyter-book build . --path-output build/site -W -n --keep-going -q

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

## Write requirements.txt anew from pyproject.toml.
lock: $(INSTALLED)
	$(BIN)/pip-compile --quiet --upgrade --all-extras --allow-unsafe --strip-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.txt pyproject.toml
	sed -i 's/+cpu$$//' requirements.txt

clean:
	rm -rf build node_modules
