"""The picture of shared and local packs is drawn from plans by the cost model, the same bytes each time."""

from longalign.common import paths
from longalign.report.figures import mixed


def test_the_committed_picture_is_what_the_code_draws(tmp_path):
    assert mixed.main(tmp_path).read_bytes() == (paths.root() / "docs" / "static" / "mixed.png").read_bytes()
