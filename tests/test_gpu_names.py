"""What the page, the README and the claims look for is what the GPU program writes, by its own constants."""

import pytest
import torch
from benchmarks.gpu import exact, figure5, learning, ranks, rows
from benchmarks.gpu.rows import Context

from longalign.report import gpu_results
from longalign.report.claim_schema import GPU, load_ledger


@pytest.fixture
def full(tmp_path):
    return Context(torch.device("cuda"), False, tmp_path)


@pytest.fixture
def stated():
    return [claim for claim in load_ledger() if claim.scale == GPU]


def test_files_columns_and_what_is_allowed_are_those_of_the_program():
    assert (gpu_results.TABLE, gpu_results.RECORDS) == (rows.TABLE, rows.RECORDS)
    assert gpu_results.COLUMNS == rows.COLUMNS and gpu_results.ALLOWED == exact.LARGEST


def test_the_case_of_figure_5_and_of_its_claims_is_that_of_the_stage(full, stated):
    case = f"{figure5.sizes(full).sequences:,} sequences, 8 ranks, {ranks.BARRIERS['micro_step']}"
    assert case == gpu_results.FIGURE_5
    of_stage = [claim for claim in stated if claim.results == figure5.NAME]
    assert [claim.model for claim in of_stage] == [case] * 2 and {claim.metric for claim in of_stage} == {"time"}


def test_the_arms_of_the_claim_on_64k_are_those_of_the_stage(full, stated):
    (claim,) = [claim for claim in stated if claim.results == learning.NAME]
    largest = learning.sizes(full)[-1]
    assert claim.metric == f"{gpu_results.EXACT_MATCH} at {largest.longest:,}" and largest.longest == 65_536
    runs = [claim.run(arm) for arm in claim.arms]
    assert runs == [(f"{largest.name}, {arm}", learning.MODEL) for arm in ("all", "none")]
    assert learning.MODEL in claim.statement
