"""Windows, spectra, grids of coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import DTYPES, Node, Operator, single


def _window(terms: Sequence[float], node: Node, size: int) -> Tensor:
    """A sum of cosines."""
    kind = DTYPES[int(node.get("output_datatype", 1))]
    span = size if node.get("periodic", 1) else size - 1
    angle = 2 * math.pi * torch.arange(size, dtype=torch.float64) / span
    parts = [term * (-1) ** index * torch.cos(index * angle) for index, term in enumerate(terms)]
    found = torch.stack(parts).sum(0)
    return found.to(kind)


def _transform(node: Node, data: Tensor, length: Any = None, axis: Any = None) -> Tensor:
    """DFT of numbers whose last axis is 1 (real) or 2 (real, imaginary)."""
    along = int(single(axis) if axis is not None else node.get("axis", 1 if node.version < 20 else -2))
    along = along % data.dim()
    inverse, one_sided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    size = None if length is None else int(single(length))
    if inverse and one_sided:
        whole = size if size is not None else 2 * (int(data.shape[along]) - 1)
        real: Tensor = torch.fft.irfft(torch.view_as_complex(data.contiguous()), whole, along)
        return real.unsqueeze(-1)
    given = torch.view_as_complex(data.contiguous()) if data.shape[-1] == 2 else data[..., 0]
    if inverse:
        found = torch.fft.ifft(given.to(torch.complex128), size, along).to(
            given.dtype if given.is_complex() else torch.complex64
        )
    else:
        found = torch.fft.rfft(given, size, along) if one_sided else torch.fft.fft(given, size, along)
    return torch.view_as_real(found)


def _spectrogram(
    node: Node, data: Tensor, step: int, window: Tensor | None = None, length: int | None = None
) -> Tensor:
    """STFT: (batch, samples, 1 or 2) to (batch, frames, bins, 2)."""
    size = int(length if length is not None else len(window))  # type: ignore[arg-type]
    frames = data.unfold(1, size, int(step)).transpose(2, 3)
    if window is not None:
        frames = frames * window[:, None]
    one_sided = Node("DFT", node.name, attributes={"onesided": node.get("onesided", 1), "axis": 2}, version=17)
    return _transform(one_sided, frames)


def _mel(node: Node, bins: int, size: int, rate: int, lowest: float, highest: float) -> Tensor:
    """Weights of a mel filter bank, (size // 2 + 1, bins)."""
    spectrum = size // 2 + 1
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (lowest, highest))
    mels = torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2)) + low
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = torch.div((size + 1) * hertz, rate, rounding_mode="floor").long().tolist()
    weights = torch.zeros(spectrum, bins, dtype=torch.float64)
    for index in range(bins):
        left, middle, right = edges[index : index + 3]
        for place in range(left, middle + 1):
            weights[place, index] = 1.0 if left == middle else (place - left) / (middle - left)
        for place in range(middle, right):
            weights[place, index] = (right - place) / (right - middle)
    return weights.to(DTYPES[int(node.get("output_datatype", 1))])


def _grid(node: Node, theta: Tensor, size: Sequence[int]) -> Tensor:
    """AffineGrid."""
    return functional.affine_grid(theta, list(size), align_corners=bool(node.get("align_corners", 0)))


def _sampled(node: Node, data: Tensor, grid: Tensor) -> Tensor:
    """GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    return functional.grid_sample(
        data, grid, mode, node.get("padding_mode", "zeros"), align_corners=bool(node.get("align_corners", 0))
    )


OPERATORS = {
    "HannWindow": Operator(partial(_window, (0.5, 0.5)), known=(0,)),
    "HammingWindow": Operator(partial(_window, (25 / 46, 21 / 46)), known=(0,)),
    "BlackmanWindow": Operator(partial(_window, (0.42, 0.5, 0.08)), known=(0,)),
    "DFT": Operator(_transform, known=(1, 2)),
    "STFT": Operator(_spectrogram, known=(1, 3)),
    "MelWeightMatrix": Operator(_mel, known=(0, 1, 2, 3, 4)),
    "AffineGrid": Operator(_grid, known=(1,)),
    "GridSample": Operator(_sampled),
}
