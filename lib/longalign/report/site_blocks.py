"""Blocks of the site's pages: figures with their captions, and what the paper's trainings would cost."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from longalign.common import paths
from longalign.experiments.paper_costs import CAREFUL, DEVICES, SPARE, costs
from longalign.experiments.paper_plan import FITTED, LONG, SHORT
from longalign.experiments.profiles import load_profile
from longalign.report.gpu_results import newest_pace, read_cards
from longalign.report.later import read_later
from longalign.report.page_blocks import PROFILE, measured, parameters, table
from longalign.report.verdicts import HIDDEN, counted

SESSIONS = (("00", "01", "02"), ("03", "03b"), ("04", "05", "06", "07"), ("08", "10", "18", "90"))
"""The notebooks of each session of the course, by number."""
PROJECT_SEEDS = 5
MIXTURES = {"longalign": "LongAlign's: one in ten is long", "llama3": "one in 900 is long"}
"""Of `benchmarks.sharing.ranks`, in words."""
WAYS = ("mixed", "all shared", "not shared")


def sessions(results: Path) -> str:
    """What a student's laptop needs for each session, as it was measured, and for five seeds of a project."""
    profile = load_profile(results.parent / "profiles" / f"{PROFILE}.yaml")
    measured = pd.read_csv(results / "durations.csv").query(f"profile == '{PROFILE}'")
    measured = measured.set_index(measured.notebook.map(paths.number))
    missing = [number for session in SESSIONS for number in session if number not in measured.index]
    project = measured.seconds[["01", "04"]].sum() + measured.seconds["05"] * PROJECT_SEEDS / profile.seeds
    rows = []
    for name, numbers in enumerate(SESSIONS, 1):
        of = measured.loc[[number for number in numbers if number in measured.index]]
        rows.append([f"session {name}", ", ".join(numbers), f"{of.seconds.sum() / 60:.1f}",
                     f"{of.peak_memory_mb.max() / 1024:.1f}"])  # fmt: skip
    rows.append([f"project: 05 with {PROJECT_SEEDS} seeds", "01, 04, 05", f"{project / 60:.0f} (estimated)",
                 f"{measured.peak_memory_mb[['01', '04', '05']].max() / 1024:.1f}"])  # fmt: skip
    note = f"\n\nNot measured yet, and not counted here: {', '.join(missing)}." if missing else ""
    return table(("", "notebooks", "minutes to train all anew", "memory, GB"), rows) + note


def captions(root: Path) -> dict[str, dict[str, str]]:
    """Title, notebook and caption of every figure by name, in the order of `docs/results/figures.yaml`."""
    return yaml.safe_load((root / "docs" / "results" / "figures.yaml").read_text(encoding="utf-8"))


def figures(results: Path) -> str:
    """Every figure with its caption and notebook, in the order of `docs/results/figures.yaml`."""
    return "\n\n".join(
        f"## {of['title']}\n\n![{of['title']}](../../figures/{name}.png)\n\n{of['caption']} "
        f"[`{of['notebook']}`](../../results/notebooks/{of['notebook']}.ipynb) shows where the numbers come from."
        for name, of in captions(results.parent).items()
    )


def later(results: Path) -> str:
    """The claims of later papers, a list for each paper: what we found, with what the paper compares, and what to keep
    in mind."""
    found = read_later(results)
    return "\n\n".join([
        f"{len(found)} claims of {found.arxiv.nunique()} papers: {counted(found.verdict)}.", _planned(found),
        *(f"## [{of.source.iloc[0].partition(',')[0]}](https://arxiv.org/abs/{arxiv})\n\n{_of_paper(of)}"
          for arxiv, of in found.groupby("arxiv", sort=False)),
    ])  # fmt: skip


def _of_paper(found: pd.DataFrame) -> str:
    return "\n".join(_of_claim(line) for _, line in found.iterrows())


def _of_claim(line: pd.Series) -> str:
    sizes = [f"{name} {value:.2g}" for name, value in (("planned", line.would_see), ("seen", line.detectable),
                                                       ("margin", line.margin)) if pd.notna(value)]  # fmt: skip
    told = {
        "the paper": f"{line.source.partition(', ')[2]}; we read: {line.read}",
        "it compares with": _joined(line.baseline, line.paper),
        "sizes": ", ".join(sizes),
        "keep in mind": line.note if line.verdict == HIDDEN else line.caveat,
        "we cannot show": line.cannot_show,
    }
    parts = [f"  - {name}: {text}" for name, text in told.items() if isinstance(text, str) and text]
    here = f": {measured(line)}" if pd.notna(line.estimate) else ""
    return "\n".join([f"- **{line.statement}** *{line.verdict}*{here}", *parts])


def _joined(*parts: Any) -> str:
    return "; ".join(part for part in parts if isinstance(part, str))


def _planned(found: pd.DataFrame) -> str:
    """How many claims could come out against their papers, as planned, and by the chance that is in their scores."""
    told = (f"When we planned the runs, {found.can_fail.sum()} of these claims could come out against their paper: if "
            'there is no such effect (for "not lower" and "not worse": if the harm is twice the margin), 80 % of such '
            "runs say so.")  # fmt: skip
    read = found.verdict != HIDDEN
    if hidden := (found.can_fail & ~read).sum():
        told += (f" Then the scores came. Those of {hidden} of these claims show that nothing could have come out "
                 "against the paper, or that there is nothing to restore: they *cannot be shown here*.")  # fmt: skip
    blunt = found[read & (found.could_fail == "False")]
    if not len(blunt):
        return told
    names = "\n".join(f"- {line.statement} ({line.source}; {line.verdict})" for line in blunt.itertuples())
    return (f"{told} By the chance that is in the scores, *seen* is above the margin for {len(blunt)} of the others: "
            f"fewer than 80 % of such runs would come out against the paper.\n\n{names}")  # fmt: skip


def paper_costs(results: Path) -> str:
    """What a packed training of the paper would take on each kind of GPU."""
    profile = load_profile(results.parent / "profiles" / "paper.yaml")
    share, found = costs(profile)
    number, rows = profile.engine.world_size, []
    for cost in found:
        fits = f"yes, {cost.memory:.0f} GB of each" if cost.shared else f"no, {cost.memory:.0f} GB of each are needed"
        if (cost.shared or 1) > 1:
            fits += f", if {cost.shared} of them share each pack"
        first, last = cost.hours
        hours = [f"{times * first:.0f} to {times * last:.0f}" if cost.shared else "" for times in (1, number)]
        rows.append([cost.device.name, f"{cost.device.tflops:.0f}", cost.model, fits, *hours])
    sheets = ", ".join(f"[{device.name}]({device.source})" for device in DEVICES)
    nodes = sorted({cost.node for cost in found})
    return "\n\n".join([
        f"**Predicted, not measured on a GPU.** One training is {profile.training.epochs} epochs of {LONG:,} long and "
        f"{SHORT:,} short instructions, in packs of {profile.training.capacity:,} tokens.",
        table(["GPU", "peak, TFLOP/s in bf16", "model", f"fits on {number}?", f"hours on {number}", "GPU hours"], rows),
        f"The hours are a range. Its lower end takes {100 * share:.0f} % of the peak: at this share, one training of "
        f"the paper ({' by '.join(FITTED)}, on A800) comes out at the paper's hours. Its upper end takes "
        f"{100 * CAREFUL:.0f} % of the peak. \"Fits\" leaves {100 * (1 - SPARE):.0f} % of the memory for buffers. The "
        f"machine also needs {nodes[0]:.0f} to {nodes[-1]:.0f} GB of its own memory, because the profile moves weights "
        f"and optimizer there. Peak and memory are those of NVIDIA's data sheets: {sheets}.",
    ])  # fmt: skip


def sharing(results: Path) -> str:
    """Seconds of a step on two real ranks in three ways, with what was predicted; or that nothing was measured."""
    if not (results / "sharing" / "ranks.csv").is_file():
        return (
            "Not measured yet. `python -m benchmarks.sharing.ranks OUT` measures it in about 20 minutes on two quiet "
            "cores."
        )
    made, rows = json.loads((results / "sharing" / "ranks.json").read_text(encoding="utf-8")), []
    found = pd.read_csv(results / "sharing" / "ranks.csv").set_index(["mixture", "way"], drop=False)
    for line in found.loc[list(itertools.product(MIXTURES, WAYS))].itertuples():
        over = f"{line.over_mixed:.3f} ({line.over_mixed_lowest:.3f} to {line.over_mixed_highest:.3f})"
        error = "fitted" if line.way == "not shared" else f"{100 * line.error:+.0f} %"
        rows.append([
            MIXTURES[line.mixture], line.way, f"{line.seconds:.2f} ({line.lowest:.2f} to {line.highest:.2f})",
            "" if line.way == "mixed" else over, f"{line.predicted:.2f}", error, f"{100 * line.sending:.0f} %",
        ])  # fmt: skip
    head = ("sequences", "way", "seconds of a step", "times mixed", "predicted", "error", "sending, predicted")
    rare, often = (found.loc[(mixture, "all shared")].over_mixed for mixture in ("llama3", "longalign"))
    return "\n\n".join([
        f"Where one sequence in 900 is long, a step in which ranks share every pack took {rare:.2f} times as long as "
        f"one in which they share the long sequences only. With LongAlign's lengths it took {often:.2f} times as long.",
        table(head, rows),
        f"Two processes of one thread ({made['hardware']['processor']}, torch {made['versions']['torch']}), ZeRO-2, "
        f"contexts of {made['context']:,} tokens, {made['capacity']:,} tokens a rank, steps of {made['step_tokens']:,} "
        f"tokens. The three ways took turns, {made['rounds']} times, and each time they trained the same sequences. "
        "Seconds are medians, with the lowest and the highest. \"Times mixed\" divides the seconds of a way by those "
        "of mixed in the same turn: above 1, mixed takes less time. \"Not shared\" takes packs of the whole context on "
        "each rank, which is more than a rank may hold here.",
        "The prediction is that of `--propose`. Its FLOP/s are fitted to \"not shared\", and its bytes/s "
        f"({made['sent'] / 1e9:.1f} GB/s) are measured apart. Nothing is fitted to the two other ways. In the longest "
        f"sequence, attention has {100 * made['attention']:.0f} % of the FLOPs, as in Llama-2-7B at 64k.",
    ])  # fmt: skip


def rates(results: Path) -> str:
    """The card whose rates a proposal takes unless another one is named."""
    pace = newest_pace(read_cards(results / "gpu"))
    if pace is None:
        return "This has not run on a GPU yet. So without `--card` the table is from FLOPs."
    return f"Without `--card`, a clone of the repository takes the rates of {pace.card}."


def cards(results: Path) -> str:
    """The committed bases, the corpus and the benchmarks in numbers."""
    profile = load_profile(results.parent / "profiles" / f"{PROFILE}.yaml")
    bases = []
    for name in profile.models:
        folder = results / "bases" / name
        config, record = (json.loads((folder / f"{file}.json").read_text()) for file in ("config", "record"))
        heads = f"{config['num_attention_heads']} ({config['num_key_value_heads']})"
        bases.append([f"`{name}`", f"{parameters(folder / 'model.safetensors') / 1e6:.2f} million",
                      config["num_hidden_layers"], config["hidden_size"], heads, f"{config['vocab_size']:,}",
                      config["max_position_embeddings"], f"{record['tokens'] / 1e6:.1f} million"])  # fmt: skip
    corpus, tests = profile.corpus, profile.evaluation
    head = ("base", "parameters", "layers", "hidden size", "heads (of keys)", "vocabulary", "longest text, tokens",
            "trained on, tokens")  # fmt: skip
    items = len(tests.tasks) * len(tests.lengths) * tests.per_cell
    needles = len(tests.needle_lengths) * tests.needle_depths * tests.needle_per_cell
    return "\n\n".join([
        table(head, bases),
        table(("data and tests (`make reproduce`)", "how many", "longest, tokens"), [
            ["long instructions", f"{corpus.long:,}", f"{corpus.max_length:,}"],
            ["short instructions", f"{corpus.short:,}", f"{corpus.max_short:,}"],
            ["our counterpart of LongAlpaca", f"{corpus.longalpaca_long:,} long, {corpus.longalpaca_short:,} short",
             f"{corpus.max_length:,}"],
            [f"primary test: {len(tests.tasks)} tasks at {len(tests.lengths)} lengths", f"{items:,} questions",
             f"{max(tests.lengths):,}"],
            ["LongBench-Chat's counterpart", f"{tests.chat_questions:,} questions", f"{corpus.max_length:,}"],
            [f"needle test: {len(tests.needle_lengths)} lengths, {tests.needle_depths} depths",
             f"{needles:,} questions", f"{max(tests.needle_lengths):,}"],
        ]),
    ])  # fmt: skip
