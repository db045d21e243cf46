"""A loaded model behind the contract of a backend: runs batches, a pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from reranker_serve.backends import device as policy
from reranker_serve.backends.cpu.int8 import channel_peaks
from reranker_serve.backends.cpu.linear import keep, linear_layers, pack_linear_layers, row_count
from reranker_serve.backends.cpu.nodes import Cores, pin
from reranker_serve.backends.cpu.products import Quantization, choose_product
from reranker_serve.backends.torch import attention_cpu
from reranker_serve.backends.torch.failures import backend_error
from reranker_serve.backends.torch.layout import Layout
from reranker_serve.backends.torch.memory import keep_all, release_memory, relieve_mps
from reranker_serve.backends.torch.packed import exact_length
from reranker_serve.backends.torch.probe import choose_forward, probe_items, random_items, require_finite
from reranker_serve.errors import OutOfMemory
from reranker_serve.readouts import Readout
from reranker_serve.types import EncodedItem, FloatArray, Outputs

# Times four sequences, of 300 tokens together, that tell which channels are large.
_PEAK_PROBES = 4

Result = TypeVar("Result")


class TorchBackend:
    """Runs one model on one device, a pass at a time. Build it with `load`; raises `NotFinite`.

    `precision_note` says why it does not compute in the precision that would be chosen first; `relieve` is called
    after each batch and gives back memory where that is due, `release` with each weight that is kept in another layout.
    Of a CPU it computes on `cores`; None: on any.
    """

    precision_note: str | None = None
    cores: Cores | None = None

    def __init__(
        self,
        model: Any,
        readout: Readout,
        device: str,
        quantization: Quantization = "none",
        layers: nn.Module | None = None,
        release: Callable[[Tensor], None] = keep,
    ) -> None:
        self.device = device
        self.dtype = "int8" if quantization == "int8" else str(next(model.parameters()).dtype).removeprefix("torch.")
        self.batch_token_cap = policy.cpu_batch_tokens(_layer_numbers(model)) if device == "cpu" else None
        self.relieve = relieve_mps if device == "mps" else keep_all
        make_forward, self.attention = choose_forward(model, readout, device, layers or nn.Identity())
        self._forward = make_forward(exact_length)
        make_product = choose_product(device, model.dtype, quantization)
        if make_product is not None:
            # Peaks are those of texts: before anything else fills a row.
            peaks = self._channel_peaks(model, readout) if quantization == "int8" else None
            pack_linear_layers(model.base_model, make_product, peaks, release)
            self._forward = make_forward(few_lengths)
            self.try_out(probe_items(model.config, readout))

    def enter_thread(self) -> None:
        """Let this thread compute where the model's memory is."""
        pin(self.cores)

    def forward(self, items: Sequence[EncodedItem]) -> Outputs:
        return _outputs(items, self._rows(items))

    def try_out(self, items: Sequence[EncodedItem]) -> None:
        """Raises `NotFinite`."""
        require_finite(self._rows(items))

    def _rows(self, items: Sequence[EncodedItem]) -> FloatArray:
        """A row an item, or for vectors one each."""
        rows: FloatArray = self._compute(lambda: self._forward(items).cpu().numpy())
        self.relieve()
        return rows

    def _compute(self, run: Callable[[], Result]) -> Result:
        """What `run` returns; torch's errors as ours."""
        try:
            with torch.inference_mode():
                return run()
        except (RuntimeError, MemoryError) as error:
            failure = backend_error(error)
            if failure is None:
                raise
        # Not raised above, where torch's error would become its context and keep the tensors of the failed pass alive.
        if isinstance(failure, OutOfMemory):
            release_memory(self.device)
        raise failure

    def _channel_peaks(self, model: Any, readout: Readout) -> dict[str, Tensor]:
        probe = [item for seed in range(_PEAK_PROBES) for item in random_items(model.config, readout, seed)]
        return channel_peaks(linear_layers(model.base_model), lambda: self.forward(probe))


class CudaBackend(TorchBackend):
    """Runs one model on a GPU, which computes one pass while the next is begun."""

    def enter_thread(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)

    def begin(self, items: Sequence[EncodedItem]) -> Callable[[], Outputs]:
        def start() -> tuple[Tensor, Any]:
            rows = self._forward(items)
            host = rows.to("cpu", non_blocking=True)  # which torch puts into pinned memory
            return host, torch.cuda.current_stream(rows.device).record_event() if rows.is_cuda else None

        host, done = self._compute(start)

        def result() -> Outputs:
            if done is not None:
                self._compute(done.synchronize)
            return _outputs(items, host.numpy())

        return result


def _layer_numbers(model: Any) -> int:
    """Those beside the table of words, of which a token reads one row."""

    def count(module: nn.Module) -> int:
        return sum(part.numel() for part in module.parameters())

    return count(model.base_model) - count(model.get_input_embeddings())


def few_lengths(layout: Layout) -> int:
    """A row's length of few that there are, so that products meet few shapes."""
    return row_count(attention_cpu.reach(layout))


def _outputs(items: Sequence[EncodedItem], rows: FloatArray) -> Outputs:
    """Rows as they are, or an item's vectors, which are among them."""
    if items[0].read is None:
        return rows
    stops = np.cumsum([0 if item.read is None else len(item.read) for item in items])
    return np.split(rows, stops[:-1])
