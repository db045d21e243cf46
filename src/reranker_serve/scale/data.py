"""A data set scored on many machines: Ray Data moves it and starts replicas, and rows are read and scored as by
`reranker-serve score`.

    import ray
    from reranker_serve.environment import load_settings
    from reranker_serve.scale.data import scored

    pairs = ray.data.read_parquet("s3://bucket/pairs/")
    scored(pairs, load_settings()[0], concurrency=4, num_gpus=1).write_parquet("s3://bucket/scores/")
"""

from __future__ import annotations

from typing import Any

from reranker_serve.api.options import Options
from reranker_serve.errors import StartupError
from reranker_serve.service import Reranker
from reranker_serve.settings import Settings
from reranker_serve.telemetry.metrics import Metrics
from reranker_serve.tools.in_process import every_pair, load_in_process
from reranker_serve.tools.score.pipeline import RowScorer, unlimited
from reranker_serve.tools.score.tables import rows_of, score_columns, with_scores

_LEAVE_OUT = ("min_score", "min_probability", "deadline_ms", "timeout_ms")


def scored(dataset: Any, settings: Settings, *, score: str = "score", batch_size: int = 256, **more: Any) -> Any:
    """The `ray.data.Dataset` with columns of scores; the same columns are read as `reranker-serve score` reads.

    Of `more`, options of the API (`raw_scores=True`) go to the model, and all else (`concurrency`, `num_gpus`,
    `num_cpus`) to Ray's `map_batches`. Raises `StartupError` for options that leave rows without scores.
    """
    leaving_out = next((name for name in _LEAVE_OUT if name in more), None)
    if leaving_out is not None:
        raise StartupError(f"{leaving_out} is no option of a data set: every pair gets its score")
    options = {name: more.pop(name) for name in list(more) if name in Options.model_fields}
    given = {"settings": settings, "options": options, "score": score}
    return dataset.map_batches(
        Scores, fn_constructor_kwargs=given, batch_format="pyarrow", batch_size=batch_size, **more
    )


class Scores:
    """A replica of the model, for Ray Data to call with several Arrow tables at a time."""

    def __init__(self, settings: Settings, options: dict[str, Any], score: str) -> None:
        reranker = Reranker(load_in_process(settings), every_pair(unlimited(settings)), Metrics())
        self._scorer = RowScorer(reranker, Options.model_validate(options))
        self._score = score

    async def __call__(self, table: Any) -> Any:
        """The table and its scores; `score_error` tells of a row why it has none."""
        rows = rows_of(table, self._score)
        outcomes = await self._scorer.score(rows)
        return with_scores(table, rows, outcomes, score_columns(table.schema, self._score))
