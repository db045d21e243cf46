"""Packed attention against the textbook formula, and the check that guards it at start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from reranker_serve.backends.torch import attention_cpu, attention_span
from reranker_serve.backends.torch.architectures import ARCHITECTURES
from reranker_serve.backends.torch.attention import use_attention
from reranker_serve.backends.torch.attention_cpu import attend_per_segment
from reranker_serve.backends.torch.backend import CudaBackend, TorchBackend
from reranker_serve.backends.torch.layout import Layout
from reranker_serve.backends.torch.packed import PackedForward, only
from reranker_serve.backends.torch.weights import load_weights
from reranker_serve.checkpoint import read_folder
from reranker_serve.engine.kinds import OverlappingBackend
from reranker_serve.readouts import ClassifierReadout
from reranker_serve.types import EncodedItem
from tests.checkpoints import save_cross_encoder

CPU = torch.device("cpu")
LENGTHS = [1, 7, 2, 30, 4, 5]
# Which prefix each of these sequences has: none, one of 9 tokens, or one of a single token.
PREFIXES: list[int | None] = [None, 0, 1, 0, None, 0]


def items(lengths: list[int], prefixes: list[int | None]) -> list[EncodedItem]:
    random = np.random.default_rng(0)
    shared = [random.integers(5, 60, length, dtype=np.int32) for length in (9, 1)]
    return [
        EncodedItem(random.integers(5, 60, length, dtype=np.int32), length, None if at is None else shared[at])
        for length, at in zip(lengths, prefixes, strict=True)
    ]


def textbook(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    layout: Layout,
    hidden: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T scale) v over the whole row, with everything but one's own sequence and its prefix masked, and
    what is `hidden`, [tokens]."""
    owner = torch.cat([torch.full((span.stop - span.start,), i) for i, span in enumerate(layout.spans)])
    position = torch.cat([torch.arange(span.prefix, span.prefix + span.stop - span.start) for span in layout.spans])
    seen = owner[:, None] == owner[None, :]
    for i, span in enumerate(layout.spans):
        seen[owner == i, span.prefix_start : span.prefix_stop] = True
    distance = position[:, None] - position[None, :]
    if window is not None:
        seen &= distance.abs() < window
    if layout.causal:
        seen &= distance >= 0
    if hidden is not None:
        seen &= ~hidden
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)


def set_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention_span, attention_cpu):
        monkeypatch.setattr(module, "QUERY_BLOCK", rows)
    monkeypatch.setattr(attention_cpu, "_WINDOW_BLOCK", min(rows, attention_cpu._WINDOW_BLOCK))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", range(len(LENGTHS)))
def test_numbers_that_are_none_stay_within_their_sequence(dtype: torch.dtype, broken: float, place: int) -> None:
    layout = Layout.of(items(LENGTHS, [None] * len(LENGTHS)), False, CPU)
    poisoned = layout.spans[place]
    states = torch.randn(3, 4, layout.spans[-1].stop, 8).to(dtype)
    states[..., poisoned.start : poisoned.stop, :] = broken
    out = attend_per_segment(*states, 8**-0.5, layout, None)
    healthy = torch.ones(len(out), dtype=torch.bool)
    healthy[poisoned.start : poisoned.stop] = False
    assert out[healthy].isfinite().all()
    assert out[~healthy].isnan().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("window", [None, 1, 3, 30, 100])
@pytest.mark.parametrize("scale", [8**-0.5, 0.5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("block", [1024, 4])
def test_packed_attention_is_attention_within_each_sequence_and_its_prefix(
    dtype: torch.dtype,
    tolerance: float,
    window: int | None,
    scale: float,
    causal: bool,
    key_heads: int,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_block(block, monkeypatch)
    torch.manual_seed(0)
    layout = Layout.of(items(LENGTHS, PREFIXES if causal else [None] * len(LENGTHS)), causal, CPU)
    tokens = layout.spans[-1].stop
    query, key, value = (torch.randn(1, heads, tokens, 8).to(dtype) for heads in (4, key_heads, key_heads))
    expected = textbook(query.float(), key.float(), value.float(), scale, window, layout)
    got = attend_per_segment(query[0], key[0], value[0], scale, layout, window)[None]
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=0)


def test_short_sequences_in_one_product_are_what_they_are_alone() -> None:
    """In bfloat16: 23 of up to 16 tokens, which make groups of 16, 4 and single ones, and a longer one between them."""
    lengths = [*range(1, 12), 40, *range(5, 17)]
    sequences = [
        EncodedItem(item.ids, len(item), unseen=len(item) // 3) for item in items(lengths, [None] * len(lengths))
    ]
    layout = Layout.of(sequences, False, CPU)
    torch.manual_seed(0)
    states = torch.randn(3, 4, layout.tokens, 8).bfloat16()
    together = attend_per_segment(*states.clone(), 8**-0.5, layout, None)
    for item, span in zip(sequences, layout.spans, strict=True):
        own = states[:, :, span.start : span.stop].clone()
        alone = attend_per_segment(*own, 8**-0.5, Layout.of([item], False, CPU), None)
        torch.testing.assert_close(together[span.start : span.stop], alone, atol=2e-2, rtol=0)


def test_layers_with_and_without_a_window_have_groups_of_their_own() -> None:
    """ModernBERT has both: a window of 65 tokens parts spans of 65 to 80 tokens, which are otherwise alike."""
    lengths = [65, 70, 65, 66, 65, 72, 65]
    sequences = items(lengths, [None] * len(lengths))
    torch.manual_seed(0)
    states = torch.randn(3, 4, sum(lengths), 8).bfloat16()
    layout = Layout.of(sequences, False, CPU)
    for window in (None, 65, None):
        got = attend_per_segment(*states.clone(), 8**-0.5, layout, window)
        expected = attend_per_segment(*states.clone(), 8**-0.5, Layout.of(sequences, False, CPU), window)
        torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_a_window_over_a_long_sequence_is_computed_in_blocks_of_their_own_keys() -> None:
    lengths = [300, 20, 140, 66]
    layout = Layout.of(items(lengths, [None] * len(lengths)), False, CPU)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, layout.tokens, 8).bfloat16()
    states = (part[None].float() for part in (query, key, value))
    expected = textbook(*states, scale=8**-0.5, window=65, layout=layout)
    value[:, layout.spans[1].start : layout.spans[1].stop] = torch.nan  # the neighbour's
    got = attend_per_segment(query, key, value, 8**-0.5, layout, 65)
    for span in (layout.spans[at] for at in (0, 2, 3)):
        rows = slice(span.start, span.stop)
        torch.testing.assert_close(got[rows].float(), expected[0, rows], atol=5e-2, rtol=0)


def test_a_long_sequence_is_attended_to_without_a_mask_of_its_square() -> None:
    tokens = 16_384
    layout = Layout.of([EncodedItem(np.zeros(tokens, dtype=np.int32), tokens)], causal=True, device=torch.device("cpu"))
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, tokens, 8) for heads in (2, 1, 1))
    expected = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    got = attend_per_segment(query[0], key[0], value[0], 8**-0.5, layout, None)
    torch.testing.assert_close(got.transpose(0, 1), expected[0], atol=1e-4, rtol=0)
    assert sum(mask.numel() for mask in layout._made.values()) <= 2 * 8192**2  # of both query heads


def test_a_shared_prefix_lies_in_the_row_once() -> None:
    layout = Layout.of(items(LENGTHS, PREFIXES), True, CPU)
    assert layout.spans[-1].stop == sum(LENGTHS) + 9 + 1
    # Every item finds its own tokens, and the keys of each are its prefix and itself.
    assert [layout.spans[place].stop - layout.spans[place].start for place in layout.places] == LENGTHS
    assert [layout.spans[place].prefix for place in layout.places] == [0, 9, 1, 9, 0, 9]
    assert layout.keys is not None
    starts = layout.key_bounds.tolist()
    for number, span in enumerate(layout.spans):
        expected = [*range(span.prefix_start, span.prefix_stop), *range(span.start, span.stop)]
        assert layout.keys[starts[number] : starts[number + 1]].tolist() == expected
    assert layout.query_bounds.tolist()[-1] == layout.spans[-1].stop
    assert layout.longest == (30, 39)


class ShiftedBert(BertForSequenceClassification):
    """An architecture that says it is BERT and computes something else after the encoder."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> object:
        output = super().forward(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        output.logits = output.logits + 1
        return output


def test_a_model_that_packing_computes_differently_runs_padded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_cross_encoder("bert", tmp_path)
    ordinary = TorchBackend(
        AutoModelForSequenceClassification.from_pretrained(folder).eval(), ClassifierReadout(), "cpu"
    )
    shifted = TorchBackend(ShiftedBert.from_pretrained(folder).eval(), ClassifierReadout(), "cpu")
    assert ordinary.attention.startswith("packed")
    assert shifted.attention.startswith("padded")
    assert "packed and padded differ" in caplog.text
    batch = items(LENGTHS, [None] * len(LENGTHS))
    np.testing.assert_allclose(shifted.forward(batch), ordinary.forward(batch) + 1, atol=1e-5, rtol=0)


def test_of_the_last_layer_only_the_rows_that_are_read_are_computed(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(save_cross_encoder("xlm-roberta", tmp_path)).eval()
    backend = TorchBackend(model, ClassifierReadout(1), "cpu")
    rows = []
    for layer in model.base_model.encoder.layer:
        layer.output.register_forward_hook(lambda *found: rows.append(found[2].shape[1]))
    backend.forward(items([7, 30, 5], [None, None, None]))
    assert min(rows[:-1]) >= 42
    assert rows[-1] == 3


def test_a_module_that_was_given_few_rows_is_given_all_again(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(save_cross_encoder("bert", tmp_path)).eval()
    module, states = model.base_model.encoder.layer[-1].attention.output, torch.randn(1, 9, 48)
    with torch.inference_mode():
        whole = module(states, input_tensor=states)
        with only(module, torch.tensor([2, 5])):
            torch.testing.assert_close(module(states, input_tensor=states), whole[:, [2, 5]])
        with pytest.raises(IndexError), only(module, torch.tensor([9])):  # which is not there
            module(states, input_tensor=states)
        assert torch.equal(module(states, input_tensor=states), whole)


def test_every_layer_attends_with_the_function_that_was_chosen(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(save_cross_encoder("bert", tmp_path)).eval()
    calls = []

    def watched(query: Tensor, key: Tensor, value: Tensor, scale: float, layout: Layout, window: int | None) -> Tensor:
        calls.append((query.shape, scale, layout.tokens, window))
        return attend_per_segment(query, key, value, scale, layout, window)

    use_attention(model, "watched", watched)
    forward = PackedForward(model, ARCHITECTURES["bert"], ClassifierReadout(1), torch.nn.Identity(), lambda _: 50)
    with torch.inference_mode():
        forward(items([7, 30, 5], [None, None, None]))
    assert calls == [((4, 50, 12), 12**-0.5, 42, None)] * 3


def test_a_pass_can_be_begun_before_the_one_before_it_is_read(tmp_path: Path) -> None:
    """The GPU's way of computing, which waits for nothing here."""
    model = AutoModelForSequenceClassification.from_pretrained(save_cross_encoder("xlm-roberta", tmp_path)).eval()
    backend = CudaBackend(model, ClassifierReadout(1), "cpu")
    assert isinstance(backend, OverlappingBackend)
    assert not hasattr(TorchBackend, "begin")  # on a CPU nothing is gained
    batches = [items([7, 30, 5], [None] * 3), items([12, 9], [None] * 2)]
    results = [backend.begin(batch) for batch in batches]
    for result, batch in zip(results, batches, strict=True):
        np.testing.assert_array_equal(result(), backend.forward(batch))


def test_weights_that_are_loaded_straight_to_a_device_are_the_same(tmp_path: Path) -> None:
    folder = save_cross_encoder("bert", tmp_path)
    ours, straight = (
        load_weights(read_folder(folder), ClassifierReadout(1), torch.float32, device) for device in ("cpu", "cpu:0")
    )
    expected = ours.state_dict()
    assert straight.state_dict().keys() == expected.keys()
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
