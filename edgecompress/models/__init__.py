"""Sample: a model with what is needed to compress, train, check and describe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgecompress.errors import DataError, ModelError
from edgecompress.models.accepting import accepted
from edgecompress.models.adapting import adapted, adapted_for
from edgecompress.models.calling import call, defined
from edgecompress.models.copying import copied, put_state, shared_copy, state_digest, untrained_copy, without_numbers
from edgecompress.models.datasets import Inputs, Part, Split, single
from edgecompress.models.execution import (
    Call,
    Outputs,
    as_outputs,
    calibrated,
    check_runs,
    check_steady,
    evaluating,
    named_layers,
    noting,
    observing,
    same,
    tensors_of,
    unfused_attention,
)
from edgecompress.models.forms import Form, class_scores, flat, flattened
from edgecompress.models.kinds import PERPLEXITY, OutputKind, SummedScore, checked_kind, token_loss
from edgecompress.progress import notice

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from edgecompress.plans import CompressionPlan

Loss = Callable[[Any, Tensor], Tensor]
Score = Callable[[Any, Tensor], float]
Augment = Callable[[Any, torch.Generator], Any]

SPLITS = ("train", "validation", "test")

__all__ = [
    "SPLITS",
    "Augment",
    "Call",
    "Loss",
    "Outputs",
    "Sample",
    "Score",
    "as_outputs",
    "calibrated",
    "check_runs",
    "class_scores",
    "copied",
    "evaluating",
    "named_layers",
    "noting",
    "observing",
    "put_state",
    "same",
    "shared_copy",
    "state_digest",
    "tensors_of",
    "top1",
    "unfused_attention",
    "untrained_copy",
    "without_numbers",
]


def top1(outputs: Any, targets: Tensor) -> float:
    """Top-1 accuracy in percent; ``outputs`` (N, classes), ``targets`` (N,).

    Raises:
        ModelError: there are several outputs, they are no class scores, or there are targets beyond the classes.
    """
    outputs = class_scores(outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        given = [tuple(tensor.shape) for tensor in (*tensors_of(outputs), targets)]
        raise ModelError(
            "top-1 accuracy needs one output (N, classes) and targets (N,), these are "
            f"{', '.join(map(str, given[:-1]))} and {given[-1]}; define score(outputs, targets) of your own"
        )
    if (highest := int(targets.max())) >= outputs.shape[1]:
        raise ModelError(
            f"the targets go up to class {highest}, and the model gives {outputs.shape[1]} scores, of classes 0 to "
            f"{outputs.shape[1] - 1}: number the classes from 0, or define score(outputs, targets) of your own"
        )
    return 100 * int((outputs.argmax(1) == targets).sum()) / len(targets)


@dataclass(frozen=True, slots=True)
class Sample:
    """A model, an example of its input and, where given, its data, loss, score and preprocessing.

    Args:
        name: for messages, tables and reports.
        source: what :func:`edgecompress.resolve` gives it for again.
        build: makes the model, its trained weights loaded.
        inputs: an example of what the model is called with: tensors, batch first, in a tuple, a dict by name or any
            other form. Kept are its tensors in a row, floating ones in float32.
        splits: gives the dataset of "train", "validation" or "test", whose items are (input, target); None: no data.
        loss: of the model's outputs and the targets, averaged over the batch; a scalar.
        score: of the same; higher is better. Top-1 accuracy in percent unless given.
        augment: changes a batch of training inputs, by the generator it is given.
        preprocessing: what an app has to do to its input, as JSON, for manifests.
        plan: what ``dense`` was compressed by.
        file: the Python file that the model is defined in.
        dense: what a compressed model was made from.
        outputs: what the model gives, "classes", "tokens" or "values": how errors of it count. None: classes where the
            loss is cross-entropy, else values. Of tokens, cross-entropy and perplexity are loss and score unless given.
        form: how the row of tensors lies in what the model is called with; None: by position. Made of ``inputs``.
        validation_seen: the weights were trained on the validation split too, whose score then flatters.
        unlabelled: inputs to calibrate on where there are no splits, batch first.
        adapters: those that rewrite the model; None: all that it does not notice.
        tested: so many items, at even distances, stand for the test split, and for the validation split; None: all.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    splits: Callable[[str], Dataset[Any]] | None = None
    loss: Loss = field(default=nn.functional.cross_entropy)
    score: Score = field(default=top1)
    augment: Augment | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    plan: CompressionPlan | None = None
    file: Path | None = None
    dense: Sample | None = None
    validation_seen: bool = False
    adapters: tuple[str, ...] | None = None
    form: Form | None = None
    unlabelled: Inputs | None = None
    outputs: OutputKind | None = None
    tested: int | None = None

    def __post_init__(self) -> None:
        """Inputs as a row of tensors, floating ones in float32, in which models run here."""
        self._fill_in()
        if self.form is None:
            form, row = flattened(self.inputs, self.name)
            object.__setattr__(self, "form", form)
            object.__setattr__(self, "inputs", row)
        kinds = {str(given.dtype) for given in self.inputs if given is not single(given)}
        if kinds:
            notice(f"{self.name}: its example in {', '.join(sorted(kinds))} is taken in float32".replace("torch.", ""))
            object.__setattr__(self, "inputs", tuple(map(single, self.inputs)))

    def _fill_in(self) -> None:
        """Loss and score of tokens where none is given."""
        if self.outputs is None:
            return
        checked_kind(self.outputs, self.name)
        if self.outputs == "tokens" and self.loss is nn.functional.cross_entropy:
            object.__setattr__(self, "loss", token_loss)
        if self.outputs == "tokens" and self.score is top1:
            object.__setattr__(self, "score", PERPLEXITY)

    @property
    def kind(self) -> OutputKind:
        """What the outputs are."""
        return self.outputs or ("classes" if self.loss is nn.functional.cross_entropy else "values")

    @property
    def metric(self) -> dict[str, str]:
        """Name and unit of the score: accuracy in percent, or a score of the user's own, which may have a name."""
        if isinstance(self.score, SummedScore):
            return {"name": self.score.name, "unit": self.score.unit}
        ours = self.score is top1
        return {"name": "accuracy" if ours else "score", "unit": " %" if ours else ""}

    def model(self) -> nn.Module:
        """Build the model, in eval mode, and prove that it runs on its example, and alike each time.

        Raises:
            ModelError: it cannot be built, is no ``nn.Module`` or a sealed one, does not run, gives NaN, or other
                outputs each time.
        """
        model = self.built()
        check_steady(model, self.inputs, self.name, check_runs(model, self.inputs, self.name))
        return model

    def built(self) -> nn.Module:
        """The model in eval mode, without wrappers and in float32, rewritten by its adapters, not yet proved to run.

        Raises:
            ModelError: it cannot be built, is no ``nn.Module``, or one whose layers cannot be reached.
        """
        model = self.flat(accepted(call(self.name, "model()", self.build), self.name, defined(self.build))).eval()
        return adapted_for(model, self.inputs, self.name) if self.adapters is None else adapted(model, self.adapters)

    def flat(self, model: nn.Module) -> nn.Module:
        """``model`` as it takes the row ``inputs``; itself where it does."""
        return model if self.form is None or hasattr(model, "form") else flat(model, self.form)

    def data(self, split: str) -> Dataset[Any]:
        """One of the splits ``train``, ``validation``, ``test``; of the last two the items that are to be ``tested``.

        Raises:
            DataError: the sample has no data, or it is not where it should be.
        """
        found = self._split(split)
        if split == "train" or self.tested is None:
            return found
        return replace(found, dataset=Part.spread(found.dataset, self.tested))

    def scored_on(self, count: int | None) -> Sample:
        """With so many items to be ``tested``, as what it was made from; None: itself."""
        return self if count is None else replace(self, tested=count, dense=self.dense and self.dense.scored_on(count))

    def _split(self, split: str) -> Split:
        """All of it."""
        if self.splits is None:
            raise DataError(
                f"{self.name}: has no data; define `def data(split): ...` beside model() to train or score it"
            )
        splits, what = self.splits, f"data({split!r})"
        dataset = call(self.name, what, lambda: splits(split), DataError)
        if isinstance(dataset, Split):
            return dataset
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{self.name}: {what}{defined(splits)} gave a {type(dataset).__name__}; a dataset with length and "
                "indexing was expected"
            )
        if not call(self.name, f"the length of {what}", lambda: len(dataset), DataError):
            raise DataError(f"{self.name}: {what}{defined(splits)} must give a non-empty dataset; it has no items")
        return Split(self.name, f"{what}{defined(splits)}", dataset, self.form)
