"""Models that refuse a parameter which others want: asked as they want it, or ended in one sentence."""

import pytest

from asking import ask_all
from fault_server import serving
from longalign.clients.errors import Stopped

NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def test_a_model_that_wants_the_limit_by_its_newer_name_is_asked_so_from_then_on(tmp_path):
    questions = [f"word {i} w{i}" for i in range(20)]
    with serving() as server:
        server.unsupported = {"max_tokens": NEWER}
        found, ask = ask_all(server, tmp_path / "a.jsonl", questions, at_once=2)
        assert found == [f"w{i}" for i in range(20)] and ask.retries == 0
        assert server.paid == dict.fromkeys(questions, 1)
        assert sum(server.attempts.values()) <= 22, "told once to each of two threads at most"


@pytest.mark.parametrize("names", [("temperature",), ("max_tokens", "max_completion_tokens")])
def test_a_parameter_that_no_request_can_leave_out_ends_all_of_them_at_once(names, tmp_path):
    with serving() as server:
        server.unsupported = dict.fromkeys(names, f"{' and '.join(names)}: Use 'max_completion_tokens' instead.")
        found, _ = ask_all(server, tmp_path / "a.jsonl", [f"q {i}" for i in range(50)], at_once=2)
        assert all(isinstance(error, Stopped) and str(error).endswith("name another model") for error in found)
        assert sum(server.attempts.values()) <= 8
