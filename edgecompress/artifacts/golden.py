"""The golden pair: inputs and what PyTorch gives for them, for checks on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.errors import FileError
from edgecompress.files import written_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[np.generic]"]
"""By tensor name."""


def write_golden(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write inputs and expected outputs into one .npz, keys ``input:NAME`` and ``output:NAME``."""
    import numpy as np

    arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    with written_aside(path) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_golden(path: Path) -> tuple[Arrays, Arrays]:
    """The inverse of :func:`write_golden`.

    Raises:
        FileError: missing or not such a file.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: no readable golden pair ({error}); export the model again") from None
    parts = ("input:", "output:")
    inputs, outputs = ({k.removeprefix(p): a for k, a in arrays.items() if k.startswith(p)} for p in parts)
    return inputs, outputs
