"""Check this bundle on the machine it is to run on, and run it on your own input.

    python run.py                       every file is whole, and the model answers as PyTorch did
    python run.py --input array.npy     one prepared input, or one image (uint8, height x width x channels)

Needs Python 3.8, numpy and onnxruntime. Exit code 0: the check passed; 1: it failed; 2: a file is missing.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def fail(message, code=1):
    """Say what is wrong and stop."""
    print("run.py: " + message, file=sys.stderr)
    raise SystemExit(code)


def read_manifest():
    """The bundle's manifest, once every file it lists has been found whole."""
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail("manifest.json cannot be read: %s" % error, 2)
    for entry in manifest["files"]:
        file = HERE / Path(entry["path"]).name
        if not file.is_file():
            fail("%s is missing; copy the whole folder" % entry["path"], 2)
        if hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            fail("%s was changed or damaged: its sha256 differs from the manifest's" % entry["path"])
    return manifest


def open_session(manifest, threads):
    """The model, loaded by ONNX Runtime, which from 1.29 on would report to its vendor."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        str(HERE / manifest["model_file"]), settings, providers=["CPUExecutionProvider"]
    )


def check_golden(manifest, session):
    """The largest difference from PyTorch's answers on the golden inputs, as a fraction of their scale."""
    with np.load(HERE / manifest["golden_file"], allow_pickle=False) as golden:
        feed = {spec["name"]: golden["input:" + spec["name"]] for spec in manifest["inputs"]}
        expected = [golden["output:" + spec["name"]] for spec in manifest["outputs"]]
    found = session.run([spec["name"] for spec in manifest["outputs"]], feed)
    worst = 0.0
    for ours, theirs in zip(found, expected):
        if ours.shape != theirs.shape:
            fail("the model's output has shape %s, %s was expected" % (ours.shape, theirs.shape))
        if not np.isfinite(ours).all():
            fail("the model's output holds NaN or infinity")
        worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)))
    return worst


def prepare(array, manifest):
    """A bytes image as the network's input by the manifest's preprocessing; anything else unchanged."""
    steps = manifest["preprocessing"]
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        return array
    missing = [name for name in ("scale", "mean", "std") if name not in steps]
    if missing:
        fail("an image cannot be prepared: the manifest's preprocessing has no %s" % ", ".join(missing))
    image = array.reshape(array.shape[0], array.shape[1], -1).astype(np.float32) * steps["scale"]
    image = (image - np.float32(steps["mean"])) / np.float32(steps["std"])
    return image.transpose(2, 0, 1)[None]


def answer(manifest, session, file):
    """The model's output for the user's input, and the best label if there are labels."""
    if len(manifest["inputs"]) != 1:
        fail("the model takes %d inputs, --input gives one" % len(manifest["inputs"]), 2)
    spec = manifest["inputs"][0]
    try:
        given = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        fail("%s: no .npy array of numbers (%s)" % (file, error), 2)
    array = prepare(given, manifest).astype(spec["dtype"])
    fits = array.ndim == len(spec["shape"]) and all(
        size in (own, "batch") or isinstance(size, str) for size, own in zip(spec["shape"], array.shape)
    )
    if not fits:
        fail("%s: has shape %s, the model takes %s" % (file, list(array.shape), spec["shape"]), 2)
    output = session.run(None, {spec["name"]: array})[0]
    labels = manifest["preprocessing"].get("labels")
    best = [labels[index] for index in output.argmax(1)] if labels and output.ndim == 2 else None
    return {"output": output.tolist(), "label": best}


def main():
    """Check, then answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="a .npy file")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    manifest = read_manifest()
    try:
        session = open_session(manifest, options.threads)
    except ImportError:
        fail("onnxruntime is not installed; run: pip install -r requirements.txt", 2)
    worst = check_golden(manifest, session)
    if worst > manifest["tolerance"]:
        fail("the golden pair differs by %.2e of the output's scale (allowed %.0e)" % (worst, manifest["tolerance"]))
    result = {"model": manifest["model"], "golden": "ok", "max_relative_error": worst}
    if options.input:
        result.update(answer(manifest, session, options.input))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
