"""Late interaction models: what is read of a text, how scores are shown, and folders that are refused."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from reranker_serve.app import create_app
from reranker_serve.engine.outputs import zeros
from reranker_serve.errors import ModelError, SettingsError
from reranker_serve.families.late_interaction import max_sim
from reranker_serve.types import Cut, Encoded, FloatArray, Scorer
from tests.checkpoints import load_scorer
from tests.conftest import fake_settings
from tests.families.test_cross_encoder_parity import LONG, text
from tests.families.test_late_interaction_parity import (
    DOCUMENTS,
    FIXED,
    MARKED,
    PYLATE,
    QUERY,
    max_sims,
    module,
    reference,
    save_multi_vector,
    save_pylate,
    save_stanford,
    write,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_multi_vector(
        tmp_path_factory.mktemp("late"),
        expansion=FIXED,
        prompts=MARKED,
        document_length=40,
        changes={"num_hidden_layers": 1},
    )


def encode(scorer: Scorer, query: str, documents: Sequence[str], max_length: int | None = None, **cut: Any) -> Encoded:
    longest = max_length or scorer.family.max_length_bounds[1]
    return scorer.family.encode(query, documents, max_length=longest, instruction=None, cut=Cut(**cut))


def naive(query: FloatArray, document: FloatArray) -> float:
    return float(sum(max(float(np.dot(left, right)) for right in document) for left in query))


def test_max_sim_is_the_sum_of_the_largest_products() -> None:
    random = np.random.default_rng(0)
    query = random.standard_normal((7, 4), dtype=np.float32)
    documents = [random.standard_normal((length, 4), dtype=np.float32) for length in (3, 1, 12_000, 9_000, 20_000, 5)]
    expected = [naive(query, document) for document in documents]
    np.testing.assert_allclose(max_sim(query, documents), expected, atol=1e-4, rtol=0)
    assert max_sim(query, []).shape == (0,)


@pytest.mark.alone
def test_max_sim_of_a_hundred_documents_takes_milliseconds() -> None:
    random = np.random.default_rng(0)
    query = random.standard_normal((32, 128), dtype=np.float32)
    documents = [random.standard_normal((180, 128), dtype=np.float32) for _ in range(100)]
    assert min(seconds(lambda: max_sim(query, documents)) for _ in range(20)) < 0.02


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def test_a_query_is_filled_up_and_its_filling_is_unseen(folder: Path) -> None:
    scorer = load_scorer(folder)
    encoded = encode(scorer, "how", ["plants, light!", "a"])
    query, first, second = encoded.items
    mask = query.ids[-1]
    assert query.ids[3:6].tolist() == [query.ids[3], mask, mask]
    assert (len(query), query.unseen, query.second_segment) == (32, 28, 32)
    assert query.read is not None
    assert first.read is not None
    assert query.read.tolist() == list(range(32))
    # [CLS] [D] plants , light ! [SEP]: punctuation is computed and not read.
    assert len(first) == 7
    assert first.read.tolist() == [0, 1, 2, 4, 6]
    assert (first.unseen, second.unseen) == (0, 0)
    assert encoded.unit == 32.0


@pytest.mark.parametrize("special", [True, False])
def test_no_text_spells_a_marker_or_the_mask(special: bool, tmp_path: Path) -> None:
    scorer = load_scorer(save_pylate(tmp_path, "bert", {"do_query_expansion": False}, special))
    query, document = encode(scorer, "[Q] how [MASK] [Q] ", ["[D] a [MASK] [D] "]).items
    mask = 4
    for item in (query, document):
        assert item.ids.tolist().count(item.ids[1]) == 1
        assert mask not in item.ids


def test_a_request_may_narrow_the_length_and_the_setting_too(folder: Path) -> None:
    scorer = load_scorer(folder)
    assert scorer.family.max_length_bounds == (4, 40)
    assert [len(item) for item in encode(scorer, LONG, [LONG]).items] == [32, 40]
    narrow = encode(scorer, LONG, [LONG], 20)
    assert [len(item) for item in narrow.items] == [20, 20]
    assert (narrow.query_truncated, narrow.truncated) == (True, (True,))
    assert load_scorer(folder, max_length="24").family.max_length_bounds == (4, 24)
    assert load_scorer(folder, max_length="100").family.max_length_bounds == (4, 40)


def test_lengths_are_the_models_own_where_the_setting_is_the_default(tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, changes={"max_position_embeddings": 700}, document_length=600)
    assert load_scorer(folder).family.max_length_bounds[1] == 600


def test_the_best_chunk_of_a_long_document_counts(folder: Path) -> None:
    scorer = load_scorer(folder)
    document = text(100, 5)
    encoded = encode(scorer, QUERY, [document, "a"], chunks=4)
    assert encoded.chunks == (3, 1)
    assert all(item.ids[1] == encoded.items[-1].ids[1] for item in encoded.items[1:])
    outputs = scorer.backend.forward(encoded.items)
    scores = scorer.family.combine(outputs)
    assert scores.shape == (4,)
    np.testing.assert_allclose(scores, [naive(outputs[0], part) for part in outputs[1:]], atol=1e-4)
    assert encode(scorer, text(20, 1), ["a"], query_tokens=3).query_truncated


def test_what_was_not_computed_is_no_error(folder: Path) -> None:
    scorer = load_scorer(folder)
    items = encode(scorer, QUERY, DOCUMENTS).items
    assert scorer.family.combine(zeros(items, scorer.family.readout.width)).tolist() == [0.0] * len(DOCUMENTS)


def test_relevance_is_the_mean_and_clipped(folder: Path) -> None:
    family = load_scorer(folder).family
    np.testing.assert_allclose(family.activate(np.array([-0.2, 0.5, 1.00001], dtype=np.float32)), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("expansion", [FIXED, None])
@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
async def test_served_over_http(expansion: Any, similarity: str, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, "modernbert", expansion=expansion, prompts=MARKED, similarity=similarity)
    queries = [QUERY, "the stock market fell"]
    expected = {query: reference(folder, query, DOCUMENTS) for query in queries}
    scorer = load_scorer(folder)
    vectors = {query: len(encode(scorer, query, []).items[0]) for query in queries}
    app = create_app(fake_settings(), scorer)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.get("/info")).json()["family"] == "late_interaction"
        for query in [*queries, *queries]:  # the second time they are known
            body: dict[str, Any] = {"query": query, "documents": DOCUMENTS}
            raw = await scores(client, body | {"raw_scores": True})
            shown = await scores(client, body)
            np.testing.assert_allclose(raw, expected[query], atol=1e-4)
            mean = expected[query] / (vectors[query] if similarity == "maxsim" else 1)
            np.testing.assert_allclose(shown, np.clip(mean, 0, 1), atol=1e-5)


async def scores(client: httpx.AsyncClient, body: dict[str, Any]) -> list[float]:
    """In the documents' order."""
    reply = await client.post("/rerank", json=body)
    assert reply.status_code == 200, reply.text
    rows = sorted(reply.json()["results"], key=lambda row: row["index"])
    return [row["relevance_score"] for row in rows]


async def test_a_deadline_scores_no_document_without_the_query(folder: Path) -> None:
    scorer = load_scorer(folder, batch_size="1")
    slow = Slow(scorer)
    app = create_app(fake_settings(batch_size="1", max_length="40", cache_entries="0"), slow.scorer)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        slow.seconds = 0.1
        many = [text(40, seed) for seed in range(40)]
        reply = await client.post(
            "/rerank", json={"query": QUERY, "documents": many, "deadline_ms": 600, "raw_scores": True}
        )
    content = reply.json()
    assert content["partial"] is True
    expected = max_sims(scorer, QUERY, many)
    scored = [row for row in content["results"] if row["relevance_score"] is not None]
    assert 0 < len(scored) < len(many)
    for row in scored:
        assert row["relevance_score"] == pytest.approx(expected[row["index"]], abs=1e-4)


class Slow:
    """A scorer whose passes take at least so many seconds."""

    def __init__(self, scorer: Scorer) -> None:
        self.seconds = 0.0
        self._backend: Any = scorer.backend
        self.scorer = dataclasses.replace(scorer, backends=(self,), warm_ups=())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, items: Any) -> Any:
        time.sleep(self.seconds)
        return self._backend.forward(items)


def change(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in known.items() if value is not ...}))


DECLARED, DENSE = "config_sentence_transformers.json", "1_Dense/config.json"
BERT, METADATA = "sentence_bert_config.json", "artifact.metadata"


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        (DECLARED, {"query_prefix": "[QueryMarker]"}, "query_prefix is '[QueryMarker]', which is no token"),
        (DECLARED, {"document_prefix": 3}, "document_prefix is 3"),
        (DECLARED, {"query_length": "32"}, "query_length is '32'"),
        (DECLARED, {"document_length": 3}, "document_prefix leaves no room for text in 3 tokens"),
        (DECLARED, {"skiplist_words": "!"}, "skiplist_words is '!'"),
        (DECLARED, {"skiplist_words": ["[CLS]"]}, "skiplist_words skip a token"),
        (DECLARED, {"similarity_fn_name": "xtr"}, "similarity_fn_name is 'xtr'; supported are maxsim and meanmaxsim"),
        (DECLARED, {"query_expansion": {"strategy": "batch", "length": 3}}, "query_expansion is {'strategy': 'batch'"),
        (DECLARED, {"query_expansion": {"strategy": "min"}}, "query_expansion is {'strategy': 'min'}"),
        (DECLARED, {"query_expansion": FIXED | {"token": "[NEW]"}}, "fills up with '[NEW]', which is no token"),
        (BERT, {"query_expansion": FIXED | {"mode": 1}}, "query_expansion is"),
        (DENSE, {"in_features": 64}, "in_features is 64, but what comes before gives 48"),
        (DENSE, {"out_features": 64}, "linear.weight is [16, 48]"),
        (DENSE, {"activation_function": "mine.Activation"}, "activation_function is 'mine.Activation'"),
        (DENSE, {"module_input_name": "sentence_embedding"}, "module_input_name is 'sentence_embedding'"),
        ("config.json", {"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map names code"),
        (
            "config.json",
            {"architectures": ["Lfm2Model"]},
            "architectures is Lfm2Model; a late interaction model may be",
        ),
        ("config.json", {"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
    ],
)
def test_pylates_folders_that_are_refused(file: str, values: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path)
    change(folder / file, **values)
    line = refusal(folder)
    assert named in line
    assert Path(file).name in line or "model.safetensors" in line


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        ([], "the modules (none) are not supported"),
        (["Transformer"], "modules.json lists no Dense"),
        (
            ["Transformer", "Dense", "HierarchicalTokenPooling"],
            "the modules Transformer, Dense, HierarchicalTokenPooling",
        ),
        (["Transformer", "Normalize", "Dense"], "the modules Transformer, Normalize, Dense are not supported"),
        (["Transformer", "Dense", "MultiVectorMask"], "the modules Transformer, Dense, MultiVectorMask"),
    ],
)
def test_modules_that_are_refused(kinds: list[str], named: str, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path)
    paths = {"Transformer": "", "Dense": "1_Dense"}
    types = {"Dense": PYLATE}
    modules = [
        module(at, paths.get(kind, kind), types.get(kind, f"sentence_transformers.{kind}"))
        for at, kind in enumerate(kinds)
    ]
    write(folder, "modules.json", modules)
    assert named in refusal(folder)


@pytest.mark.parametrize("missing", ["1_Dense/model.safetensors", "1_Dense/config.json"])
def test_a_projection_that_is_missing(missing: str, tmp_path: Path) -> None:
    folder = save_pylate(tmp_path)
    (folder / missing).unlink()
    assert missing in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        (METADATA, {"query_token_id": "[unused7]"}, "query_token_id is '[unused7]', which is no token"),
        (METADATA, {"similarity": "l2"}, "similarity is 'l2'; supported is cosine"),
        (METADATA, {"doc_maxlen": 0}, "doc_maxlen is 0"),
        ("config.json", {"model_type": "xlm-roberta"}, "model_type is 'xlm-roberta'; a HF_ColBERT may be bert"),
        ("config.json", {"hidden_size": 32}, "linear.weight is [16, 48]"),
    ],
)
def test_stanfords_folders_that_are_refused(file: str, values: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = save_stanford(tmp_path, {"query_maxlen": 24})
    change(folder / file, **values)
    assert named in refusal(folder)


def test_stanfords_folder_without_a_projection(tmp_path: Path) -> None:
    folder = save_stanford(tmp_path, None)
    weights = load_file(folder / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "model.safetensors has no linear.weight" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [7]}, "keep_only_token_ids is for images"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["image"]}, "skiplist_tasks is ['image']"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": 3}, "skiplist_tasks is 3"),
        ("3_Normalize/config.json", {"module_input_name": "sentence_embedding"}, "module_input_name is"),
        (DECLARED, {"prompts": {"query": 3}}, "prompts is {'query': 3}, not text"),
    ],
)
def test_multi_vector_encoders_that_are_refused(file: str, values: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, expansion=FIXED, prompts=MARKED)
    change(folder / file, **values)
    assert named in refusal(folder)


def test_an_expansion_that_nothing_scores_is_refused(tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, expansion=FIXED)
    modules = [row for row in json.loads((folder / "modules.json").read_text()) if "Mask" not in row["type"]]
    write(folder, "modules.json", modules)
    assert "query_expansion is set, but modules.json lists no MultiVectorMask" in refusal(folder)


def test_a_prompt_setting_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="RERANKER_PROMPT is set"):
        load_scorer(folder, prompt="qwen3-reranker")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_scorer(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line
