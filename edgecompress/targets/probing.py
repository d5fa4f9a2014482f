"""The first step of an export, tried before anything else is done: can the model be traced at all?"""

from __future__ import annotations

from edgecompress.codecs.ada_tucker import materialized
from edgecompress.targets.base import Job, Target
from edgecompress.targets.child_converter import program_of
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.refusing import naming


def probe(target: Target, job: Job) -> None:
    """Make what ``target``'s file is made from: the program, or the checked graph. ``job.shared`` keeps it.

    Raises:
        ExportError: the model cannot be exported.
        BatchError: not for batches of any size.
    """
    with naming(target.name):
        if target.made_from == "program":
            program_of(job)
        else:
            maker = target if isinstance(target, Onnx) else Onnx()
            maker.graph_of(materialized(job.model), job)
