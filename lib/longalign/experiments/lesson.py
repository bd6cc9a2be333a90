"""What a notebook tells the person who steps through it: whose numbers it shows, and how near a prediction was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from longalign.common import paths, provenance
from longalign.experiments.profiles import Profile, load_profile

CLOSE = 0.1
"""A prediction that is off by at most this share of the number is called close."""


def begin(profile: str) -> Profile:
    """The settings of a notebook that computes all of its numbers itself; says so where they mean nothing."""
    settings = load_profile(profile)
    if warning := _warn(settings):
        display(Markdown(f"> **{warning}.**"))
    return settings


def banner(settings: Profile) -> Markdown:
    """Whose numbers a run shows, as Markdown: commit, profile and machine."""
    machine, git, warning = provenance.hardware(), provenance.git_state(), _warn(settings)
    commit = f"commit {git['commit'][:7]}{' with changes' if git['dirty'] else ''}" if git["commit"] else "no commit"
    return Markdown(
        f"> {f'**{warning}.** ' if warning else ''}Computed here: {commit}, profile {settings.name}, "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB."
    )


def _warn(settings: Profile) -> str:
    """The warning of a profile, which stands from here on above every table, too."""
    mark_tables(warning := paths.warning(paths.run_dir(settings.name)))
    return warning


def log(profile: str, name: str) -> Path:
    """The file that takes what the jobs of a notebook would print, and the page does not show."""
    return paths.run_dir(profile) / "logs" / f"{name}.jobs.log"


@contextmanager
def quietly(profile: str, name: str) -> Iterator[None]:
    """What is printed inside goes to the end of the notebook's `log`, whose name is printed in its place."""
    (path := log(profile, name)).parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file):
        yield
    print(f"log: {paths.relative(path)}")


def mark_tables(warning: str) -> None:
    """Put `warning` above every table that a cell of this notebook shows from now on; nothing where it is empty."""
    shell = get_ipython()
    if shell is None:
        return
    html, plain = (shell.display_formatter.formatters[kind] for kind in ("text/html", "text/plain"))
    for kind in (pd.DataFrame, pd.Series, Styler):
        html.pop(kind, None)
        plain.pop(kind, None)
        if warning and hasattr(kind, "_repr_html_"):
            html.for_type(kind, lambda table: f"<p><strong>{warning}</strong></p>{table._repr_html_()}")
        if warning:
            plain.for_type(kind, _plain(warning))


def compare(prediction: float | None, found: float, what: str) -> None:
    """Print what was found beside the reader's prediction; `what` names the number and its unit.

    >>> compare(None, 0.25, "the share of b")
    the share of b: 0.25 (you wrote down no prediction)
    >>> compare(0.26, 0.25, "the share of b")
    the share of b: 0.25. You said 0.26: close.
    >>> compare(2, 4.0, "the packs")
    the packs: 4. You said 2: too low by 2. Find out why before you read on.
    """
    told = f"{what}: {found:.4g}"
    if prediction is None:
        print(f"{told} (you wrote down no prediction)")
    elif isinstance(prediction, bool) or not isinstance(prediction, Real) or not math.isfinite(prediction):
        print(f"{told}. Your prediction is {prediction!r}; write a number, such as {found:.1g}, or None.")
    elif abs(prediction - found) <= CLOSE * abs(found):
        print(f"{told}. You said {prediction:g}: close.")
    else:
        side = "high" if prediction > found else "low"
        print(f"{told}. You said {prediction:g}: too {side} by {abs(prediction - found):.3g}. "
              "Find out why before you read on.")  # fmt: skip


def _plain(warning: str) -> Callable[[Any, Any, bool], None]:
    return lambda table, printer, _: printer.text(f"{warning}\n{table!r}")
