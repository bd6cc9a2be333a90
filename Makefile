# LongAlign, reproducible. `make` alone shows the targets; GNU make 3.81 or newer, Python 3.10 or newer, no GPU.
# Executed notebooks have stamps in .make/, never among the committed results: a fresh clone executes everything.

# What is given on the command line or in the environment is data: whatever a shell, or make itself, could read as a
# command is refused before it is used, without a shell.
define NEWLINE


endef
SIGNS := $$ ; & | < > `
QUOTES := ' " ( ) \ * ?
signs = $(strip $(foreach sign,$(2),$(findstring $(sign),$(value $(1)))) $(if $(findstring $(NEWLINE),$(value $(1))),newline))
unsafe = $(if $(filter command environment,$(firstword $(origin $(1)))),$(call signs,$(1),$(2)))
GIVEN := $(filter-out ARGS DRY_RUN MAKEFLAGS MAKEOVERRIDES -*-%,$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
$(foreach name,$(sort $(GIVEN) PYTHON PROFILE RUNS LONGALIGN_RUNS STAMPS VENV READY JOBS SEEDS EXECUTOR NB BENCH BASES NUMBERS PILOTS MINUTES OUT),$(if $(call unsafe,$(name),$(SIGNS) $(QUOTES)), \
	$(error $(name) is '$(value $(name))'; it must hold no $(call signs,$(name),$(SIGNS) $(QUOTES)))))
$(if $(call unsafe,ARGS,$(SIGNS)),$(error ARGS is '$(value ARGS)'; it must hold no $(call signs,ARGS,$(SIGNS)); call pytest for that))

# $(call number,$(JOBS)) is empty for what is no whole number from 1 on
digits = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,$(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$(1)))))))))))
number = $(if $(call digits,$(1)),,$(if $(filter 1,$(words $(1))),$(filter-out 0%,$(1))))

PYTHON  ?= python3
PROFILE ?= laptop
RUNS    ?= $(or $(LONGALIGN_RUNS),results/run)
STAMPS  ?= .make
VENV    ?= .venv
JOBS    ?= 2
EXECUTOR ?= make
MINUTES ?= 6
OUT     ?= $(RUNS)/gpu_program
# those that take longest first, so that the others fill the time beside them
BENCHES := training preprocessing $(filter-out _% common peers training preprocessing,$(basename $(notdir $(sort $(wildcard benchmarks/*.py)))))
BENCH   ?= $(BENCHES)
WITH_PEERS := $(basename $(notdir $(shell grep -lE '^from benchmarks import .*peers' benchmarks/*.py)))

PY    := $(VENV)/bin/python
READY := $(VENV)/.installed
TEST  := $(VENV)/.installed-for-tests
COURSE := .course
GRADER := $(COURSE)/.installed
RUN   := $(RUNS)/$(PROFILE)
STAMP := $(STAMPS)/$(PROFILE)$(if $(SEEDS),-$(SEEDS)-seeds)

TIMES     := 08
REPORT    := 90
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]*_*.ipynb))
LIBRARY   := $(sort $(shell find lib/longalign -name '*.py'))

# a profile may name the notebooks that it executes: notebooks: ["01", "04"]
ifneq ($(shell grep -s '^notebooks:' profiles/$(PROFILE).yaml),)
NOTEBOOKS := $(foreach number,$(shell sed -n '/^notebooks:/{s/^notebooks://;s/\#.*//;s/[^0-9a-z]/ /gp;}' profiles/$(PROFILE).yaml),$(filter notebooks/$(number)_%,$(NOTEBOOKS)))
endif

# $(call stamp,05) is the stamp of 05_data_scale in this profile, $(call stamp,*) those of all
stamp = $(patsubst notebooks/%.ipynb,$(STAMP)/%,$(filter $(NOTEBOOKS),$(wildcard notebooks/$(1)_*.ipynb)))

export DS_BUILD_OPS := 0
ifneq ($(words $(RUNS)),1)
$(error RUNS is '$(RUNS)'; it is one folder, without spaces in its path)
endif
ifneq ($(RUNS)$(LONGALIGN_RUNS),results/run)
export LONGALIGN_RUNS := $(abspath $(RUNS))
endif
ifneq ($(PIP_FIND_LINKS),)  # uv reads none of pip's settings
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

ifeq ($(wildcard profiles/$(PROFILE).yaml),)
$(error there is no profile '$(PROFILE)'; there are: $(patsubst profiles/%.yaml,%,$(wildcard profiles/*.yaml)))
endif

ifneq ($(SEEDS),)
ifeq ($(call number,$(SEEDS)),)
$(error SEEDS is '$(SEEDS)'; it is a number of seeds, 1 or more)
endif
endif
ifneq ($(words $(EXECUTOR))$(filter make slurm,$(EXECUTOR)),1$(EXECUTOR))
$(error EXECUTOR is '$(EXECUTOR)'; it is make (here) or slurm (as jobs of a cluster))
endif
ifneq ($(and $(SEEDS),$(filter headline,$(MAKECMDGOALS))),)
$(error SEEDS is for make reproduce; make headline trains the seeds of the profile $(PROFILE))
endif
ifneq ($(and $(filter slurm,$(EXECUTOR)),$(filter headline notebook referee smoke,$(MAKECMDGOALS))),)
$(error EXECUTOR=slurm is for make reproduce; $(MAKECMDGOALS) runs here)
endif
ifneq ($(DRY_RUN),)
ifneq ($(EXECUTOR),slurm)
$(error DRY_RUN shows the jobs of EXECUTOR=slurm; without it, make --dry-run one-by-one shows what would be executed)
endif
endif
ifeq ($(call number,$(JOBS)),)
$(error JOBS is '$(JOBS)'; it is a number of notebooks to run side by side, 1 or more)
endif

# what `make test` runs, and which of it holds values and gradients to an oracle
SHORT     := not slow and not cluster and not gpu and not browser and not exhaustive
EXACTNESS := $(foreach name,attention collators cost dataset decoding equation4 last_layer loss packing planned weights,\
	$(wildcard tests/test_$(name).py lib/longalign/$(name).py lib/longalign/*/$(name).py))
# torch's kernels without vector extensions, OpenBLAS and MKL without AVX-512: sums in another order
PORTABLE  := ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Haswell MKL_ENABLE_INSTRUCTIONS=AVX2

.PHONY: help headline reproduce referee nothing side-by-side one-by-one verify smoke notebook lab bench gpu models site course test test-long test-cluster test-portable test-exhaustive test-all test-browser figures pages bases pilots reference lint format strip install lock clean distclean FORCE
.DEFAULT_GOAL := help
.SECONDEXPANSION:
.DELETE_ON_ERROR:

help: ## show this list
	@echo "make TARGET [PROFILE=$(PROFILE)] [SEEDS=n] [JOBS=$(JOBS)] [EXECUTOR=$(EXECUTOR)] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

# What was given on the command line and must be given again: to jobs, and to whoever goes on after an interruption.
given = $(strip $(foreach name,NB PROFILE SEEDS RUNS STAMPS JOBS EXECUTOR VENV READY,$(if $(filter command,$(origin $(name))),$(name)=$($(name)))))

headline: $(READY) ## the first finding alone, in minutes: no, half and all long instructions; make reproduce goes on from it
	@exec $(PY) -m longalign.reproduction.headline $(PROFILE)

reproduce: $(READY) $(if $(NOTEBOOKS),,nothing) ## run every notebook (PROFILE=laptop by default); SEEDS=5: five repetitions of every setting
ifeq ($(EXECUTOR),slurm)
	@exec env MAKE_COMMAND=$(MAKE_COMMAND) $(PY) -m longalign.reproduction.slurm $(PROFILE) $(if $(DRY_RUN),--dry-run) --stamps $(STAMP) --lock $(STAMPS)/lock \
		--alone $(call stamp,$(TIMES)) --make $(given) --notebooks $(NOTEBOOKS)
else
	@exec env MAKE_COMMAND=$(MAKE_COMMAND) $(PY) -m longalign.reproduction.reproduce $(PROFILE) --jobs $(JOBS) --lock $(STAMPS)/lock \
		--notebooks $(NOTEBOOKS)
endif

nothing:
	@echo "the profile $(PROFILE) executes no notebook yet; there are: $(if $(filter referee,$(PROFILE)),make referee,make smoke PROFILE=$(PROFILE), longalign plan --profile $(PROFILE))" >&2; exit 2

# Called by `reproduce`, one after the other: notebooks side by side fill the cores, but times are measured alone.
side-by-side: $(filter-out $(call stamp,$(TIMES)) $(call stamp,$(REPORT)),$(call stamp,*))
one-by-one: $(call stamp,*)

smoke: ## run every notebook at the smallest size; PROFILE=gpu: two training steps and one answer of its real model
ifeq ($(filter command environment,$(origin PROFILE)),)
	@$(MAKE) --no-print-directory reproduce PROFILE=smoke
else ifeq ($(PROFILE),smoke)
	@$(MAKE) --no-print-directory reproduce
else
	@$(MAKE) --no-print-directory $(READY)
	@$(PY) -m longalign.reproduction.smoke $(PROFILE)
endif

notebook: ## run one notebook, and first those it needs: make notebook NB=05
	@test -n "$(call stamp,$(NB))" || { echo "say which: make notebook NB=05; there are: $(notdir $(NOTEBOOKS))" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(call stamp,$(NB))
	@echo "executed: $(patsubst $(STAMP)/%,$(RUN)/notebooks/%.ipynb,$(call stamp,$(NB)))"

lab: $(READY) ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(firstword $(NOTEBOOKS))

bench: $(READY) ## measure speed and memory, compared with other libraries from PyPI; BENCH="training planning": only these
	@test -z "$(filter-out $(BENCHES),$(BENCH))" || { echo "BENCH is '$(BENCH)'; there are: $(BENCHES)" >&2; exit 2; }
	@[ -r /proc/self/statm ] || { echo "make bench needs Linux: it reads memory from /proc" >&2; exit 1; }
	@status=0; $(if $(filter $(WITH_PEERS),$(BENCH)),$(PY) -m benchmarks.peers || status=1;) \
	printf '%s\n' $(BENCH) | xargs -P $(JOBS) -I NAME $(PY) -m benchmarks.NAME || status=1; \
	$(PY) -m longalign.report.readme || status=1; exit $$status

models: $(TEST) ## check small models of the architectures of transformers; results in results/models.csv and models.md
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.models.matrix

# A borrowed machine has torch, and no network to install anything: its own Python serves where there is no .venv.
gpu: ## measure on a GPU for MINUTES=6, results in OUT=folder; ARGS="--tiny": try the program on a CPU
	$(or $(wildcard $(PY)),$(PYTHON)) -m benchmarks.gpu --minutes $(MINUTES) --out $(OUT) $(ARGS)

course: $(GRADER) ## make the exercises in course/: the students' notebooks in release/, the solutions in solution/
	@cd course && export PATH="$(abspath $(COURSE)/bin):$$PATH" && \
		nbgrader generate_assignment --force --log-level=WARN '*' && nbgrader generate_solution --force --log-level=WARN '*'
	@echo "course/release: $(words $(wildcard course/source/*)) exercises; course/solution: the same with their solutions"

test: $(TEST) ## run the tests; ARGS="-k packing": only those with this word in their name
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m "$(SHORT)" $(ARGS)

test-long: $(TEST) $(GRADER) ## run the long tests: killed processes, full disks, all notebooks
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m "slow and not exhaustive" $(ARGS)

test-cluster: $(TEST) ## run the tests of DeepSpeed (two processes) and of Slurm (a real one)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m "cluster and not exhaustive" -rs $(ARGS)

test-portable: $(TEST) ## run the exactness tests as on a processor without AVX-512 and AVX2
	$(PORTABLE) OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m "$(SHORT)" $(EXACTNESS) $(ARGS)

test-exhaustive: $(TEST) ## run the tests that take too long for every day: kills at more moments, every architecture
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m exhaustive $(ARGS)

test-all: test test-portable test-long test-cluster test-browser test-exhaustive ## run all tests

test-browser: $(TEST) site course ## run the tests in a real browser: notebooks and an exercise in JupyterLab, pages of the site
	@$(PY) -c 'import playwright' 2>/dev/null || $(call install,playwright==1.65.2)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m browser -rs $(ARGS)

# with TRL, which trains on preferences
referee: $(TEST) ## train and score what the claims of later papers compare (hours): results in results/run/referee/
	@exec $(PY) -m longalign.experiments.later referee $(if $(SEEDS),--seeds $(SEEDS))

verify: $(READY) ## compare the numbers of your last run with ours in results/ (the committed reference)
	@$(PY) -m longalign.reproduction.verify $(PROFILE)

figures: $(READY) ## draw figures/ again from the numbers in results/
	@$(PY) -m longalign.report.figures.style

pages: $(READY) ## draw executed notebooks, report and figures again from results/, without training; NB=05: only this one
	@$(PY) -m longalign.reproduction.redraw $(NB) --jobs $(JOBS)

bases: $(READY) ## train the base models in results/bases and long_bases again (slow, goes on where it was stopped); BASES="mini-7b" NUMBERS="1 2": a part
	$(PY) -m longalign.miniature.pretraining --workers $(JOBS) $(if $(BASES),--models $(BASES)) $(if $(NUMBERS),--bases $(NUMBERS))
	OMP_NUM_THREADS=1 $(PY) -m longalign.experiments.base_loss
	$(if $(filter 0,$(or $(NUMBERS),0)),OMP_NUM_THREADS=1 $(PY) -m longalign.experiments.long_base --workers $(JOBS) $(if $(BASES),--models $(BASES)))

pilots: $(READY) ## run the trainings that choose the settings of bases and data (hours); PILOTS="speed shapes": some of them
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.pilots $(PILOTS) --jobs $(JOBS)

reference: $(READY) ## replace results/ and figures/ (the committed reference) by your last run; NB="05 06": only these notebooks; PROFILE=referee: what make referee found
	@$(PY) -m longalign.reproduction.reference $(PROFILE) $(NB)

# Sphinx reads a copy, where pages and what they link to lie as in the repository; a warning is an error.
site: $(READY) ## build docs/ and the executed notebooks as a web site: open site/html/docs/index.html
	@$(PY) -c 'import sphinx, myst_nb, furo' 2>/dev/null || $(call install,-e '.[site]')
	@rm -rf site && mkdir -p site/source/results
	@cp -r docs figures notebooks CONTRIBUTING.md CHANGELOG.md LICENSE claims.yaml later_claims.yaml site/source/
	@cp -r results/notebooks results/models.md results/report.html site/source/results/
	@sed -i.bak 's#\[source\](\(../../notebooks/[^)]*\))#{download}`source <\1>`#' site/source/docs/learn/notebooks.md  # no page, a file
	@sed -i.bak 's#^ "metadata": {$$# "metadata": {"mystnb": {"remove_code_source": true},#' site/source/results/notebooks/90_report.ipynb
	$(PY) -m sphinx -W --keep-going -q -b html -c docs site/source site/html

lint: $(TEST) ## check the style of the code, and the types of recipe/ and data/
	$(PY) -m ruff check lib tests notebooks benchmarks course
	$(PY) -m mypy

format: $(TEST) ## sort imports, and repair what can be repaired automatically
	$(PY) -m ruff check --fix lib tests notebooks benchmarks course

strip: $(READY) ## remove all outputs from notebooks/, before a commit
	$(PY) -m nbconvert --log-level=WARN --clear-output --inplace $(NOTEBOOKS) $(wildcard course/source/*/*.ipynb)

install: $(READY) ## make .venv and install what the notebooks need; LOCKED=1: all versions as in requirements.lock

lock: $(READY) ## write requirements.lock: the versions of all packages that notebooks and tests need
	$(PY) -m uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate requirements.txt pyproject.toml --extra test -o requirements.lock

clean: ## remove your runs (results/run) and caches; keep .venv, results/ and figures/
	rm -rf results/run $(STAMPS) site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(wildcard lib tests notebooks benchmarks course) \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

distclean: clean ## remove also .venv and what make bench and make course installed
	rm -rf $(VENV) .peers $(COURSE)

# ---- which notebook needs which -------------------------------------------------------------------------------------

# 01 builds the data that the others read, 04 trains the long bases; the report shows what all others have found. A
# training that two notebooks ask for is done by the first of them and reused by the other. 22 draws what is committed of GPUs.
$(call stamp,0[2-4]) $(call stamp,03b): $(call stamp,01)
$(filter-out $(call stamp,0[0-4]) $(call stamp,03b),$(call stamp,*)): $(call stamp,04)
$(call stamp,22): $(wildcard results/gpu/*/gpu.csv)
$(call stamp,$(REPORT)): claims.yaml $(filter-out $(call stamp,$(REPORT)),$(call stamp,*))

# A notebook runs again when it, its profile, the library or a notebook it needs is newer, or its executed copy is gone.
# The stamp bears the time of the start, so that an edit made meanwhile counts. Stamps of other numbers of seeds go:
# there is one folder of results, which holds what was executed last.
newer = $(filter-out FORCE,$?)
reason = $(if $(wildcard $@),$(if $(newer),$(firstword $(newer)) is newer,its executed copy is gone),it has not been executed)
again = make $(if $(NB),notebook,reproduce) $(given)
$(STAMP)/%: notebooks/%.ipynb profiles/$(PROFILE).yaml $(LIBRARY) \
		$$(if $$(wildcard $(RUN)/notebooks/$$*.ipynb),,FORCE) | $(READY)
	@mkdir -p $(@D) && touch $@.started
	@$(if $(filter $(REPORT)_%,$(@F)),$(PY) -m longalign.report.claims $(PROFILE))
	@exec $(PY) -m longalign.reproduction.execute $< --profile $(PROFILE) $(if $(SEEDS),$(if $(shell grep '"seeds: int' $<),-p seeds=$(SEEDS))) \
		--with-parent --because '$(reason)' --resume '$(again)'
	@$(if $(filter $(REPORT)_%,$(@F)),$(PY) -m longalign.report.export $(RUN)/notebooks/$(<F) $(RUN)/report.html)
	@rm -f $(filter-out $@,$(wildcard $(STAMPS)/$(PROFILE)/$(@F) $(STAMPS)/$(PROFILE)-*-seeds/$(@F)))
	@mv $@.started $@

FORCE:

# ---- environment ----------------------------------------------------------------------------------------------------

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "LongAlign needs Python 3.10 or newer; '$(PYTHON)' is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# requirements.txt pins what is named there; LOCKED=1 holds what these packages need to the versions of the lock, too
HELD := $(if $(LOCKED),-c requirements.lock)

# uv takes a minute where pip takes five, and pip serves where uv cannot be had or does not find its way to a registry;
# compiled at once, because torch is imported by every notebook's kernel and many tests
install = $(PY) -m pip install --quiet uv && $(PY) -m uv pip install --compile-bytecode --python $(PY) $(1) || $(PY) -m pip install $(1)

$(READY): requirements.txt pyproject.toml | $(PY)
	$(call install,-r requirements.txt $(HELD) -e .)
	@touch $@

$(TEST): requirements.txt pyproject.toml | $(PY)
	$(call install,-r requirements.txt $(HELD) -e '.[test]')
	@touch $@ $(READY)

# nbgrader has an environment of its own, since ipywidgets comes with it: in .venv, progress bars would become widgets, which
# GitHub does not show. Behind its own packages it finds those of .venv, so that exercises import torch.
$(GRADER): pyproject.toml $(TEST)
	@$(PY) -m venv $(COURSE)
	@sed -n '/^course = \[/,/^\]/s/^ *"\(.*\)",$$/\1/p' pyproject.toml > $(COURSE)/requirements.txt
	@$(PY) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(COURSE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/longalign_venv.pth"
	@$(PY) -m uv pip install --quiet --python $(COURSE)/bin/python -c requirements.txt -r $(COURSE)/requirements.txt || \
		$(COURSE)/bin/python -m pip install -c requirements.txt -r $(COURSE)/requirements.txt
	@touch $@
