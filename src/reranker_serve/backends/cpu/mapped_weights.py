"""Weights that stay in their files, which are mapped and not copied, until they are converted one tensor at a time.

The pages a tensor came from go back to the system at once. Of the table of word embeddings each row is converted
when it is first read.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reranker_serve.readouts import NextTokenReadout, Readout

_MADV_DONTNEED = 4  # from Linux's mman.h


class MappedFiles:
    """Where files lie in this process's memory, each mapped and not copied (Linux; elsewhere nowhere)."""

    def __init__(self, paths: Iterable[Path], maps: Path = Path("/proc/self/maps")) -> None:
        wanted = {str(path.resolve()) for path in paths}
        # `7fd20c800000-7fd24ecae000 rw-p 00000000 fe:00 2154599    /models/a/model.safetensors`
        lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
        bounds = [line[0].split("-") for line in lines if line[-1] in wanted]
        self._ranges = [range(int(start, 16), int(stop, 16)) for start, stop in bounds]

    def hold(self, address: int, size: int) -> bool:
        """Whether all of a piece of memory is a file's."""
        return any(found.start <= address and address + size <= found.stop for found in self._ranges)

    def give_back(self, address: int, size: int) -> None:
        """Take the whole pages of a piece of a file out of memory; what is read again comes from the file."""
        assert self.hold(address, size), "what is no file's would be lost"
        page = os.sysconf("SC_PAGE_SIZE")
        start, stop = -(-address // page) * page, (address + size) // page * page
        if start < stop:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)


class StoredEmbedding(nn.Module):
    """ids [...] -> [..., hidden]: rows of a table in a file, each converted and kept when it is first read.

    Two thirds of the numbers of bge-reranker-base are its 250,000 words, of which texts use a few thousand.
    `give_back` is called when rows were read from the file.
    """

    def __init__(self, stored: Tensor, dtype: torch.dtype, give_back: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._stored = stored
        self._give_back = give_back
        # Memory that nothing was written to is not there yet.
        self._rows = torch.empty(stored.shape, dtype=dtype)
        self._known = torch.zeros(len(stored), dtype=torch.bool)

    def forward(self, ids: Tensor) -> Tensor:
        new = torch.unique(ids[~self._known[ids]])
        if len(new):
            self._rows[new] = self._stored[new].to(self._rows.dtype)
            self._known[new] = True
            self._give_back(self._stored)
        return nn.functional.embedding(ids, self._rows)


def convert(model: Any, readout: Readout, dtype: torch.dtype, files: MappedFiles) -> None:
    """What `readout` needs of a model's weights, into `dtype`; the table of word embeddings stays in its file."""
    table = model.get_input_embeddings()
    as_stored = set[Tensor]()
    if type(table) is nn.Embedding and table.weight.dtype is not dtype and _mapped(table.weight, files):
        as_stored.add(table.weight)
        _replace(model, table, StoredEmbedding(table.weight.detach(), dtype, lambda stored: give_back(stored, files)))
    if isinstance(readout, NextTokenReadout) and model.lm_head.weight is not table.weight:
        as_stored.add(model.lm_head.weight)  # of which two rows are read
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype is not dtype and parameter not in as_stored:
            stored = parameter.data
            parameter.data = stored.to(dtype)
            give_back(stored, files)


def give_back(tensor: Tensor, files: MappedFiles) -> None:
    """Take a tensor's pages out of memory, if it is a file's; what is read again comes from there."""
    if _mapped(tensor, files):
        files.give_back(tensor.data_ptr(), tensor.nbytes)


def _mapped(tensor: Tensor, files: MappedFiles) -> bool:
    return files.hold(tensor.data_ptr(), tensor.nbytes)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
