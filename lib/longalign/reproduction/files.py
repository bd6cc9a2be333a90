"""Whether the files of a run are those that its notebooks wrote: what was changed or cut short is written again."""

from __future__ import annotations

from collections.abc import Sequence

from longalign.common import checksums, paths
from longalign.reproduction import outcomes


def damaged(profile: str, notebooks: Sequence[str]) -> dict[str, list[str]]:
    """For each of the notebooks (stems) the files of its last execution that are gone or not as it wrote them.

    A file that two of them wrote belongs to the one that came later.
    """
    found = sorted((o for name in notebooks if (o := outcomes.read(profile, name))), key=lambda o: o.began)
    owner = {file: one.notebook for one in found for file in one.files}
    wrong: dict[str, list[str]] = {}
    for one in found:
        for file, value in one.files.items():
            if owner[file] == one.notebook and not checksums.is_intact(paths.run_dir(profile), {file: value}):
                wrong.setdefault(one.notebook, []).append(file)
    return wrong


def execute_again(profile: str, notebook: str, wrong: Sequence[str]) -> None:
    """Make `make` execute a notebook again, and write the files `wrong`: what is there would be taken as it is."""
    for file in (*wrong, f"notebooks/{notebook}.ipynb"):  # without its executed copy it is out of date
        (paths.run_dir(profile) / file).unlink(missing_ok=True)
