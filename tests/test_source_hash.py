"""The hash of code: blind to where a definition lies, not to what it is; names that do not exist are refused."""

import re
import shutil
from pathlib import Path

import pytest

import longalign
from longalign.common.source_hash import Package
from longalign.data import tokenize_files
from longalign.experiments import evaluations, training_data
from longalign.train import runs

OWN = Path(longalign.__file__).parent
LOSS = """
import math as m

SCALE = 2

def half(x):
    return m.sqrt(x) / SCALE

def mean(x):
    "The mean."
    return half(sum(x)) / len(x)

def other(x):
    return 0
"""
TRAINER = """
from longalign.loss import mean as average

def train(x):
    return average(x)
"""
FILES = {"loss": LOSS, "trainer": TRAINER, "wrong": "def mean(x):\n    return max(x)\n"}


@pytest.fixture
def texts(tmp_path):
    """A function: the texts that are hashed for `names` in a package of these files (name without .py: source)."""

    def of(files, *names, without=()):
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "longalign"
        for name, source in {"__init__": "", **files}.items():
            (folder / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(source)
        return Package(folder).texts(names or ["trainer.train"], without)

    return of


def without(files, *names):
    return {name: source for name, source in files.items() if name not in names}


def changed(name, old, new):
    assert old in FILES[name]
    return {**FILES, name: FILES[name].replace(old, new)}


def test_what_is_hashed_is_the_source_of_what_is_named_with_numbers_in_place_of_names(texts):
    assert texts(FILES) == [
        "def train(x):\n    return [1](x)",
        "def mean(x):\n    return [2](sum(x)) / len(x)",
        "def half(x):\n    return ⟨math⟩.sqrt(x) / [3]",
        "SCALE = 2",
    ]


SAME = {
    "a module that lies in a folder": {
        **without(FILES, "loss"), "recipe/__init__": "", "recipe/loss": LOSS,
        "trainer": TRAINER.replace("longalign.loss", "longalign.recipe.loss"),
    },
    "a module of another name": {
        **without(FILES, "loss"), "costs": LOSS, "trainer": TRAINER.replace("longalign.loss", "longalign.costs"),
    },
    "a module that was split": {
        **FILES, "halves": "import math\nSCALE = 2\ndef half(x):\n    return math.sqrt(x) / SCALE\n",
        "loss": "from longalign import halves\ndef mean(x):\n    return halves.half(sum(x)) / len(x)\n",
    },
    "two modules in one": {**without(FILES, "loss"), "trainer": LOSS + "def train(x):\n    return mean(x)\n"},
    "the module imported for the function": changed("trainer", TRAINER, (
        "from longalign import loss\ndef train(x):\n    return loss.mean(x)\n"
    )),
    "the module imported under another name": changed("trainer", TRAINER, (
        "import longalign.loss as costs\ndef train(x):\n    return costs.mean(x)\n"
    )),
    "the module imported in full": changed("trainer", TRAINER, (
        "import longalign.loss\ndef train(x):\n    return longalign.loss.mean(x)\n"
    )),
    "an import from here": changed("trainer", "longalign.loss", ".loss"),
    "an import in the function": changed("trainer", TRAINER, (
        "def train(x):\n    from longalign.loss import mean\n    return mean(x)\n"
    )),
    "a module imported in the function": changed("trainer", TRAINER, (
        "def train(x):\n    from . import loss\n    return loss.mean(x)\n"
    )),
    "a package that hands the function on": {
        **changed("trainer", "longalign.loss", "longalign.recipe"),
        "recipe/__init__": "from longalign.recipe.all import mean\n", "recipe/all": "from ..loss import mean\n",
    },
    "comments, docstrings and layout": changed("loss", '    "The mean."\n', "\n    # why\n"),
    "types": changed("loss", "def mean(x):", "def mean(x: list[float]) -> float:"),
    "imports for types alone": changed("trainer", "def train(x)", (
        "if TYPE_CHECKING:\n    from longalign.nowhere import List\ndef train(x: List)"
    )),
    "another function beside": changed("loss", "return 0", "return 1"),
    "what a script does when it is run": changed("loss", "def other", (
        "if __name__ == '__main__':\n    print(1)\ndef other"
    )),
}  # fmt: skip


@pytest.mark.parametrize("files", SAME.values(), ids=SAME)
def test_these_are_the_same_code(files, texts):
    assert texts(files) == texts(FILES)


OTHER = {
    "the function of another module": changed("trainer", "longalign.loss", "longalign.wrong"),
    "another function of the module": changed("trainer", "import mean", "import other"),
    "a constant that a function far down reads": changed("loss", "SCALE = 2", "SCALE = 3"),
    "a constant among several of one statement": changed("loss", "SCALE = 2", "SCALE, REST = 3, 2"),
    "a constant with a type": changed("loss", "SCALE = 2", "SCALE: int = 3"),
    "a constant that is changed afterwards": changed("loss", "SCALE = 2", "SCALE = 2\nSCALE += 1"),
    "a constant below an if": changed("loss", "SCALE = 2", "if 1:\n    SCALE = 2\nelse:\n    SCALE = 3"),
    "a decorated function": changed("loss", "def half", "@m.cache\ndef half"),
    "another function of another package": changed("loss", "sqrt", "log"),
    "another package under the same name": changed("loss", "import math as m", "import cmath as m"),
    "a default": changed("loss", "def mean(x)", "def mean(x=SCALE)"),
    "a statement beside that enters something": changed("loss", "def other", "print(SCALE)\ndef other"),
    "a function beside that this package decorates": {
        **changed("loss", "def other", "from longalign.wrong import mean as enter\n@enter\ndef other"),
    },
    "an import that fails for a way out": changed("trainer", TRAINER, (
        "try:\n    from longalign.loss import mean\nexcept ImportError:\n    mean = sum\n"
        "def train(x):\n    return mean(x)\n"
    )),
}  # fmt: skip


@pytest.mark.parametrize("files", OTHER.values(), ids=OTHER)
def test_these_are_other_code(files, texts):
    assert texts(files) != texts(FILES)


def test_a_swapped_import_of_an_equal_definition_is_the_same_code(texts):
    assert texts({**changed("trainer", "longalign.loss", "longalign.copy"), "copy": LOSS}) == texts(FILES)


def test_a_registry_counts_with_what_it_holds(texts):
    files = {
        "table": "ALL = {}\ndef enter(f):\n    ALL[f.__name__] = f\n    return f\n",
        "all": "from longalign import table\n@table.enter\ndef one():\n    return 1\n"
        "def get(name):\n    return table.ALL[name]\n",
    }
    assert any("return 1" in text for text in texts(files, "all.get"))


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("def train(loss):\n    return loss.mean", False),
        ("def train(x):\n    loss = x\n    return loss.mean", False),
        ("def train(x):\n    return [loss.rows for loss in x]", False),
        ("def train(x):\n    return [x for x in loss.mean(x)]", True),
        ("def train(x):\n    return lambda loss: loss.rows", False),
        ("def train(x):\n    def inner(loss):\n        return 1\n    return inner(loss.mean)", True),
        ("def train(x):\n    for loss in x:\n        pass\n    return loss.rows", False),
        ("def train(x):\n    if (loss := x):\n        return loss.rows", False),
        ("def train(x):\n    return any((loss := y) for y in x) and loss.rows", False),
        ("def train(x):\n    global loss\n    loss = x\n    return loss.mean", True),
        ("def train(x):\n    match x:\n        case {'a': loss}:\n            return loss.rows", False),
        ("def train(x):\n    match x:\n        case {**loss}:\n            return loss.rows", False),
        ("def train(x):\n    try:\n        x()\n    except KeyError as loss:\n        return loss.rows", False),
        ("class train:\n    loss: int\n    @loss.rows\n    def f(self):\n        return 0", False),
        ("class train:\n    loss: int\n    def f(self):\n        return loss.mean", True),
        ("class train:\n    x = loss.mean\n    loss = 1", True),
    ],
)
def test_a_variable_with_the_name_of_a_module_is_no_module(body, counts, texts):
    found = texts({**FILES, "trainer": f"from longalign import loss\n{body}\n"})
    assert (len(found) > 1) == counts


def test_the_types_of_fields_count(texts):
    files = {"trainer": "class train:\n    x: int\n    def f(self) -> int:\n        y: int = 1\n        return y\n"}
    assert texts(files) != texts({"trainer": files["trainer"].replace("x: int", "x: str")})
    assert texts(files) == texts({"trainer": files["trainer"].replace("-> int", "").replace("y: int", "y: str")})


def test_functions_that_call_each_other_across_modules_come_to_an_end(texts):
    files = {
        "trainer": "from longalign import other\ndef train(x):\n    return other.back(x)\n",
        "other": "from longalign import trainer\ndef back(x):\n    return trainer.train(x) or back(x)\n",
    }
    assert texts(files) == ["def train(x):\n    return [1](x)", "def back(x):\n    return [0](x) or [1](x)"]


def test_a_module_that_is_named_counts_as_a_whole(texts):
    whole = texts(FILES, "loss")
    assert {"SCALE = 2", "def other(x):\n    return 0"} < set(whole)
    assert texts({**FILES, "trainer": "from longalign import loss\ndef train(x):\n    return getattr(loss, x)\n"})[1:]


def test_of_what_is_left_out_only_the_name_counts(texts):
    for left_out in ("loss", "loss.mean"):
        assert texts(FILES, without=[left_out]) == ["def train(x):\n    return <mean>(x)"]
    moved = SAME["a module that lies in a folder"]
    assert texts(moved, without=["recipe"]) == texts(FILES, without=["loss"])
    assert texts(changed("trainer", "import mean", "import half"), without=["loss"]) != texts(FILES, without=["loss"])


def test_the_list_of_what_counts_does_not_count_itself(texts):
    own = {"source_hash": "def source_hash(*names): pass\n", "names": "CODE = ('trainer',)\n"}
    source = "from longalign.source_hash import source_hash\nfrom longalign.names import CODE\n"
    assert len(texts({**own, "trainer": source + "def train(x):\n    return source_hash(*CODE)\n"})) == 1


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (FILES, ["losss"], "list of what counts names longalign.losss, but longalign/__init__.py defines no losss"),
        (FILES, ["loss.meann"], "longalign.loss.meann, but longalign/loss.py defines no meann: correct the name"),
        (FILES, ["nowhere.mean"], "there is no module longalign.nowhere"),
        (changed("trainer", "import mean", "import meann"), [], "longalign/trainer.py names longalign.loss.meann"),
        (changed("trainer", "longalign.loss", "longalign.losss"), [], "there is no module longalign.losss"),
        (changed("trainer", TRAINER, "def train(x):\n    from longalign import losss\n"), [], "defines no losss"),
        (SAME["the module imported in full"] | {"loss": ""}, [], "longalign/loss.py defines no mean"),
        (changed("trainer", "mean as average", "*"), [], r"longalign/trainer.py imports \*"),
        ({"trainer": "from .b import train\n", "b": "from .trainer import train\n"}, [], "imported in a circle"),
        ({"trainer": "from longalign import train\n", "__init__": "def __getattr__(name): pass\n"}, [],
         "longalign.train, which a __getattr__ makes: import it from where it is defined"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused_in_a_sentence(files, names, message, texts):
    with pytest.raises(ValueError, match=message):
        texts(files, *names)


KEYS = {
    "training": (["train.runs._train"], runs.WITHOUT),
    "evaluation": (["experiments.evaluations.Evaluation"], evaluations.WITHOUT),
    "tokens": (["data.tokenize_files.Job"], tokenize_files.WITHOUT),
    "data": (training_data.CODE, tokenize_files.WITHOUT),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A function: the hashes of `KEYS` in a copy of this package that `edit` has changed, names in `moved` replaced."""
    place = tmp_path_factory.mktemp("copies")

    def hashes(edit, moved=()):
        folder = place / str(len(list(place.iterdir()))) / "longalign"
        shutil.copytree(OWN, folder, ignore=shutil.ignore_patterns("__pycache__", "*.json*", "*.txt"))
        edit(folder)
        package = Package(folder)
        return {kind: package.hash(names, [dict(moved).get(name, name) for name in without])
                for kind, (names, without) in KEYS.items()}  # fmt: skip

    return hashes


@pytest.fixture(scope="module")
def today():
    return {kind: Package(OWN).hash(*KEYS[kind]) for kind in KEYS}


def move(folder):
    """Put loss, packing and jsonl into a folder, one under another name, with every import of them rewritten."""
    (folder / "room").mkdir()
    (folder / "room" / "__init__.py").touch()
    for name, new in {"recipe.loss": "loss", "recipe.packing": "packs", "data.jsonl": "jsonl"}.items():
        (folder / f"{name.replace('.', '/')}.py").rename(folder / "room" / f"{new}.py")
        for file in folder.rglob("*.py"):
            source = file.read_text()
            file.write_text(re.sub(rf"\blongalign\.{name}\b", f"longalign.room.{new}", source))


def test_modules_of_this_package_that_move_change_no_key(copied, today):
    assert copied(move, moved={"data.jsonl": "room.jsonl"}) == today


@pytest.mark.parametrize(
    ("edits", "keys"),
    [
        ({"recipe/loss": "def weighted_loss(", "miniature/pools": "FEWEST_VALUES = ",
          "clients/thoughts": "def split("},
         ["training", "evaluation", "data"]),
        ({"common/array_types": "IGNORE_INDEX = "}, ["training", "evaluation", "tokens", "data"]),
        ({"train/preflight": "def look(", "common/provenance": "def write_json(",
          "report/figures/speed": "def speed("}, []),
    ],
    ids=["what each uses alone", "what all use", "what changes no number"],
)  # fmt: skip
def test_a_changed_definition_reaches_the_keys_of_what_uses_it_and_no_others(edits, keys, copied, today):
    def edit(folder):
        for name, definition in edits.items():
            file = folder / f"{name}.py"
            source = file.read_text()
            assert source.count(definition) == 1
            other = f"@cache\n{definition}" if definition.startswith("def") else f"{definition}1 + "
            file.write_text(source.replace(definition, other))

    assert [kind for kind, hashed in copied(edit).items() if hashed != today[kind]] == keys
