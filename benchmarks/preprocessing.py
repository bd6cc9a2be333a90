"""From conversations to tokens: how long, and in how much memory, until long samples are ready for training.

Samples of 8k-64k tokens of plain words, in the miniature's tokenizer, written as JSONL beforehand. Each system turns
the file into what its trainer reads: ours by `tokenize_jsonl`; TRL by its own `_prepare_dataset` (load_dataset, then
datasets.map with two processes, and labels from the assistant's mask); the released code's way in our words: two
processes fill dense int64 rows of 65,536 and save them, one loads, joins and copies them and saves the array. Checked:
the tokens of our stores, their equality (also after a kill), others' number of rows. Seconds are user CPU of all
processes and time that passed, imports left out; the latter says little on a busy machine. Memory is the largest sum
over all processes of proportional set sizes (PSS), looked at ten times a second, with the interpreter and its
libraries, and the part of it that is no file's (anonymous): Arrow's files are mapped, and their pages can be dropped.

    python -m benchmarks.preprocessing
    python -m benchmarks.preprocessing --full      10,000 samples, ours alone, once: 20 minutes of CPU, 8 GB of disk
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np

from benchmarks import common, peers

TARGET, FULL = "preprocessing", "preprocessing-full"
LENGTHS = (8192, 65_536)
SIZES, LARGE = (200, 400), 10_000
UNITS = {"cpu": "CPU s", "time": "s", "memory": "MB", "anonymous": "MB", "tokens": "tokens/CPU s"}
ONE, TWO, DENSE = f"{common.OURS}: 1 worker", f"{common.OURS}: 2 workers", "as released: dense rows"
DENSE_NOTE = "in our words, with our tokenizer, 2 processes in place of 128, without its loop over labels"
TRL_NOTE = "its own _prepare_dataset, num_proc=2"


def write_samples(path: Path, samples: int, seed: int = 0) -> int:
    """Questions of 8k-64k words with short answers as JSONL; returns their tokens: words, three marks a sample."""
    from longalign.miniature import tokenizer

    random = Random(seed)
    words = [word.strip() for word in tokenizer.vocabulary() if word.startswith(" ") and len(word) > 2]
    texts = [" ".join(random.choices(words, k=256)) for _ in range(512)]
    tokens = 0
    with path.open("w") as file:
        for _ in range(samples):
            paragraphs = random.choices(texts, k=(random.randint(*LENGTHS) - 100) // 256)
            answer = " ".join(random.choices(words, k=60))
            turns = [{"role": "user", "content": " ".join(paragraphs)}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
            tokens += 256 * len(paragraphs) + 60 + 3
    return tokens


# ---- in a child ------------------------------------------------------------------------------------------------------


def ours(file: Path, out: Path, workers: int) -> str:
    """The token store; returns its sha256."""
    from longalign.data.tokenize_files import tokenize_jsonl
    from longalign.miniature import tokenizer

    store = tokenize_jsonl(file, tokenizer.load(), out, workers=workers, progress=lambda *told: None)
    if store.manifest["tokens"] != _tokens(file):
        raise RuntimeError(f"the store holds {store.manifest['tokens']} tokens, the file {_tokens(file)}")
    return store.sha256


def trl(file: Path, out: Path) -> str:
    """TRL's own preparation, to the Arrow files that its trainer reads."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from longalign.miniature import tokenizer

    datasets.disable_progress_bars()
    dataset = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(out))
    args = SFTConfig(
        output_dir=str(out), max_length=LENGTHS[1], assistant_only_loss=True, dataset_num_proc=2, bf16=False,
        use_cpu=True,
    )  # fmt: skip
    words = tokenizer.load()
    trainer = SimpleNamespace(_tokenizer=words, chat_template=None, completion_only_loss=False)
    rows = SFTTrainer._prepare_dataset(trainer, dataset, words, args, False, None, "train")
    return _rows(len(rows), file)


def dense(file: Path, out: Path) -> str:
    """Rows of 65,536, filled by two processes, joined by one."""
    from multiprocessing import get_context

    out.mkdir()
    lines = file.read_text().splitlines()
    middle = len(lines) // 2
    halves = [(lines[:middle], out / "0"), (lines[middle:], out / "1")]
    with get_context("fork").Pool(2) as pool:
        pool.starmap(_fill_rows, halves)
    inputs = np.concatenate([np.load(f"{part}.inputs.npy") for _, part in halves])
    labels = np.concatenate([np.load(f"{part}.labels.npy") for _, part in halves])
    copied = inputs.astype(np.int64)
    labels = labels.astype(np.int64)
    kept = np.where(~np.all(labels == -100, axis=1))[0]
    copied, labels = copied[kept], labels[kept]
    np.save(out / "inputs.npy", copied)
    np.save(out / "labels.npy", labels)
    return _rows(len(kept), file)


def _rows(found: int, file: Path) -> str:
    if found != int(file.stem):
        raise RuntimeError(f"{found} rows of {file.stem} samples")
    return f"{found} rows"


def _fill_rows(lines: Sequence[str], part: Path) -> None:
    from longalign.data.chat import encode
    from longalign.miniature import tokenizer

    inputs = np.zeros((len(lines), LENGTHS[1]), dtype=np.int64)
    labels = np.full((len(lines), LENGTHS[1]), -100, dtype=np.int64)
    for row, line in enumerate(lines):
        encoded = encode(json.loads(line)["messages"], tokenizer.load(), max_length=LENGTHS[1])
        inputs[row, : len(encoded.input_ids)] = encoded.input_ids
        labels[row, : len(encoded.labels)] = encoded.labels
    np.save(f"{part}.inputs.npy", inputs)
    np.save(f"{part}.labels.npy", labels)


def killed(file: Path, out: Path) -> None:
    """Ours by two workers, killed once half of the samples are in finished parts, and again; reports the second."""
    command = [sys.executable, "-m", "benchmarks.preprocessing", "ours-2", str(file), str(out)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while running.poll() is None and (done := _finished_share(file, out)) < 0.5:
        time.sleep(0.02)
    running.kill()
    running.wait()
    if not out.with_name(f".{out.name}.parts").is_dir():
        raise RuntimeError("it was whole before it could be killed")
    began, spent = time.monotonic(), common.user_seconds()
    made = ours(file, out, 2)
    common.report(kept=done, sha256=made, time=time.monotonic() - began, cpu=common.user_seconds() - spent)


def _finished_share(file: Path, out: Path) -> float:
    parts = out.with_name(f".{out.name}.parts").glob("[0-9a-f]*/manifest.json")
    sequences = sum(json.loads(part.read_text())["sequences"] for part in parts)
    return sequences / int(file.stem)


CHILDREN: dict[str, Callable[[Path, Path], str]] = {
    "ours-1": lambda file, out: ours(file, out, 1), "ours-2": lambda file, out: ours(file, out, 2), "trl": trl,
    "dense": dense,
}  # fmt: skip


def child(name: str, file: str, out: str) -> None:
    """Do it once and report; what an earlier round made is removed first."""
    shutil.rmtree(out, ignore_errors=True)
    if name == "killed":
        killed(Path(file), Path(out))
        return
    _load(name)
    began, spent = time.monotonic(), common.user_seconds()
    with common.peak_memory() as peak:
        made = CHILDREN[name](Path(file), Path(out))
    seconds = common.user_seconds() - spent
    passed, rate = time.monotonic() - began, _tokens(Path(file)) / seconds
    common.report(time=passed, cpu=seconds, tokens=rate, sha256=made, **peak)


def _load(name: str) -> None:
    """What a system imports: it takes as long for one sample as for all."""
    if name == "trl":
        import datasets  # noqa: F401
        from trl import SFTConfig, SFTTrainer  # noqa: F401
    from longalign.data import tokenize_files  # noqa: F401
    from longalign.miniature import tokenizer

    tokenizer.load()


def _tokens(file: Path) -> int:
    return int(file.with_suffix(".tokens").read_text())


# ---- the script ------------------------------------------------------------------------------------------------------


def run(rounds: int = 2) -> list[common.Row]:
    """All systems at two sizes, in turn (the larger once, for its memory), and a kill at half of the smaller."""
    known = peers.state("trl")
    trl_name = f"{known.system}: datasets.map"
    names = {ONE: "ours-1", TWO: "ours-2", DENSE: "dense", trl_name: "trl"}
    notes, rows, taken = {DENSE: DENSE_NOTE, trl_name: TRL_NOTE}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for samples in SIZES:
            file = _samples(Path(folder), samples)
            commands = {system: _command(name, file) for system, name in names.items()}
            if known.reason:
                commands.pop(trl_name)
            taken[samples] = common.alternate(commands, rounds if samples == SIZES[0] else 1)
            if known.reason:
                taken[samples][trl_name] = common.Samples(failure=known.reason)
            rows += common.rows_of(TARGET, _case(samples), taken[samples], UNITS, notes)
        again = common.alternate({TWO: _command("killed", _samples(Path(folder), SIZES[0]))}, rounds)[TWO]
    small, large = (taken[samples] for samples in SIZES)
    if len({entry["sha256"] for made in (small[ONE], small[TWO], again) for entry in made.rounds}) > 1:
        raise RuntimeError("one worker, two, and two that were killed and went on made different stores")
    rows.append(common.ratio(TARGET, _case(SIZES[0]), "cpu", small, TWO, ONE, "two parts at a time over one"))
    for other in (DENSE, trl_name) if not known.reason else (DENSE,):
        rows += [common.ratio(TARGET, _case(SIZES[0]), m, small, other, TWO) for m in ("cpu", "anonymous")]
    return rows + _growth(small, large) + _restart(again, small[TWO])


def full() -> list[common.Row]:
    """10,000 samples by two workers, once."""
    with tempfile.TemporaryDirectory() as folder:
        file = _samples(Path(folder), LARGE)
        taken = common.alternate({TWO: _command("ours-2", file, timeout=7200)}, 1)
        note = f"{file.stat().st_size / 2**30:.2f} GB of text, {_tokens(file) / 1e6:,.0f} M tokens, once"
    return common.rows_of(FULL, _case(LARGE), taken, UNITS, {TWO: note})


def _case(samples: int) -> str:
    return f"{samples:,} long samples"


def _samples(folder: Path, samples: int) -> Path:
    """The file of so many samples, with the number of its tokens beside it."""
    file = folder / f"{samples}.jsonl"
    file.with_suffix(".tokens").write_text(f"{write_samples(file, samples)}")
    return file


def _command(name: str, file: Path, timeout: float = 900.0) -> common.Command:
    arguments = ("-m", "benchmarks.preprocessing", name, str(file), str(file.with_name("out")))
    if name == "trl":
        return peers.command(name, *arguments, timeout=timeout)
    return common.Command(arguments, timeout=timeout)


def _growth(small: dict[str, common.Samples], large: dict[str, common.Samples]) -> list[common.Row]:
    """How anonymous memory grows with twice the samples; of rows of one length, what follows for 10,000 samples."""
    rows = []
    for system in large:
        low, high = (statistics.median(size[system].of("anonymous") or [0]) for size in (small, large))
        if low and high:
            note = "its writer keeps 1,000 samples a process at most" if "datasets.map" in system else ""
            case = f"{SIZES[1]} over {SIZES[0]} samples"
            rows.append(common.row(TARGET, system, case, "anonymous", "ratio", high / low, note))
        if low and high and system == DENSE:
            there = high + (high - low) / (SIZES[1] - SIZES[0]) * (LARGE - SIZES[1])
            note = f"extrapolated in a straight line from {SIZES[0]} and {SIZES[1]} samples, as the rows grow"
            rows.append(common.row(TARGET, system, _case(LARGE), "anonymous", "MB", there, note))
    return rows


def _restart(again: common.Samples, whole: common.Samples) -> list[common.Row]:
    """What the call after a kill takes, and how much of a whole run's CPU it takes beyond what was not kept."""
    case, units = f"killed at half of {SIZES[0]}", {"kept": "share", "cpu": "CPU s", "time": "s"}
    rows = common.rows_of(TARGET, case, {TWO: again}, units, {TWO: "of the call that goes on"})
    pairs = zip(again.of("cpu"), again.of("kept"), whole.of("cpu"), strict=False)
    beyond = [cpu / undisturbed - (1 - kept) for cpu, kept, undisturbed in pairs]
    note = "CPU of the call that goes on, beyond what was not kept, as a share of an undisturbed call"
    return [*rows, common.row(TARGET, TWO, case, "beyond", "share", beyond, note if beyond else again.failure or note)]


def main() -> int:
    """Measure and keep the rows; with --full those of 10,000 samples, which `make bench` leaves as they are."""
    if sys.argv[1:] == ["--full"]:
        return common.finish(FULL, full())
    return common.finish(TARGET, run(), peers=peers.versions())


if __name__ == "__main__":
    sys.exit(child(*sys.argv[1:]) if len(sys.argv) > 2 else main())
