"""Pilots: small trainings that choose the bases' shapes and rates, and the data of the experiments, by written rules.

Pilots have seeds 100 and 101, which no result has, and they judge by losses and means over all arms, never by a claim
of the paper. Each writes a table in results/pilots/; `choice` reads the tables and applies the rules, so that whoever
repeats the pilots repeats the choice. The rules were committed before the runs that they judge.

    make pilots                                  1 to 4, what is not there yet
    make pilots PILOTS="speed shapes" JOBS=1     some of them

1. `speed`: processor time of a training step, for each candidate shape.
2. `shapes`: held-out loss of mini-7b with each candidate's attention.
3. `rates`: held-out loss of each size over learning rates.
4. `bases`: not a pilot; trains the bases that the choices describe, into results/bases/next, and asks whether the
   first of each size has learnt to recall. If it has not, the command says so, and 3 and 4 are to be called again.
5. `data`: two epochs over more samples against three over fewer. It starts from the bases in results/bases, so that it
   waits until those of 4 lie there, and is asked for by name.
6. `power`: not a training; how small an effect of loss weighting a number of seeds and chat questions shows, from the
   scores that were committed before. It chose 32 seeds and 200 questions for Table 3's packed arms.
7. `questions`: not a training; whether every seed should answer questions of its own (it should not).
8. `memory`, `preference` and `constant`: before `make referee` (`benchmarks.pilots.referee`), from the bases in
   results/bases, and asked for by name: whether a base learns the known facts, and the learning rates of preference
   training and of trainings whose rate does not fall.

All of it can be stopped at any time, and goes on from the last checkpoint of the same code; what a table holds, and
bases that are whole, are never trained again. `--jobs 2` trains two at a time; `make pilots` takes JOBS of them.

What was chosen stands in `longalign.miniature.pretraining.RECIPES`, `longalign.train.models.MINIATURES` and
profiles/laptop.yaml. `bases` trains the bases of a new choice into results/bases/next; those in results/bases
stay.
"""

from pathlib import Path

from longalign.common import paths

SEEDS = (100, 101)
STAGES = ("speed", "shapes", "rates", "bases")


def table(name: str) -> Path:
    """The committed table of a pilot."""
    return paths.results() / "pilots" / f"{name}.csv"
