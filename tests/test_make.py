"""The Makefile: what runs again and what does not, what is refused, and that no shell reads what a user gives."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longalign.common import paths
from maketool import make

ROOT = paths.root()


def test_make_alone_lists_every_target_it_explains():
    told = make()
    assert told.returncode == 0
    targets = "reproduce smoke notebook lab course test test-long test-browser test-all verify figures bases lint"
    for target in f"{targets} reference".split():
        assert re.search(rf"^  {target} +\w", told.stdout, re.MULTILINE), target


def test_make_refuses_an_unknown_profile_and_names_those_there_are():
    told = make("reproduce", "PROFILE=labtop")
    assert told.returncode != 0 and "labtop" in told.stderr and "laptop" in told.stderr


def test_make_refuses_an_old_python_in_a_sentence(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    told = make("install", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert told.returncode != 0 and "needs Python 3.10 or newer" in told.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def small(tmp_path):
    """A copy of the Makefile with two notebooks, the second needing the first by the Makefile's own rule."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "lib" / "longalign" / "recipe").mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "lib" / "longalign" / "recipe" / "packing.py").touch()
    (tmp_path / "profiles" / "laptop.yaml").touch()
    for name in ("04_bases", "05_methods"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # stands for `python -m longalign.reproduction.execute notebooks/x.ipynb --profile p`: says what it was given,
    # leaves the copy
    python.write_text('#!/bin/sh\necho "ran $3"\nmkdir -p out/$5/notebooks && touch out/$5/$3\n')
    python.chmod(0o755)

    def run(*arguments):
        told = make(*arguments, "RUNS=out", "VENV=venv", "READY=", root=tmp_path)
        assert told.returncode == 0, told.stderr
        return re.findall(r"ran notebooks/(\w+)", told.stdout)

    return tmp_path, run


def test_the_report_comes_last_with_the_claims_before_it_and_its_page_after_it(small):
    folder, run = small
    (folder / "notebooks" / "90_report.ipynb").touch()
    (folder / "claims.yaml").touch()
    (folder / "venv" / "bin" / "python").write_text(
        '#!/bin/sh\necho "ran $2 $3"\nmkdir -p out/$5/notebooks && touch out/$5/$3\n'
    )
    told = make("one-by-one", "RUNS=out", "VENV=venv", "READY=", root=folder).stdout
    modules = re.findall(r"ran (\S+)", told)
    execute = "longalign.reproduction.execute"
    assert modules == [execute, execute, "longalign.report.claims", execute, "longalign.report.export"]


def test_seeds_reach_the_notebooks_that_take_them_and_make_them_run_again(small):
    folder, run = small
    (folder / "notebooks" / "05_methods.ipynb").write_text('"seeds: int = 0"')
    (folder / "venv" / "bin" / "python").write_text(
        '#!/bin/sh\necho "ran $3 $6 $7"\nmkdir -p out/$5/notebooks && touch out/$5/$3\n'
    )
    asked = ("one-by-one", "SEEDS=3", "RUNS=out", "VENV=venv", "READY=")
    told = make(*asked, root=folder).stdout
    assert re.findall(r"ran (.*)", told) == [
        "notebooks/04_bases.ipynb --with-parent --because", "notebooks/05_methods.ipynb -p seeds=3",
    ]  # fmt: skip
    assert "ran" not in make(*asked, root=folder).stdout
    assert run("one-by-one") == ["04_bases", "05_methods"], "the profile's own number of seeds is another run"
    assert "ran notebooks/05" in make(*asked, root=folder).stdout, "whose results have taken the place of the first"


@pytest.mark.parametrize("asked", ["SEEDS=0", "SEEDS=three", "SEEDS=-1", "SEEDS=3.5", "JOBS=0", "JOBS=all", "JOBS="])
def test_seeds_and_jobs_must_be_numbers(asked, small):
    folder, _ = small
    told = make("reproduce", asked, root=folder)
    name, wrong = asked.split("=")
    assert told.returncode != 0 and f"{name} is '{wrong}'" in told.stderr


GIVEN = ("SEEDS", "JOBS", "PROFILE", "RUNS", "STAMPS", "VENV", "READY", "NB", "BENCH", "EXECUTOR", "PYTHON", "OUT",
         "MINUTES")  # fmt: skip
COMMANDS = ("1'; touch X; echo '1", '1"; touch X; echo "1', "1; touch X", "`touch X`", "1 && touch X", "1\ntouch X")


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "$(shell touch X)") for name in GIVEN), *(("SEEDS", value) for value in COMMANDS)]
)
def test_make_runs_no_command_out_of_a_variable(name, value, small):
    folder, _ = small
    for told in (make("help", f"{name}={value}", root=folder), make("help", root=folder, **{name: value})):
        assert told.returncode != 0 and f"{name} is '" in told.stderr and not (folder / "X").exists()


def test_the_arguments_of_pytest_may_hold_quotes_and_no_commands(small):
    folder, _ = small
    assert make("help", "ARGS=-k 'packing and (not slow)'", root=folder).returncode == 0
    for value in ("-k x; touch X", "$(shell touch X)", "x | touch X", "x > X"):
        told = make("test", f"ARGS={value}", root=folder)
        assert told.returncode != 0 and "ARGS is '" in told.stderr and not (folder / "X").exists()


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="asks Linux for the name of a process")
def test_no_shell_stands_between_make_and_a_run(small):
    folder, _ = small
    told = "#!/bin/sh\necho below $(cat /proc/$PPID/comm) makes $MAKE_COMMAND\n"
    (folder / "venv" / "bin" / "python").write_text(told)
    for more in ([], ["EXECUTOR=slurm"]):
        told = make("reproduce", "RUNS=out", "VENV=venv", "READY=", *more, root=folder)
        assert told.stdout.strip() == "below make makes make", told.stderr


def test_a_process_ends_with_the_topmost_make_that_asked_for_it(tmp_path):
    """A make that is killed tells nobody, and the one below it goes on waiting."""
    (tmp_path / "watch.py").write_text(
        "import pathlib, time\nfrom longalign.reproduction.askers import Askers\n"
        "askers, until = Askers(), time.monotonic() + 20\npathlib.Path('ready').touch()\n"
        "while not askers.gone() and time.monotonic() < until: time.sleep(0.05)\n"
        "pathlib.Path('gone' if askers.gone() else 'late').touch()\n"
    )
    (tmp_path / "Makefile").write_text(
        f"outer:\n\t@$(MAKE) inner\ninner:\n\t@true; {sys.executable} watch.py; true\n"
    )
    top = subprocess.Popen(["make", "outer"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    top.kill()  # and not yet waited for: it is a zombie
    wait_for(tmp_path / "gone")
    top.wait()


def wait_for(path):
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not come"
        time.sleep(0.05)


def touch_later(path, folder):
    """Give a file a time that is later than any stamp, without a time to come: all others are put back."""
    for file in folder.rglob("*"):
        ago = 10 if ".make" in file.parts else 20
        os.utime(file, (time.time() - ago,) * 2)
    os.utime(path)


def test_one_notebook_runs_with_what_it_needs_and_only_once(small):
    _, run = small
    assert run("notebook", "NB=05") == ["04_bases", "05_methods"]
    assert run("one-by-one") == []


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("notebooks/04_bases.ipynb", ["04_bases", "05_methods"]),
        ("notebooks/05_methods.ipynb", ["05_methods"]),
        ("profiles/laptop.yaml", ["04_bases", "05_methods"]),
        ("lib/longalign/recipe/packing.py", ["04_bases", "05_methods"]),
    ],
)
def test_what_depends_on_a_changed_file_runs_again(small, changed, again):
    folder, run = small
    assert run("one-by-one") == ["04_bases", "05_methods"]
    touch_later(folder / changed, folder)
    assert run("one-by-one") == again


def test_a_notebook_whose_executed_copy_is_gone_runs_again(small):
    folder, run = small
    run("one-by-one")
    (folder / "out" / "laptop" / "notebooks" / "05_methods.ipynb").unlink()
    assert run("one-by-one") == ["05_methods"]


def test_clean_makes_everything_run_again(small):
    _, run = small
    run("one-by-one")
    run("clean")
    assert run("one-by-one") == ["04_bases", "05_methods"]
