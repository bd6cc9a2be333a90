"""The teacher's page: sessions of 90 minutes, and a project whose claim is read and judged as the page says."""

import re

import pytest

from longalign.common import paths
from longalign.report.verdicts import DECIDED, INCONCLUSIVE

PAGE = (paths.root() / "docs" / "learn" / "teaching.md").read_text(encoding="utf-8")


def block(language):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.S | re.M)
    return text


@pytest.mark.parametrize("number", range(1, 5))
def test_a_session_is_planned_to_ninety_minutes_and_ends_with_questions(number):
    session = re.split(r"^## ", PAGE, flags=re.M)[number + 1]
    assert session.startswith(f"Session {number}: ")
    assert sum(map(int, re.findall(r"^\| (\d+) \|", session, flags=re.M))) == 90
    assert len(re.findall(r"^- \*.*\?\*", session, flags=re.M)) >= 2


def test_the_projects_claim_is_judged_by_the_lines_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "run_dir", lambda profile: paths.results() if profile == "mine" else None)
    (tmp_path / "my_claims.yaml").write_text(block("yaml"), encoding="utf-8")
    exec(compile(block("python"), "teaching.md", "exec"), {})
    assert capsys.readouterr().out.startswith((*DECIDED, INCONCLUSIVE))
