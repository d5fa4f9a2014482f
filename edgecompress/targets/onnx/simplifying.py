"""onnxsim's version of a graph, where it is one and the same but smaller."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgecompress.artifacts import Arrays
from edgecompress.plans import CompressionPlan
from edgecompress.targets.onnx.graphs import broken_chains, check_header, small_feed
from edgecompress.targets.onnx.sessions import session
from edgecompress.targets.quieting import quiet

if TYPE_CHECKING:
    import onnx


def simplified(
    proto: onnx.ModelProto, plan: CompressionPlan | None, opset: int, ir_version: int
) -> onnx.ModelProto | None:
    """onnxsim's result if it is valid, computes the same, and neither adds nodes nor loses names; else None."""
    import onnxsim

    try:
        with quiet():
            simpler: onnx.ModelProto
            simpler, valid = onnxsim.simplify(proto)
            del simpler.metadata_props[:]
        if not valid or not _is_simpler(simpler, proto) or not _agree(proto, simpler):
            return None
        if broken_chains(simpler, plan) != broken_chains(proto, plan):
            return None
        check_header(simpler, opset, ir_version)
    except Exception:  # an optional improvement: whatever stops it, the unsimplified model stands
        return None
    return simpler


def _is_simpler(simplified: onnx.ModelProto, proto: onnx.ModelProto) -> bool:
    """No more nodes of any kind, no node under a name of its own, no larger file."""
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (proto, simplified))
    names = {node.name for node in proto.graph.node}
    named = all(node.name in names for node in simplified.graph.node)
    return named and after <= before and simplified.ByteSize() <= proto.ByteSize() * 1.01 + 1024


def _agree(proto: onnx.ModelProto, simplified: onnx.ModelProto) -> bool:
    """Whether two models compute the same on a small feed."""
    import numpy as np

    feed = small_feed(proto)
    before, after = (_run_bytes(model.SerializeToString(), feed) for model in (proto, simplified))
    return all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before)


def _run_bytes(model: bytes, feed: Arrays) -> Arrays:
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feed), strict=True))
