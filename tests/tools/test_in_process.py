from __future__ import annotations

from reranker_serve.backends.fake import fake_scorer
from reranker_serve.tools.in_process import in_order, run_in_process
from reranker_serve.types import RerankRequest
from tests.conftest import fake_settings


def test_what_is_measured_is_not_left_out_by_the_servers_threshold() -> None:
    request = RerankRequest("blue whale", ("a fox", "the blue whale"))
    settings = fake_settings(min_score="1", calibration="not/read.json", min_probability="1")
    scores = run_in_process(fake_scorer(), settings, lambda ask: in_order(ask(request)))
    assert len(scores) == 2
