"""The repository's own rules: imports go down, planning is light, modules and files are small, make explains itself."""

import ast
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
PACKAGE = ROOT / "lib" / "longalign"
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))

ROOMS = (
    "common recipe data fetch train miniature clients evals self_instruct experiments report reproduction cli".split()
)
"""The folders of the package from the ground up: a room imports from itself and from rooms before it."""
FROM_PIP = ("common", "recipe", "data", "fetch", "train", "clients", "self_instruct")
NEEDS_A_CLONE = ("miniature", "experiments", "report", "reproduction")
"""What works where the package alone is installed never imports what needs the repository."""
NUMPY = "packing batching weights cost leveling balance mixed summary".split()
"""The recipe's modules that turn lengths into plans, without torch."""
MEGABYTE = 2**20

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


def room(path):
    """The folder of a module: `recipe` for recipe/packing.py, `__init__` for the package itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """Full names of what the statements below `tree` import; `from longalign import x` counts as longalign.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tracked():
    """Files that git has or would take."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@each_module
def test_imports_go_down_only(path):
    if room(path) == "__init__":
        return
    assert room(path) in ROOMS, f"{path.name} lies in no room: {', '.join(ROOMS)}"
    floor = ROOMS.index(room(path))
    for name in imported(ast.parse(path.read_text())):
        top, _, below = name.partition(".")
        if top == "longalign" and below not in ("", "__version__"):
            target = below.split(".")[0]
            assert ROOMS.index(target) <= floor, f"{room(path)} imports {name}, of a room above it"
            assert not (room(path) in FROM_PIP and target in NEEDS_A_CLONE), f"{room(path)} imports {name}"


def test_the_listing_of_the_package_is_the_list_of_rooms():
    listed = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert listed == {"__init__.py", *ROOMS}


@pytest.mark.parametrize("path", sorted((PACKAGE / "recipe").glob("*.py")), ids=lambda path: path.stem)
def test_the_recipe_is_imported_with_numpy_and_torch_alone(path):
    tree = ast.parse(path.read_text())
    # what stands in a function is loaded when that is called: attention's registration in transformers
    top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    loaded = {module.split(".")[0] for module in imported(ast.Module(top_level, []))}
    heavy = {"numpy"} if path.stem in NUMPY else {"numpy", "torch"}
    assert loaded <= heavy | {"longalign"} | sys.stdlib_module_names


def test_importing_what_plans_takes_less_than_half_a_processor_second_and_no_torch():
    code = (
        "import sys, time; begun = time.process_time();"
        "from longalign.recipe import batching, weights, summary; print(time.process_time() - begun);"
        "sys.exit(bool({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, "planning loaded a heavy package"
        times.append(float(done.stdout))
    assert min(times) < 0.5  # the best of three: other work may run beside


@each_module
def test_a_module_has_at_most_300_lines(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 300


@each_module
def test_a_module_says_first_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    told = ast.get_docstring(ast.parse(text))
    assert not text.strip() or (told and not told.startswith("Guarantees"))


def test_no_committed_file_is_over_5_mb():
    large = [path.name for path in tracked() if path.stat().st_size > 5 * MEGABYTE]
    assert not large


def test_no_committed_text_holds_a_path_of_one_machine():
    pattern = re.compile(rb"/(?:home|root|Users)/\w+|/tmp/\w+/\w+")
    suffixes = {".py", ".md", ".yaml", ".yml", ".json", ".csv", ".ipynb", ".toml", ".txt", ".cff"}
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in suffixes and path.name != "test_notebooks.py" and pattern.search(path.read_bytes())
    ]
    assert not found


def test_every_requirement_is_pinned_and_none_is_flash_attn():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) > 10
    for line in lines:
        assert re.fullmatch(r'[a-z0-9_-]+==[0-9][0-9a-z.]*(; python_version (<|>=) "3\.\d+")?', line), line
        assert "flash" not in line


def test_the_lock_holds_every_pinned_package_in_its_version():
    pinned, locked = ({line.split(";")[0].strip() for line in (ROOT / name).read_text().splitlines() if "==" in line}
                      for name in ("requirements.txt", "requirements.lock"))  # fmt: skip
    assert pinned <= locked and len(locked) > 3 * len(pinned)


def test_the_packages_of_the_notebooks_are_installed_in_the_pinned_versions():
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    for name in ("torch", "transformers", "papermill"):
        pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith(f"{name}==")]
        version = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True).stdout.strip()
        assert any(version.split("+")[0] == pin.split("==")[1].split(";")[0] for pin in pins)


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
