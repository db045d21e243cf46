"""Linear layers in 8-bit integers on a CPU, behind the same interface as the other products.

Weights have one scale an output channel, chosen once; activations one scale a row, that is a
token, chosen at each call. So what a sequence scores does not depend on its company in a batch.

A few channels of a transformer's activations are many times larger than the others, which would be
left with little precision. Each channel is divided by a factor that the weights are multiplied
by (Xiao et al., SmoothQuant, 2023); which channels are large hardly depends on the text, so a
few random sequences tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from reranker_serve.backends.cpu.linear import Product

# The kernel takes unsigned rows and one zero point for all of them.
_ZERO_POINT = 128
# Rounding a scale to bfloat16 must not make it too small for the row.
_MARGIN = 1 + 2**-8
# Values quantized at a time, so that their float32 copy stays in a cache.
_BLOCK = 1 << 20


def int8_product(weight: Tensor, bias: Tensor | None, peaks: Tensor | None = None) -> Product:
    """oneDNN's 8-bit product with `weight` [out, in]; in and out are of the weight's dtype.

    `peaks` [in], if given, are typical greatest magnitudes of the input's channels.
    """
    smoothing = None if peaks is None else _smoothing(weight, peaks)
    smoothed = weight.float() if smoothing is None else weight.float() / smoothing
    scale = (smoothed.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    integers = (smoothed / scale[:, None]).round().to(torch.int8)
    zero_points = torch.zeros(len(scale), dtype=torch.int32)
    # A row is scale * (bytes - 127.5): what the zero point leaves is half a column's sum.
    half = 0.5 * scale * integers.sum(1)
    packed = torch.ops.onednn.qlinear_prepack(integers, None)

    def product(x: Tensor) -> Tensor:
        rows, scales = quantize_rows(x, smoothing)
        out = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, _ZERO_POINT, packed, scale, zero_points, half, 1.0, 0, x.dtype, "none", [], ""
        )
        return out.mul_(scales) if bias is None else torch.addcmul(bias, out, scales)

    return product


def channel_peaks(layers: Mapping[str, nn.Linear], run: Callable[[], object]) -> dict[str, Tensor]:
    """By layer name, the greatest magnitude of each channel [in] of its input while `run` runs the model."""
    peaks = {name: torch.zeros(layer.in_features) for name, layer in layers.items()}

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].reshape(-1, inputs[0].shape[-1]).abs().amax(0).float()
        peaks[name] = torch.maximum(peaks[name], found)

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return peaks


def _smoothing(weight: Tensor, peaks: Tensor) -> Tensor:
    """Factors [in] for the input's channels: what is left of the differences is shared with the weights."""
    factors = (weight.float().abs().amax(0).clamp(min=1e-5) / peaks.clamp(min=1e-4)).sqrt()
    return factors / factors.log().mean().exp()


def quantize_rows(x: Tensor, smoothing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[rows, in] -> bytes [rows, in], scales [rows, 1]: x * smoothing = scale * (bytes - 127.5)."""
    quantized = torch.empty(x.shape, dtype=torch.uint8)
    scales = torch.empty(len(x), dtype=torch.bfloat16)
    step = max(1, _BLOCK // x.shape[1])
    wide = torch.empty(min(step, len(x)), x.shape[1] + 2)
    for start in range(0, len(x), step):
        block = slice(start, start + step)
        rows = wide[: len(x[block])]
        rows[:, :-2] = x[block]
        if smoothing is not None:
            rows[:, :-2] *= smoothing
        _quantize_block(rows, quantized[block], scales[block])
    return quantized, scales[:, None].to(x.dtype)


def _quantize_block(rows: Tensor, quantized: Tensor, scales: Tensor) -> None:
    """Fill the last two from `rows`, float32 with two columns more at the end, for this function's use.

    The one kernel of torch that quantizes row by row takes a row's range from its smallest and
    greatest values, and writes scale and minimum behind the bytes. It is called twice: first to
    learn the ranges, then with both ends of a symmetric range added to each row. That is still
    several times faster than separate operations.
    """
    width = quantized.shape[1]
    rows[:, width:] = 0
    packed = torch.ops.quantized.embedding_bag_byte_prepack(rows)
    step, low = packed[:, width + 2 :].clone(memory_format=torch.contiguous_format).view(torch.float32).unbind(1)
    scales.copy_(torch.maximum(-low, low + 255 * step) * (_MARGIN / 127.5))
    end = scales.float() * 127.5
    rows[:, width], rows[:, width + 1] = end, -end
    quantized.copy_(torch.ops.quantized.embedding_bag_byte_prepack(rows)[:, :width])
