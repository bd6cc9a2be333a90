"""A project of two notebooks, the second needing the first by the Makefile's own rules: for real runs of make."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from longalign.common import paths

TRAIN = [
    "import numpy as np\nfrom longalign.train import workers\nfrom longalign.common import paths, provenance\n"
    "from longalign.data.chat import Encoded\nfrom longalign.train.runs import Run\n"
    "from longalign.data.store import write_store\n\nfolder = paths.run_dir(profile)",
    "rng = np.random.default_rng(0)\nids = [rng.integers(2, 40, n).astype(np.int32) for n in rng.integers(2, 32, 40)]\n"
    "sequences = (Encoded(input_ids=i, labels=i, truncated=0) for i in ids)\n"
    "if not (folder / 'store').exists():\n    write_store(folder / 'store', sequences, meta={})",
    "training = {'capacity': 32, 'micro_batches_per_step': 1, 'epochs': 4, 'checkpoint_every': 5, 'snapshots': 3}\n"
    "new = {'name': 'mini-6b', 'vocab_size': 40, 'max_length': 32, 'seed': 0}\n"
    "runs = [Run(f'run {s}', str(folder / 'store'), training | {'seed': s}, new_model=new) for s in range(2)]\n"
    "workers.execute_all(runs, workers=2)",
    "losses = [{'seed': s, 'step': e['step'], 'value': e['loss']} for s, run in enumerate(runs)\n"
    "          for e in __import__('longalign.train.events').train.events.read_events(run.folder / 'events.jsonl')]\n"
    "provenance.write_csv(folder / 'losses.csv', losses);",
]
TABLE = [
    "import pandas as pd\nfrom longalign.common import paths, provenance\n\nfolder = paths.run_dir(profile)",
    "losses = pd.read_csv(folder / 'losses.csv')\nlosses.tail(3)",
    "if not (folder / 'items.jsonl').exists():\n    provenance.write_text(folder / 'items.jsonl', 'one\\ntwo\\n');",
    "provenance.write_csv(folder / 'means.csv', losses.groupby('seed').value.mean().reset_index());",
]
CSVS = ("losses.csv", "means.csv")


def write_notebook(path: Path, sources: list[str]) -> None:
    """A notebook of these code cells, each under a heading, after a cell of parameters."""
    first = new_code_cell('profile: str = "smoke"')
    first.metadata["tags"] = ["parameters"]
    cells = [new_markdown_cell("# Small"), first]
    for number, source in enumerate(sources):
        cells += [new_markdown_cell(f"## Part {number}"), new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)


class Project:
    """The small project in a folder, and its make."""

    def __init__(self, folder: Path, *, train: list[str] = TRAIN, table: list[str] = TABLE) -> None:
        for name in ("Makefile", "pyproject.toml", "profiles/smoke.yaml", "profiles/slurm.sbatch"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.root() / name, folder / name)
        (folder / "lib" / "longalign" / "recipe").mkdir(parents=True)
        (folder / "lib" / "longalign" / "recipe" / "packing.py").touch()
        write_notebook(folder / "notebooks" / "04_train.ipynb", train)
        write_notebook(folder / "notebooks" / "05_table.ipynb", table)
        self.folder, self.run = folder, folder / "results" / "run" / "smoke"

    def start(self, *arguments: str, limit: str = "", **environment: str) -> subprocess.Popen:
        """`make` with these arguments, in a process group of its own; `limit` is a command of the shell before it."""
        dropped = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "LONGALIGN_RUNS")
        clean = {name: value for name, value in os.environ.items() if name not in dropped}
        command = ["make", *arguments, "PROFILE=smoke", f"VENV={sys.prefix}", "READY="]
        if limit:
            command = ["sh", "-c", f'{limit}; exec "$@"', "sh", *command]
        return subprocess.Popen(
            command, cwd=self.folder, env={**clean, "LONGALIGN_ROOT": str(self.folder), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def make(self, *arguments: str, **options: str) -> tuple[int, str]:
        """Exit status and output of `make` when it has ended."""
        process = self.start(*arguments, **options)
        told = process.communicate(timeout=300)[0]
        return process.returncode, told

    def tables(self) -> dict[str, bytes]:
        """The CSVs that the notebooks write."""
        return {name: (self.run / name).read_bytes() for name in CSVS}
