"""What commands write into pages: each block is Markdown that is made from committed tables, and never typed.

Each function takes the folder of results and raises FileNotFoundError when a table is missing, KeyError when a row is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import yaml

from longalign.experiments.profiles import load_profile
from longalign.report.claim_schema import WITHIN_MARGIN
from longalign.report.default_run import words
from longalign.report.figures.speed import headlines, not_compared, notable, read_benchmarks
from longalign.report.first_verdicts import before_and_after
from longalign.report.gpu_results import FIGURE_5, Card, exactness, figure_5, read_cards
from longalign.report.verdicts import (
    ALPHA,
    CONTRADICTED,
    HIDDEN,
    INCONCLUSIVE,
    REPRODUCED,
    UNMEASURED,
    counted,
)

PROFILE = "laptop"
ALONE = "08_training_time"
"""The notebook that measures times, and so runs with no other beside it."""
HOW = (
    "`make gpu` (that is `python -m benchmarks.gpu --minutes 6 --out FOLDER`) measures exactness, kernels, Figure 5, "
    "training, learning and sharing in six minutes. It needs this repository, torch, transformers and numpy. Send us "
    "its `gpu.csv` and `gpu.jsonl`: the numbers of your card go to `results/gpu/`, and `22_gpu` shows them."
)
SPEED_ROWS = (
    ("planning", "time", "10k", "axolotl 0.19.0: groups of 100,000"),
    ("planning", "time", "1M", "axolotl 0.19.0: groups of 100,000"),
    ("attention", "time", "8,192 in 1,024s", "sdpa, dense mask"),
    ("loss", "memory", "16,384 tokens", "plain"),
    ("training", "speed", "packs of 8,192, all tokens", "trl 1.16.0"),
    ("training", "speed", "packs of 8,192, answers", "llamafactory 0.9.5"),
    ("decoding", "time", "long", "transformers, padded batches of 16"),
)
"""The comparisons on the front page: target, metric, case, the other's code. The page of benchmarks has all of them."""
COMPARED = ("", "case", "compared with", "times as fast (memory: times as small)", "lowest to highest")
"""The columns of a table of comparisons."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown.

    >>> print(table(["sequence", "tokens"], [["a", 2], ["b", 4], ["c", 3]]))
    | sequence | tokens |
    |---|---|
    | a | 2 |
    | b | 4 |
    | c | 3 |
    """
    lines = [head, *rows]
    told = [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]
    return "\n".join([told[0], "|" + "---|" * len(head), *told[1:]])


def scale(results: Path) -> str:
    """What a run of the laptop profile is beside the paper's: models, lengths, samples, time and memory."""
    profile = yaml.safe_load((results.parent / "profiles" / f"{PROFILE}.yaml").read_text(encoding="utf-8"))
    records = (results / f"{name}.json" for name in ("05_data_scale", "07_training_methods"))
    seeds, most = (len(json.loads(record.read_text(encoding="utf-8"))["seeds"]) for record in records)
    times = pd.read_csv(results / "durations.csv").query(f"profile == '{PROFILE}'")
    work = pd.read_csv(results / "work.csv").set_index("kind").loc["cores"]
    two = times[times.notebook != ALONE].peak_memory_mb.nlargest(2).sum()
    memory = max(two, times.peak_memory_mb.max())
    sizes = [parameters(results / "bases" / name / "model.safetensors") / 1e6 for name in profile["models"]]
    corpus, cards = profile["corpus"], read_cards(results / "gpu")
    ran = "`make gpu` ran on " + ", ".join(card.name for card in cards) if cards else "not tried yet"
    return table(["", "here (`make reproduce`)", "the paper"], [
        ["models", f"{', '.join(f'`{name}`' for name in profile['models'])}, of {min(sizes):.1f} to {max(sizes):.1f} "
         "million parameters, trained here", "ChatGLM3-6B, Llama-2-7B, Llama-2-13B"],
        ["longest sequence", f"{corpus['max_length']:,} tokens", "65,536 tokens (128k once)"],
        ["long instructions", f"{corpus['long']:,}, generated, with exact answers", "10,000, written by Claude 2.1"],
        ["hardware", f"a CPU with {times.cores.max()} cores, up to {memory / 1024:.1f} GB of memory, 2.4 GB of disk "
         f"for the packages; GPU: {ran}", "8 A800 GPUs of 80 GB"],
        ["time", f"{work.seconds / work.number / 60:.0f} minutes, two notebooks at once",
         "19 to 117 hours for each training"],
        ["seeds", f"{profile['seeds']}, or {profile['seeds_of_slow_arms']} for slow settings; in the committed numbers "
         f"below up to {seeds}, and {most} for loss weighting", "1"],
    ])  # fmt: skip


def parameters(weights: Path) -> int:
    """How many numbers a file of safetensors holds, by its header: its length in 8 bytes, then JSON."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def findings(results: Path) -> str:
    """A figure, the count of all verdicts, and a row for each table and figure of the paper.

    The row shows the first claim in the order of `claims.yaml` that was measured here.
    """
    written = yaml.safe_load((results.parent / "claims.yaml").read_text(encoding="utf-8"))["claims"]
    own = [claim["id"] for claim in written if not claim.get("restates")]
    claims = pd.read_csv(results / "claims.csv").set_index("id", drop=False).loc[[claim["id"] for claim in written]]
    entry = json.loads((results / "05_data_scale.json").read_text(encoding="utf-8"))
    default = words(results, load_profile(PROFILE))
    sources = sorted(set(claims.source), key=_order)
    read = set(claims.source[~claims.verdict.isin([HIDDEN, UNMEASURED])])
    rows = [_of_source(source, claims[claims.source == source]) for source in sources if source in read]
    rest = " and ".join(source for source in sources if source not in read)
    lacking = f"Of {rest}, no claim can be shown here, and they have no row. " if rest else ""
    return "\n\n".join([
        "![scores against the number of long instructions](figures/data_scale.png)\n"
        f"Of {len(own)} claims of the paper: {counted(claims.verdict[own])}. {len(written) - len(own)} more claims "
        "(headlines) say how large one of these differences is; they are not counted again. In the table, each table "
        "and figure of the paper has one row, with the first of its claims that we could measure. "
        f"{lacking}The third column is "
        'the difference that we measured, or a ratio ("times"), with the interval that decides: a 95 % interval, made '
        "wider because many claims are tested together. The last column counts the verdicts on all its claims. `make "
        "reproduce` trains fewer seeds than we did. It takes from [our "
        "tables](docs/project/verdicts.md#calibrated-noise) how much seeds differ. With our first seeds alone, "
        f"{default.same} of the {default.measured} claims that have numbers get the same verdict as with all our "
        f"seeds, and {default.opposite or 'none'} the opposite. We ran this on "
        f"{entry['hardware']['cores']} cores ({entry['hardware']['processor']}) with torch "
        f"{entry['versions']['torch']}.",
        table(["paper", "claim", "here (interval)", "verdict", "all its claims"], rows),
        later_papers(results),
    ])  # fmt: skip


ALIKE = ("In our miniatures, long questions are made in the same way as long instructions, so a contradiction says "
         "little about large models.")  # fmt: skip


def later_papers(results: Path) -> str:
    """How the claims of later papers came out: their number, and a row for each that was decided for or against."""
    found = pd.read_csv(results / "later_claims.csv", dtype={"arxiv": str})
    decided = pd.concat([found[found.verdict == REPRODUCED], found[found.verdict == CONTRADICTED]])
    rows = [[line.source, line.statement, measured(line), f"{line.verdict}{_within(line)}"]
            for _, line in decided.iterrows()]  # fmt: skip
    told = ("Later papers dispute this one, or use its ideas. "
            f"Of {len(found)} claims of {found.arxiv.nunique()} such papers: {counted(found.verdict)}. "
            "[Claims of later papers](docs/project/later.md) explains each.")  # fmt: skip
    if CONTRADICTED in set(found.verdict):
        told += f" {ALIKE}"
    if not rows:
        return told
    shown = table(["later paper", "claim", "here (interval)", "verdict"], rows)
    return f"{told} These are reproduced or contradicted:\n\n{shown}"


def _within(claim: pd.Series) -> str:
    """Where the numbers show an effect and exclude one as large as the margin, that it is smaller; where they show that
    there is no harm, how much of it they exclude."""
    if claim.verdict != REPRODUCED:
        return ""
    if claim.direction == "not_less":
        return f" (a loss of {claim.margin:g} is excluded)"
    return f", and less than {claim.margin:g}" if claim.p_against < ALPHA else ""


def _of_source(source: str, claims: pd.DataFrame) -> list[str]:
    claim = claims[~claims.verdict.isin([HIDDEN, UNMEASURED])].iloc[0]
    kind = "exclude more than" if claim.direction in WITHIN_MARGIN else "see"
    seen = f" (we would {kind} {claim.detectable:.2g})" if claim.verdict == INCONCLUSIVE else ""
    return [source, claim.statement, measured(claim), claim.verdict + seen, counted(claims.verdict)]


def _order(source: str) -> tuple[bool, str]:
    """Tables before figures."""
    return not source.startswith("Table"), source


def measured(claim: pd.Series) -> str:
    """The estimate with its unit and interval: a ratio and what the claim asks for, or a difference in points,
    questions or facts. The interval is the one that decides; without a verdict on the numbers, that of 95 %."""
    if pd.isna(claim.estimate):
        return ""
    low, high = (claim.deciding_low, claim.deciding_high) if pd.notna(claim.deciding_low) else (claim.low, claim.high)
    ends = f" ({low:.3g} to {high:.3g})" if pd.notna(low) else ""
    if claim.threshold >= 1:
        return f"{claim.estimate:.3g} times{ends}; the claim: more than {claim.threshold:g}"
    units = {"score": "points of 10", "time_to_90": "of the steps", "fact_match": "of the facts"}
    unit = units.get(claim.metric, "of the questions")
    equal = f"; equal: within {claim.margin:g}" if claim.get("direction") == "equal" else ""
    return f"{claim.estimate:+.3g} {unit}{ends}{equal}"


def verdicts(results: Path) -> str:
    """Every claim's verdict by the first rules and by today's, with the reason."""
    return table(["claim", "before", "after", "why"], before_and_after(results))


def models(results: Path) -> str:
    """How many architectures of transformers are exact, in a sentence."""
    found = pd.read_csv(results / "models.csv", keep_default_na=False)
    packed, padded = found.packed == "exact", found.padded == "exact"
    both, only_padded, neither = ((packed & padded).sum(), (padded & ~packed).sum(), (~padded & ~packed).sum())
    wrong = int((found[["packed", "padded", "lora", "generated", "decoded"]] == "wrong").any(axis=1).sum())
    return (
        f"`make models` builds small models of {len(found)} architectures of transformers and checks them. {both} are "
        f"exact in packs and in padded rows, and {only_padded} in padded rows only. {neither} are refused, with the "
        f"reason. {wrong or 'None'} {'give' if wrong > 1 else 'gives'} a wrong result without an error. "
        "[The table](results/models.md) names them all."
    )


def speed(results: Path) -> str:
    """The comparisons of `SPEED_ROWS` with another's code."""
    rows = headlines(read_benchmarks(results)).set_index(["target", "metric", "case", "peer"])
    found = []
    for key in SPEED_ROWS:
        line, (target, metric, case, peer) = rows.loc[key], key
        what = f"{target}, memory" if metric == "memory" else target
        ends = f"{line.lowest:.2g} to {line.highest:.2g}" if line.n > 1 else "measured once"
        found.append([what, case, peer, f"{line.ratio:.2g}", ends])
    return table(COMPARED, found)


def benchmarks(results: Path) -> str:
    """Every comparison with another's code, the machine and the versions."""
    made = json.loads((results / "benchmarks.json").read_text(encoding="utf-8"))
    rows, found = read_benchmarks(results), []
    for line in notable(headlines(rows)).itertuples():
        what = f"{line.target}, {line.metric}" if line.metric not in ("time", "speed") else line.target
        ends = f"{line.lowest:.3g} to {line.highest:.3g}" if line.n > 1 else "measured once"
        found.append([what, line.case, line.peer, f"{line.ratio:.3g}", ends])
    told = ((one["hardware"]["processor"], one["versions"]) for one in made.values())
    machines = dict.fromkeys(f"{name}, torch {of['torch']}, transformers {of['transformers']}" for name, of in told)
    absent = [f"{line.target}, {line.case}, {line.system} ({line.note})" for line in not_compared(rows).itertuples()]
    return table(COMPARED, found) + (
        f"\n\nMeasured on {'; '.join(machines)}. The other libraries have versions of their own, in "
        "`results/benchmarks.json`. For planning, the table has the largest size, and smaller sizes where another "
        f"library is better. `results/benchmarks.csv` has every number. Not compared: {'; '.join(absent) or 'nothing'}."
    )


def gpu(results: Path) -> str:
    """What each card showed, or that nothing has run on one; and how to run the program.

    Raises ValueError when committed files do not belong together.
    """
    cards = read_cards(results / "gpu")
    if not cards:
        return (
            "Nothing here has run on a GPU yet. The code for CUDA (flash-attn, torch's `varlen_attn`) is written, and "
            f"its tests wait for a GPU. {HOW}"
        )
    return "\n\n".join([*map(_of_card, cards), f"Nothing here has run on several GPUs yet. {HOW}"])


def _of_card(card: Card) -> str:
    found, told = exactness(card), [f"On {card.name} ({card.date}, torch {card.torch}):"]
    checks = found[~found.control]
    if len(checks):
        good = int((checks.status == "ok").sum())
        told.append(
            f"{good} of {len(checks)} distances are within the limit (the largest is {checks.share.max():.2f} of it). "
            "A distance says how far a pack or a loss is from an oracle, a slow computation of higher precision. The "
            "limit is twice the distance of separate sequences, or of the plain loss."
        )
    speed = figure_5(card)
    speed = speed[speed.index.get_level_values("case") == FIGURE_5].droplevel("case")
    times = [f"{name} {line.kernels:.1f} (the paper: {line.paper:.1f})" for name, line in speed.iterrows()
             if pd.notna(line.paper)]  # fmt: skip
    if times:
        told.append(
            f"Times as fast as naive batching, with layers of Llama-2-7B's shape: {', '.join(times)}. The times of 8 "
            "ranks are put together from measurements of one card."
        )
    failed = len(card.failed)
    reasons = ", with reasons in `22_gpu`" if failed else ""
    told.append(f"{failed or 'No'} row{'' if failed == 1 else 's'} failed{reasons}.")
    return " ".join(told)
