"""Ways to keep weights in few bytes: ``CODECS`` names them, and the format of the file of codes."""

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
