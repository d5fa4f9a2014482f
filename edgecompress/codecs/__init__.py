"""ADA-Tucker's two ways to keep weights in few bytes: ``CODECS`` names them; and the format of the file of codes.

The table is closed. A codec of another kind would not be one file: what a weight is made of is known to the file of
codes (``payload``), to the nodes that unpack it in a .onnx (``targets/onnx/codes``), to training (``storing``) and to
the check of a plan's core (``decomposing``), each of which would be written anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompress.tables import Table

if TYPE_CHECKING:
    from edgecompress.codecs.ada_tucker import Codec

CODECS: Table[Codec] = Table(
    "edgecompress.codecs",
    ada_tucker="ada_tucker:ADA_TUCKER",
    scada_tucker="ada_tucker:SCADA_TUCKER",
)
