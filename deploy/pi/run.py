"""Check this bundle on the machine it is to run on, and run it on your own input.

    python run.py                       every file is whole, and the model answers as PyTorch did
    python run.py --input array.npy     one prepared input, or one image (uint8, height x width x channels)

The manifest must list every file here, but for itself and the one given as --input. NaN is no answer. Needs Python 3.8,
numpy and onnxruntime. Exit code 0: the check passed; 1: it failed; 2: a file is missing, malformed or not expected.
"""

import os
import sys

# Nothing that lies here is imported in place of a library.
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != os.path.dirname(os.path.realpath(__file__))]

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

HERE, RUNNER = Path(os.path.realpath(__file__)).parent, os.path.basename(os.path.realpath(__file__))
MANIFEST = "manifest.json"
KIND, VERSION = "edgecompress.bundle", 1
IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")  # what systems leave behind
DTYPES = {"float": "float32", "double": "float64"}  # as ONNX Runtime calls them; all others are called alike


def fail(message, code=1):
    """Say what is wrong, in one line, and stop."""
    text = " ".join(str(message).split())
    print("run.py: " + "".join(c if c.isprintable() else "?" for c in text)[:500], file=sys.stderr)
    raise SystemExit(code)


def malformed(what):
    """Stop: the manifest lacks what it must have."""
    fail("%s is malformed: %s; make the bundle again" % (MANIFEST, what), 2)


# -- manifest and files --------------------------------------------------------------------------------------------


def read_manifest(given):
    """The manifest, once it has all it must and every file here has been found listed and whole."""
    try:
        if (HERE / MANIFEST).is_symlink():
            fail("%s is a link" % MANIFEST, 2)
        manifest = json.loads((HERE / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fail("%s cannot be read: %s" % (MANIFEST, error), 2)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND or repr(manifest.get("version")) != str(VERSION):
        malformed("its kind and version are not %s and %d" % (KIND, VERSION))
    check_fields(manifest)
    digests = listed(manifest)
    for role in ("model_file", "golden_file", "runner"):
        if not isinstance(manifest.get(role), str) or manifest[role] not in digests:
            malformed("%s is none of the files it lists" % role)
    if manifest["runner"] != RUNNER:
        malformed("runner is not %s" % RUNNER)
    check_files(digests, given)
    return manifest


def check_fields(manifest):
    """Prove the types of what is used of the manifest, files apart."""
    tolerance = manifest.get("tolerance")
    if type(tolerance) not in (int, float) or not 0 < tolerance <= 1:
        malformed("tolerance is no fraction")
    if not isinstance(manifest.get("model"), str):
        malformed("model is no name")
    if not isinstance(manifest.get("preprocessing"), dict):
        malformed("preprocessing is no object")
    for side in ("inputs", "outputs"):
        specs = manifest.get(side)
        if not isinstance(specs, list) or not specs or not all(map(is_spec, specs)):
            malformed("%s is no list of at least one tensor with name, dtype and shape" % side)
        if len({spec["name"] for spec in specs}) != len(specs):
            malformed("%s has a name twice" % side)


def is_spec(spec):
    """Whether this is a tensor's name, dtype and shape, of sizes or names of sizes."""
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or not isinstance(spec.get("dtype"), str):
        return False
    shape = spec.get("shape")
    return isinstance(shape, list) and all(size is None or type(size) in (int, str) for size in shape)


def listed(manifest):
    """The digests of all files by name."""
    entries = manifest.get("files")
    if not isinstance(entries, list) or not entries:
        malformed("files is no list of at least one file")
    digests = {}
    for entry in entries:
        name, digest = (entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(digest, str):
            malformed("a file has no path or no sha256")
        if name in ("", ".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
            malformed("%r is not the name of a file in this folder" % name)
        if name in digests:
            malformed("%r is listed twice" % name)
        digests[name] = digest
    return digests


def check_files(digests, given):
    """Prove that what is listed is here and whole, and that nothing else is here but the input."""
    for name, digest in digests.items():
        file = HERE / name
        if file.is_symlink() or not file.is_file():
            fail("%s is missing, or is a link; copy the whole folder" % name, 2)
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            fail("%s was changed or damaged: its sha256 differs from the manifest's" % name)
    for entry in sorted(HERE.iterdir()):
        known = entry.name in digests or entry.name == MANIFEST or entry.name in IGNORED
        if not known and not (given and os.path.realpath(given) == str(entry)):
            fail("%s is not listed in the manifest; move it out of this folder" % entry.name, 2)


# -- the model -----------------------------------------------------------------------------------------------------


def open_session(manifest, threads):
    """The model, loaded by ONNX Runtime, which from 1.29 on would report to its vendor."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        fail("onnxruntime is not installed; run: pip install -r requirements.txt", 2)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(HERE / manifest["model_file"]), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # a runtime may raise anything for a file it cannot read
        fail("%s does not load: %s" % (manifest["model_file"], error))
    check_signature(manifest["inputs"], session.get_inputs(), "inputs")
    check_signature(manifest["outputs"], session.get_outputs(), "outputs")
    return session


def check_signature(specs, values, side):
    """Prove that the manifest declares the model's inputs or outputs, all of them, in order."""
    declared = [(spec["name"], dtype_of(spec["dtype"]), free(spec["shape"])) for spec in specs]
    own = [(value.name, dtype_of(value.type), free(value.shape)) for value in values]
    if declared != own:
        malformed("%s %s are not the model's %s" % (side, declared, own))


def dtype_of(kind):
    """``float32`` of ``tensor(float)`` or of itself."""
    inner = kind[len("tensor(") : -1] if kind.startswith("tensor(") else kind
    return DTYPES.get(inner, inner)


def free(shape):
    """The sizes; None for those that are free."""
    return [size if isinstance(size, int) else None for size in shape]


def run(session, feed):
    """All outputs by name."""
    names = [value.name for value in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feed)))
    except Exception as error:  # a runtime may raise anything
        fail("the model does not run: %s" % error)


def read_golden(manifest):
    """The golden inputs and outputs by name: those of the manifest, all of them, with numbers in them."""
    import numpy as np

    try:
        with open(str(HERE / manifest["golden_file"]), "rb") as stream:
            golden = np.load(stream, allow_pickle=False)
            arrays = {key: golden[key] for key in golden.files}
    except Exception as error:  # whatever numpy raises for a file that is none
        fail("%s cannot be read: %s" % (manifest["golden_file"], error), 2)
    wanted = {"%s:%s" % (side, spec["name"]): spec for side in ("input", "output") for spec in manifest[side + "s"]}
    if set(arrays) != set(wanted):
        fail("%s holds %s, %s was expected" % (manifest["golden_file"], sorted(arrays), sorted(wanted)), 2)
    for key, spec in wanted.items():
        if not fits(arrays[key], spec) or not arrays[key].size or has_nan(arrays[key]):
            fail("%s: %s is not of the model's sizes and type, or holds NaN" % (manifest["golden_file"], key), 2)
    sides = [(side + ":", manifest[side + "s"]) for side in ("input", "output")]
    return ({spec["name"]: arrays[side + spec["name"]] for spec in specs} for side, specs in sides)


def fits(array, spec):
    """Whether an array has a tensor's type and sizes."""
    sizes = free(spec["shape"])
    same = len(sizes) == array.ndim and all(size in (None, own) for size, own in zip(sizes, array.shape))
    return same and array.dtype.name == dtype_of(spec["dtype"])


def has_nan(array):
    """Whether a number is none."""
    import numpy as np

    return array.dtype.kind in "fc" and bool(np.isnan(array).any())


def check_golden(manifest, session):
    """The largest difference from PyTorch's answers on the golden inputs, as a fraction of their scale."""
    feed, expected = read_golden(manifest)
    found = run(session, feed)
    return max(difference(name, found[name], theirs) for name, theirs in expected.items())


def difference(name, ours, theirs):
    """How far an output is from what was expected; infinity must stand where it was expected."""
    import numpy as np

    if ours.shape != theirs.shape:
        fail("output %s has shape %s, %s was expected" % (name, ours.shape, theirs.shape))
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite]) or not np.isfinite(ours[finite]).all():
        fail("the model's output holds NaN or infinity in %s" % name)
    if not finite.any():
        fail("output %s: no finite number was expected, so that nothing is compared" % name)
    ours, theirs = ours[finite], theirs[finite]
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6))


# -- the user's input ----------------------------------------------------------------------------------------------


def prepare(array, manifest):
    """A bytes image as the network's input by the manifest's preprocessing; anything else unchanged."""
    import numpy as np

    steps = manifest["preprocessing"]
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        return array
    missing = [name for name in ("scale", "mean", "std") if name not in steps]
    if missing:
        fail("an image cannot be prepared: the manifest's preprocessing has no %s" % ", ".join(missing))
    image = array.reshape(array.shape[0], array.shape[1], -1).astype(np.float32) * np.float32(steps["scale"])
    image = (image - np.float32(steps["mean"])) / np.float32(steps["std"])
    return image.transpose(2, 0, 1)[None]


def read_input(manifest, file):
    """The user's array, prepared, of the model's type."""
    import numpy as np

    spec = manifest["inputs"][0]
    try:
        with open(file, "rb") as stream:
            given = np.load(stream, allow_pickle=False)
        if not isinstance(given, np.ndarray) or given.dtype.kind not in "biuf":
            raise ValueError("it holds something else")
    except Exception as error:  # whatever numpy raises for a file that is none
        fail("%s: no .npy array of numbers (%s)" % (file, error), 2)
    try:
        prepared = prepare(given, manifest)
    except (TypeError, ValueError) as error:
        fail("%s: cannot be prepared by the manifest's preprocessing: %s" % (file, error), 2)
    array = prepared.astype(dtype_of(spec["dtype"]))
    if has_nan(array):
        fail("%s: holds NaN" % file)
    if array.dtype.kind in "biu" and not np.array_equal(array, prepared):
        fail("%s: holds numbers that %s cannot, which the model takes" % (file, array.dtype.name), 2)
    return array


def answer(manifest, session, file):
    """The model's outputs for the user's input, and the best label if there are labels."""
    if len(manifest["inputs"]) != 1:
        fail("the model takes %d inputs, --input gives one" % len(manifest["inputs"]), 2)
    spec = manifest["inputs"][0]
    array = read_input(manifest, file)
    if not fits(array, spec):
        fail("%s: has shape %s, the model takes %s" % (file, list(array.shape), spec["shape"]), 2)
    outputs = run(session, {spec["name"]: array})
    for name, output in outputs.items():
        if has_nan(output):
            fail("%s: output %s holds NaN" % (file, name))
    first = next(iter(outputs.values()))
    answers = {name: as_json(output.tolist()) for name, output in outputs.items()}
    result = {"output": answers[manifest["outputs"][0]["name"]], "label": best_labels(manifest, first)}
    return result if len(answers) == 1 else dict(result, outputs=answers)


def best_labels(manifest, output):
    """The label with the highest score of each item; None where the output is no score of each label."""
    labels = manifest["preprocessing"].get("labels")
    if not isinstance(labels, list) or output.ndim != 2 or output.shape[1] != len(labels):
        return None
    return [labels[index] for index in output.argmax(1)]


def as_json(values):
    """Lists of numbers as JSON has them: infinity, which it has not, as text."""
    if isinstance(values, list):
        return [as_json(value) for value in values]
    return str(values) if values in (float("inf"), float("-inf")) else values


def main():
    """Check, then answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="a .npy file")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads < 0:
        fail("--threads %d: 0 (the runtime's choice) or more was expected" % options.threads, 2)
    manifest = read_manifest(options.input)
    try:
        import numpy  # noqa: F401
    except ImportError:
        fail("numpy is not installed; run: pip install -r requirements.txt", 2)
    session = open_session(manifest, options.threads)
    worst = check_golden(manifest, session)
    if not worst <= manifest["tolerance"]:
        fail("the golden pair differs by %.2e of the output's scale (allowed %.0e)" % (worst, manifest["tolerance"]))
    result = {"model": manifest["model"], "golden": "ok", "max_relative_error": worst}
    if options.input:
        result.update(answer(manifest, session, options.input))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
