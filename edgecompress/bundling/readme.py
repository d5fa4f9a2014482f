"""The README of a bundle: what it is, what it weighs beside its runtime, how it is checked, what was proved where."""

from __future__ import annotations

from collections.abc import Iterator

from edgecompress.manifests import Input, Manifest
from edgecompress.reporting.numbers import bytes_text

README = "README.md"


def readme_text(manifest: Manifest, model_bytes: int, check: str) -> str:
    """Markdown, the same for the same manifest."""
    return "\n".join(_lines(manifest, model_bytes, check)) + "\n"


def _lines(manifest: Manifest, model_bytes: int, check: str) -> Iterator[str]:
    yield f"# {manifest.model} for {manifest.platform}"
    yield ""
    yield f"`{manifest.model_file}` ({manifest.target}, {manifest.precision}), and what checks it where it runs."
    yield f"{check[:1].upper()}{check[1:]}."
    yield "`manifest.json` lists every file with its SHA-256; one that is not listed is an error."
    yield ""
    yield "## Size"
    yield ""
    yield from _sizes(manifest, model_bytes)
    yield ""
    yield "## Inputs and outputs"
    yield ""
    yield "| tensor | dtype | shape | |"
    yield "|---|---|---|---|"
    for one in manifest.inputs:
        yield f"| `{one.name}` | {one.dtype} | {_shape(one.shape)} | {_steps(one)} |"
    for out in manifest.outputs:
        labels = f", named in `{out.labels}`" if out.labels else ""
        yield f"| `{out.name}` | {out.dtype} | {_shape(out.shape)} | {out.kind}{labels} |"
    yield ""
    yield from _proved(manifest)
    yield ""
    yield "## Licences"
    yield ""
    yield f"Model: {manifest.licences.model or 'not known'}. "
    yield f"Runtime in this bundle: {manifest.licences.runtime or 'none, it is installed apart'}."


def _sizes(manifest: Manifest, model_bytes: int) -> Iterator[str]:
    runtime = manifest.runtime
    yield "| | bytes | compressed | version | source |"
    yield "|---|---:|---:|---|---|"
    yield f"| the model | {model_bytes:,} | | | |"
    sizes = (runtime.library_bytes, runtime.library_bytes_compressed)
    shown = " | ".join("not known" if size is None else f"{size:,}" for size in sizes)
    words = " | ".join(word or "not known" for word in (runtime.tested, runtime.source))
    yield f"| {runtime.name}, which runs it | {shown} | {words} |"
    if runtime.library_bytes:
        times = runtime.library_bytes / model_bytes
        yield ""
        yield (
            f"An app grows by the model ({bytes_text(model_bytes)}) and by its runtime "
            f"({bytes_text(runtime.library_bytes)}, {times:,.1f} times as much)."
        )


def _shape(shape: tuple[int | str, ...]) -> str:
    return " x ".join(map(str, shape))


def _steps(one: Input) -> str:
    steps = one.preprocessing
    if steps is None:
        return ""
    height, width = steps.size
    return (
        f"{one.layout}, {height} x {width} {steps.color}, resize {steps.resize}, {steps.interpolation}; "
        f"times {steps.scale:.6g}, less {list(steps.mean)}, by {list(steps.std)}"
    )


def _proved(manifest: Manifest) -> Iterator[str]:
    yield "## Proved"
    yield ""
    verified = manifest.verified
    for what, entries in (
        ("compiled with", verified.compiled_with),
        ("run on", verified.run_on),
        ("not run", verified.not_run),
    ):
        yield f"- {what}: {'; '.join(entries) or 'nothing'}"
    yield f"- outputs within {manifest.tolerance:g} of PyTorch's largest, on the golden inputs"
