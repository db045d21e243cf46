"""ModernBERT's rotary positions, computed in fewer steps than transformers takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from reranker_serve.backends.torch.rotary import rotate_as_before, rotate_together
from tests.families.test_late_interaction_parity import save_multi_vector


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-1)])
def test_hidden_states_are_those_of_transformers(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    folder = save_multi_vector(tmp_path, "modernbert", changes={"local_attention": 16})
    model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    ids = torch.randint(10, 30, (2, 40))
    mask = torch.arange(40).expand(2, 40) < torch.tensor([[40], [23]])
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).last_hidden_state
        rotate_together(model)
        assert all("forward" in layer.attn.__dict__ for layer in model.layers)
        got = model(ids, attention_mask=mask).last_hidden_state
        rotate_as_before(model)
        again = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[mask], expected[mask], atol=tolerance, rtol=0)
    torch.testing.assert_close(again, expected, atol=0, rtol=0)
