"""The repository's own rules: imports go down, planning is light, modules and files are small."""

import ast
import re
import subprocess
import sys

import pytest

from longalign.common import paths

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
