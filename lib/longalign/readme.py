"""The README's results are written from the committed tables, never typed: blocks between two marks are replaced.

The price: prose around the block must stay true whatever the numbers are.
"""

import json
from pathlib import Path

import pandas as pd

from longalign import paths
from longalign.figures.speed import headlines, not_compared, notable, read_benchmarks
from longalign.gpu_results import FIGURE_5, Card, exactness, figure_5, read_cards
from longalign.record import write_text
from longalign.verdicts import VERDICTS

BEGIN, END = "<!-- results:begin (written by `make reference`) -->", "<!-- results:end -->"
SPEED_BEGIN, SPEED_END = "<!-- speed:begin (written by `make bench`) -->", "<!-- speed:end -->"
GPU_BEGIN, GPU_END = "<!-- gpu:begin (written by `python -m longalign.readme`) -->", "<!-- gpu:end -->"
HOW = (
    "`make gpu` (that is `python -m benchmarks.gpu --minutes 6 --out FOLDER`) measures exactness, kernels, Figure 5, "
    "training and learning in six minutes, from a checkout with torch, transformers and numpy. Send its `gpu.csv` and "
    "`gpu.jsonl`: a card of yours goes to `results/gpu/`, and `22_gpu` draws it."
)
FRONT = (
    "table-2-chat-10k-over-0k", "table-2-chat-5k-over-0k", "table-2-chat-first-half", "table-2-test-10k-over-0k",
    "table-2-chat-over-longalpaca", "table-2-multi-turn-unharmed", "table-3-weighting-over-packing-6b",
    "table-3-weighting-over-packing-7b", "figure-5-packing-speed-6b", "figure-5-sorted-speed-6b",
    "table-4-weighting-13b-over-7b", "figure-4-needle-10k-over-0k",
)  # fmt: skip
"""The claims that stand on the front page; the report has all of them."""


def block(results: Path) -> str:
    """Markdown of the front page: the doses' figure, chosen claims with interval and verdict, the count of verdicts.

    Raises FileNotFoundError when a table is missing, KeyError when a claim of `FRONT` is.
    """
    claims = pd.read_csv(results / "claims.csv").set_index("id", drop=False)
    entry = json.loads((results / "05_data_scale.json").read_text(encoding="utf-8"))
    lines = ["| claim of the paper | paper | here | 95 % interval | verdict |", "|---|---|---|---|---|"]
    for claim in (claims.loc[name] for name in FRONT):
        low, high = (f"{value:.3g}" if pd.notna(value) else "" for value in (claim.low, claim.high))
        here = f"{claim.estimate:.3g}" if pd.notna(claim.estimate) else ""
        paper = claim.paper if pd.notna(claim.paper) else ""
        said = claim.verdict + (" (provisional)" if str(claim.provisional) == "True" else "")
        cells = (claim.statement, paper, here, f"{low} to {high}" if low else "", said)
        lines.append(f"| {' | '.join(cells)} |")
    counts = claims.groupby("source", sort=False).verdict.value_counts().unstack(fill_value=0)
    counts = counts[[verdict for verdict in VERDICTS if verdict in counts]]
    verdicts = [f"| source | {' | '.join(counts)} |", f"|---|{'---|' * counts.shape[1]}"]
    verdicts += [f"| {source} | {' | '.join(map(str, row))} |" for source, row in counts.iterrows()]
    provisional = int((claims.provisional.astype(str) == "True").sum())
    return "\n\n".join([
        "![scores against the number of long instructions](figures/data_scale.png)",
        "`here` is the difference between the arms that the claim compares (a ratio for speed): points from 1 to 10 "
        "for LongBench-Chat in miniature, shares of questions otherwise, over seeds. The verdict takes the number of "
        "claims of the same table into account (Holm): it may be *consistent* where the interval leaves out zero. The "
        "arms are batched by length where the amount of data is compared; the paper's by packing with loss weighting.",
        "\n".join(lines),
        "All claims, by table or figure of the paper:",
        "\n".join(verdicts),
        f"{provisional} of these verdicts rest on fewer than five seeds and are provisional. "
        f"Profile `{entry['config']['name']}`, {entry['hardware']['cores']} cores ({entry['hardware']['processor']}), "
        f"torch {entry['versions']['torch']}. [The report](results/report.html) has the rules, intervals and tables.",
    ])  # fmt: skip


def speed_block(results: Path) -> str:
    """Markdown of every comparison with another's code, the machine and the versions. Errors as `block`."""
    made = json.loads((results / "benchmarks.json").read_text(encoding="utf-8"))
    lines = ["| | case | beside | times as fast (or as small) | lowest to highest |", "|---|---|---|---|---|"]
    rows = read_benchmarks(results)
    for line in notable(headlines(rows)).itertuples():
        what = f"{line.target}, {line.metric}" if line.metric not in ("time", "speed") else line.target
        ends = f"{line.lowest:.3g} to {line.highest:.3g}" if line.n > 1 else "once"
        lines.append(f"| {what} | {line.case} | {line.peer} | {line.ratio:.3g} | {ends} |")
    told = ((one["hardware"]["processor"], one["versions"]) for one in made.values())
    machines = dict.fromkeys(f"{name}, torch {of['torch']}, transformers {of['transformers']}" for name, of in told)
    absent = [f"{line.target}, {line.case}, {line.system} ({line.note})" for line in not_compared(rows).itertuples()]
    return "\n".join(lines) + (
        f"\n\n{'; '.join(machines)} (peers have "
        "versions of their own, in `results/benchmarks.json`). Of planning, smaller sizes stand here where a peer is "
        f"ahead; `results/benchmarks.csv` has every number. Not compared: {'; '.join(absent) or 'nothing'}."
    )


def gpu_block(results: Path) -> str:
    """Markdown on GPUs: what each card showed, or that nothing has run on one; and how to run the program.

    Raises ValueError when committed files do not belong together.
    """
    cards = read_cards(results / "gpu")
    if not cards:
        return (
            "Nothing here has run on a GPU yet: the CUDA paths (flash-attn, torch's `varlen_attn`) are written and "
            f"have tests that wait for one. {HOW}"
        )
    return "\n\n".join([*map(_of_card, cards), f"Nothing here has run on several GPUs yet. {HOW}"])


def _of_card(card: Card) -> str:
    found, told = exactness(card), [f"On {card.name} ({card.date}, torch {card.torch}):"]
    checks = found[~found.control]
    if len(checks):
        good = int((checks.status == "ok").sum())
        told.append(
            f"{good} of {len(checks)} distances of packs and losses from an oracle of higher precision are within what "
            "is allowed, twice that of separate sequences or of the plain loss "
            f"(the largest is {checks.share.max():.2f} of it)."
        )
    speed = figure_5(card)
    speed = speed[speed.index.get_level_values("case") == FIGURE_5].droplevel("case")
    times = [f"{name} {line.kernels:.1f} (the paper: {line.paper:.1f})" for name, line in speed.iterrows()
             if pd.notna(line.paper)]  # fmt: skip
    if times:
        told.append(
            f"How many times as fast as naive batching, with layers of Llama-2-7B's shape and 8 ranks put together "
            f"from one card: {', '.join(times)}."
        )
    failed = len(card.failed)
    reasons = ", with reasons in `22_gpu`" if failed else ""
    told.append(f"{failed or 'No'} row{'' if failed == 1 else 's'} failed{reasons}.")
    return " ".join(told)


def update(readme: Path, results: Path) -> None:
    """Replace the blocks of `readme`. Raises ValueError when their marks are not there, once each and in order."""
    text = readme.read_text(encoding="utf-8")
    blocks = ((BEGIN, END, block), (SPEED_BEGIN, SPEED_END, speed_block), (GPU_BEGIN, GPU_END, gpu_block))
    for begin, end, content in blocks:
        text = _replaced(text, begin, end, content(results), readme.name)
    write_text(readme, text)


def _replaced(text: str, begin: str, end: str, content: str, name: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{name} must hold the lines {begin!r} and {end!r}, once each and in this order")
    head, tail = text.split(begin)[0], text.split(end)[1]
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"


def main() -> None:
    """Write the committed results into the README."""
    update(paths.root() / "README.md", paths.results())


if __name__ == "__main__":
    main()
