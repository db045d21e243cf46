"""Cross-encoders as sentence-transformers saves them, of every kind, give the scores of its `predict`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
from torch import nn

from reranker_serve.backends.device import Place
from reranker_serve.backends.torch.layers import load_layers
from reranker_serve.backends.torch.load import load_finite
from reranker_serve.backends.torch.padded import PaddedForward
from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.errors import StartupError
from reranker_serve.families.modular import read_head
from reranker_serve.families.registry import read_checkpoint
from reranker_serve.readouts import HeadReadout
from reranker_serve.types import FloatArray, Scorer
from tests.checkpoints import load_scorer, save_cross_encoder, save_encoder
from tests.families.test_cross_encoder_parity import DOCUMENTS, LIMIT, LONG, QUERY, raw_scores

TOLERANCE = 1e-4
WIDTH = 48
# name -> (encoder, pooling, what follows)
Parts = Callable[[], list[nn.Module]]


def scores(inputs: int, bias: bool = True) -> Dense:
    return Dense(inputs, 1, bias=bias, activation_function=nn.Identity(), module_output_name="scores")


def ettin() -> list[nn.Module]:
    return [Dense(WIDTH, WIDTH, bias=False, activation_function=nn.GELU()), LayerNorm(WIDTH), scores(WIDTH)]


def dropped() -> list[nn.Module]:
    return [Dropout(0.5), Dense(WIDTH, 20, activation_function=nn.Tanh(), use_residual=True), scores(20, bias=False)]


HEADS: dict[str, tuple[str, str, Parts]] = {
    "ettin": ("modernbert", "cls", ettin),
    "mean": ("bert", "mean", dropped),
    "last": ("xlm-roberta", "lasttoken", lambda: [scores(WIDTH)]),
    "padded": ("deberta-v2", "cls", ettin),
    "padded mean": ("mpnet", "mean", ettin),
}


def save(name: str, folder: Path, modules: list[nn.Module] | None = None, **metadata: Any) -> Path:
    """As sentence-transformers saves a cross-encoder that was built of modules."""
    encoder, pooling, parts = HEADS[name]
    body = save_encoder(encoder, folder.with_name(f"{folder.name}-body"))
    torch.manual_seed(1)
    head = modules or parts()
    with torch.no_grad():
        for parameter in nn.ModuleList(head).parameters():
            parameter.normal_(0, 0.4)
    transformer = Transformer(str(body), transformer_task="feature-extraction")
    model = CrossEncoder(modules=[transformer, Pooling(WIDTH, pooling), *head], device="cpu", **metadata)
    model.save_pretrained(str(folder))
    return folder


def predicted(folder: Path, query: str, documents: Sequence[str], **options: Any) -> FloatArray:
    model = CrossEncoder(str(folder), device="cpu")
    model.max_seq_length = LIMIT
    pairs = [(query, document) for document in documents]
    return np.asarray(model.predict(pairs, activation_fn=nn.Identity(), batch_size=4, **options))


@pytest.fixture(scope="module", params=HEADS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Scorer]:
    folder = save(request.param, tmp_path_factory.mktemp("modular") / "model")
    return request.param, folder, load_scorer(folder)


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        pytest.param(QUERY, DOCUMENTS, id="ordinary"),
        pytest.param(QUERY, [LONG, *DOCUMENTS[:4]], id="document too long"),
        pytest.param(LONG, [LONG, "a"], id="both too long"),
    ],
)
def test_the_head_scores_as_predict_does(
    checkpoint: tuple[str, Path, Scorer], query: str, documents: list[str]
) -> None:
    _, folder, scorer = checkpoint
    expected = predicted(folder, query, documents)
    np.testing.assert_allclose(raw_scores(scorer, query, documents), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected) > 0.02, "equal scores would prove nothing"


def test_it_is_a_cross_encoder_packed_where_it_can_be(checkpoint: tuple[str, Path, Scorer]) -> None:
    name, _, scorer = checkpoint
    assert scorer.family.name == "cross_encoder"
    assert scorer.backend.attention.startswith("padded" if "padded" in name else "packed")


def test_no_score_depends_on_its_company_or_place(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, _, scorer = checkpoint
    alone = np.concatenate([raw_scores(scorer, QUERY, [document]) for document in DOCUMENTS])
    order = np.random.default_rng(1).permutation(len(DOCUMENTS))
    shuffled = raw_scores(scorer, QUERY, [DOCUMENTS[i] for i in order])
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-5, rtol=0)


def test_packed_equals_padded(checkpoint: tuple[str, Path, Scorer]) -> None:
    _, folder, scorer = checkpoint
    readout = scorer.family.readout
    items = scorer.family.encode(QUERY, DOCUMENTS, max_length=LIMIT, instruction=None).items
    model = load_weights(read_folder(folder), readout, torch.float32, "cpu").eval()
    assert isinstance(readout, HeadReadout)
    layers = load_layers(folder, readout.layers, torch.float32, "cpu")
    with torch.inference_mode():
        padded = PaddedForward(model, readout, 4096, layers)(items).numpy()
    np.testing.assert_allclose(scorer.backend.forward(items), padded, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.Sigmoid()])
def test_relevance_is_the_sigmoid_whatever_activation_is_declared(tmp_path: Path, activation: nn.Module) -> None:
    scorer = load_scorer(save("ettin", tmp_path / "model", activation_fn=activation))
    raw = raw_scores(scorer, QUERY, DOCUMENTS)
    np.testing.assert_allclose(scorer.family.activate(raw), 1 / (1 + np.exp(-raw)), atol=1e-6)


def test_a_prompt_that_is_declared_stands_before_the_query(tmp_path: Path) -> None:
    folder = save("ettin", tmp_path / "model", prompts={"ask": "Find: "}, default_prompt_name="ask")
    expected = predicted(folder, QUERY, DOCUMENTS)
    assert np.abs(expected - predicted(folder, QUERY, DOCUMENTS, prompt="")).max() > 0.1
    np.testing.assert_allclose(raw_scores(load_scorer(folder), QUERY, DOCUMENTS), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_classifier_that_it_saved_again(tmp_path: Path, name: str) -> None:
    """One module, the classifier: its own prompt, and lower case where that is declared."""
    original = save_cross_encoder(name, tmp_path / "original")
    model = CrossEncoder(str(original), device="cpu", prompts={"ask": "how "}, default_prompt_name="ask")
    model.save_pretrained(str(tmp_path / "saved"))
    config = tmp_path / "saved/sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"do_lower_case": True}))
    documents = [*DOCUMENTS, "HOW DO PLANTS Make Food"]
    expected = predicted(tmp_path / "saved", "Plants Make FOOD", documents)
    got = raw_scores(load_scorer(tmp_path / "saved"), "Plants Make FOOD", documents)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_no_more_tokens_than_declared_unless_more_are_asked_for(saved: Path) -> None:
    assert load_scorer(saved).family.max_length_bounds[1] == LIMIT
    assert load_scorer(saved, max_length="130").family.max_length_bounds[1] == 130


def test_an_embedding_model_is_still_one(tmp_path: Path) -> None:
    body = save_encoder("bert", tmp_path / "body")
    SentenceTransformer(modules=[Transformer(str(body)), Pooling(WIDTH, "mean")]).save(str(tmp_path / "model"))
    assert load_scorer(tmp_path / "model").family.name == "bi_encoder"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("ettin", tmp_path_factory.mktemp("saved") / "model")


def without(*places: int) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        rows = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([row for row in rows if row["idx"] not in places]))

    return apply


def twice(folder: Path) -> None:
    rows = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*rows, rows[-1]]))


def renamed(kind: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "modules.json"
        path.write_text(path.read_text().replace(".LayerNorm", f".{kind}"))

    return apply


def configured(path: str, **values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | values))

    return apply


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            without(2, 3, 4),
            r"modules\.json: the modules Transformer, Pooling are not supported; a cross-encoder of Mod",
        ),
        (without(4), r"3_LayerNorm/config\.json: a LayerNorm is the last module, but scores are made by a"),
        (without(1), r"modules\.json: the modules Transformer, Dense, LayerNorm, Dense are not supported"),
        (twice, r"4_Dense/config\.json: module_output_name is 'scores', but it must be sentence_embedding where"),
        (renamed("Normalize"), r"the modules Transformer, Pooling, Dense, Normalize, Dense are not supported"),
        (configured("2_Dense/config.json", in_features=47), r"2_Dense/config\.json: in_features is 47, but what comes"),
        (
            lambda folder: (folder / "config_sentence_transformers.json").write_text("[]"),
            r"formers\.json is not an object",
        ),
        (configured("1_Pooling/config.json", pooling_mode="max"), r"pooling max is not supported; supported are cls"),
        (lambda folder: shutil.rmtree(folder / "4_Dense"), r"4_Dense/config\.json is missing"),
        (lambda folder: (folder / "4_Dense/model.safetensors").unlink(), r"4_Dense/model\.safetensors is missing"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(
    saved: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    spoil(folder)
    with pytest.raises(StartupError, match=says) as refused:
        read_checkpoint(folder)
    assert "\n" not in str(refused.value)


def test_several_labels_are_no_reranker(tmp_path: Path) -> None:
    three = Dense(WIDTH, 3, activation_function=nn.Identity(), module_output_name="scores")
    with pytest.raises(StartupError, match=r"2_Dense/config\.json: out_features is 3, but a reranker has one label"):
        read_checkpoint(save("ettin", tmp_path / "model", [three]))


@pytest.mark.parametrize("name", ["ettin", "last", "padded"])
def test_half_precision_changes_little(tmp_path: Path, name: str) -> None:
    folder = save(name, tmp_path / "model")
    half = load_scorer(folder, use_fp16="true")
    expected = raw_scores(load_scorer(folder), QUERY, DOCUMENTS)
    spread = np.ptp(expected)
    np.testing.assert_allclose(raw_scores(half, QUERY, DOCUMENTS), expected, atol=0.1 * spread, rtol=0)


def test_in_half_precision_the_head_computes_in_float32(saved: Path) -> None:
    whole = load_scorer(saved)
    (half,) = load_finite(read_folder(saved), read_head(read_folder(saved)), [Place("cpu")], ("bfloat16",))
    assert half.dtype == "bfloat16"
    items = whole.family.encode(QUERY, DOCUMENTS, max_length=LIMIT, instruction=None).items
    rows = half.forward(items)
    assert isinstance(rows, np.ndarray)
    as_bfloat16 = torch.from_numpy(rows).to(torch.bfloat16).float().numpy()
    assert (rows != as_bfloat16).any(), "a head that computes in bfloat16 has no other numbers"


def test_positions_that_transformers_ignores_are_refused(tmp_path: Path) -> None:
    folder = save("ettin", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position_embedding_type": "relative_key"}))
    with pytest.raises(StartupError, match=r"config\.json: position_embedding_type is 'relative_key'"):
        read_checkpoint(folder)
