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
import re  # noqa: E402
from pathlib import Path  # noqa: E402

HERE, RUNNER = Path(os.path.realpath(__file__)).parent, os.path.basename(os.path.realpath(__file__))
MANIFEST = "manifest.json"
KIND, VERSION = "edgecompress.bundle", 2
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]*(/[A-Za-z0-9_][A-Za-z0-9_.+@=-]*)*")  # of a file here, as a whole
LONGEST_PATH, MOST_FILES, LARGEST_BYTES = 200, 2000, 1 << 24
ROLES = ("model", "golden", "labels", "runtime", "code", "text")
ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
              "bool": 1}  # fmt: skip
COLORS, RESIZES, INTERPOLATIONS = ("gray", "RGB", "BGR"), ("none", "stretch", "centre-crop"), ("nearest", "bilinear")
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
    file = HERE / MANIFEST
    try:
        if file.is_symlink():
            fail("%s is a link" % MANIFEST, 2)
        if file.stat().st_size > LARGEST_BYTES:
            fail("%s has more than %d bytes, which no manifest needs" % (MANIFEST, LARGEST_BYTES), 2)
        manifest = json.loads(file.read_text(encoding="utf-8"), parse_constant=no_number)
    except (OSError, ValueError, RecursionError) as error:
        fail("%s cannot be read: %s" % (MANIFEST, error), 2)
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND or repr(manifest.get("version")) != str(VERSION):
        malformed("its kind and version are not %s and %d" % (KIND, VERSION))
    files = listed(manifest)
    try:
        check_fields(manifest, files)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        malformed("%s %s" % (type(error).__name__, error))
    if manifest["runner"] != RUNNER:
        malformed("runner is not %s" % RUNNER)
    check_files(files, given)
    return manifest


def no_number(name):
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError("%s is no JSON number" % name)


def listed(manifest):
    """The files by path."""
    entries = manifest.get("files")
    if not isinstance(entries, list) or not entries or len(entries) > MOST_FILES:
        malformed("files is no list of 1 to %d files" % MOST_FILES)
    files, seen = {}, set()
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if not is_path(path) or path.lower() == MANIFEST:
            malformed("files: %r is not the path of a file in this folder" % (path,))
        if path.lower() in seen:
            malformed("files: %r is listed twice" % path)
        check_entry(entry, path)
        files[path] = entry
        seen.add(path.lower())
    if not seen.isdisjoint(folders_of(seen)):
        malformed("files: one lies in a file")
    return files


def check_entry(entry, path):
    """Prove that an entry has a digest, a size and a role."""
    digest, size = entry.get("sha256"), entry.get("size_bytes")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest) or not is_count(size):
        malformed("files: %s has no sha256 or no size_bytes" % path)
    if entry.get("role") not in ROLES:
        malformed("files: %s has no role" % path)


def folders_of(paths):
    """The folders that paths lie in."""
    return {"/".join(path.split("/")[:count]) for path in paths for count in range(1, path.count("/") + 1)}


def is_path(value):
    """Whether this is the path of a file in this folder."""
    return isinstance(value, str) and len(value) <= LONGEST_PATH and PATH.fullmatch(value) is not None


def is_count(value, least=0):
    """Whether this is a whole number of at least so much."""
    return type(value) is int and value >= least


def is_number(value):
    """Whether this is a finite number."""
    return type(value) in (int, float) and abs(value) < float("inf")


def check_fields(manifest, files):
    """Prove the types of what is used of the manifest, and that it names what it lists."""
    if not is_number(manifest["tolerance"]) or not 0 < manifest["tolerance"] <= 1:
        malformed("tolerance is no fraction")
    if not isinstance(manifest["model"], str):
        malformed("model is no name")
    check_role(files, manifest["model_file"], "model", "model_file")
    check_role(files, manifest["runner"], "code", "runner")
    if not isinstance(manifest["golden"], dict):
        malformed("golden is no object")
    for side in ("inputs", "outputs"):
        check_specs(manifest[side], side)
        check_tensors(manifest["golden"][side], manifest[side], files, "golden: %s" % side)
    for spec in manifest["outputs"]:
        if spec["labels"] is not None:
            check_role(files, spec["labels"], "labels", "labels")
    check_preprocessing(manifest["inputs"][0])
    if manifest["golden"]["image"] is not None:
        check_image(manifest, files)


def check_specs(specs, side):
    """Prove that inputs or outputs have names, dtypes and shapes."""
    if not isinstance(specs, list) or not specs or not all(map(is_spec, specs)):
        malformed("%s is no list of at least one tensor with name, dtype and shape" % side)
    if len({spec["name"] for spec in specs}) != len(specs):
        malformed("%s has a name twice" % side)


def check_role(files, path, role, what):
    """Prove that a file that is named is listed, as what it is named for."""
    if not isinstance(path, str) or path not in files or files[path]["role"] != role:
        malformed("%s %r is none of the files with the role %s" % (what, path, role))


def is_spec(spec):
    """Whether this is a tensor's name, dtype and shape, of sizes or names of sizes."""
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or spec.get("dtype") not in ITEM_BYTES:
        return False
    shape = spec.get("shape")
    return isinstance(shape, list) and all(is_count(size, 1) or isinstance(size, str) for size in shape)


def check_tensors(tensors, specs, files, what):
    """Prove that raw files are those of all inputs or outputs, in order, and of their sizes."""
    if not isinstance(tensors, list) or not all(map(is_spec, tensors)):
        malformed("%s is no list of tensors with name, path, dtype and shape" % what)
    if [tensor["name"] for tensor in tensors] != [spec["name"] for spec in specs]:
        malformed("%s are not those of the model" % what)
    for tensor, spec in zip(tensors, specs):
        check_tensor(tensor, files, what)
        sizes = zip(tensor["shape"], spec["shape"])
        same = len(tensor["shape"]) == len(spec["shape"]) and tensor["dtype"] == spec["dtype"]
        if not same or any(own != size for own, size in sizes if isinstance(size, int)):
            malformed("%s: %s has not the dtype and shape of the model" % (what, tensor["name"]))


def check_tensor(tensor, files, what):
    """Prove that a raw file is listed and has as many bytes as its shape needs."""
    if not is_spec(tensor) or not all(is_count(size, 1) for size in tensor["shape"]):
        malformed("%s: %r is no tensor with name, path, dtype and shape" % (what, tensor))
    check_role(files, tensor["path"], "golden", what)
    size = ITEM_BYTES[tensor["dtype"]]
    for side in tensor["shape"]:
        size *= side
    if files[tensor["path"]]["size_bytes"] != size:
        malformed("%s: %s has not the bytes of its shape" % (what, tensor["path"]))


def check_preprocessing(spec):
    """Prove that what is done to an image is known, and gives the model's input."""
    steps = spec["preprocessing"]
    if steps is None:
        return
    known = steps["color"] in COLORS and steps["resize"] in RESIZES and steps["interpolation"] in INTERPOLATIONS
    if not known or spec["layout"] not in ("NCHW", "NHWC"):
        malformed("preprocessing: color, resize, interpolation or layout is not known")
    channels = 1 if steps["color"] == "gray" else 3
    several = [steps["mean"], steps["std"]]
    if not all(isinstance(one, list) and len(one) == channels for one in several):
        malformed("preprocessing: mean and std are not lists of a number for each of %d channels" % channels)
    if not all(map(is_number, [steps["scale"], *steps["mean"], *steps["std"]])):
        malformed("preprocessing: scale, mean or std is no finite number")
    if not steps["scale"] or not all(steps["std"]):
        malformed("preprocessing: scale or std is 0")
    if not is_size(steps["size"]) or spec["dtype"] != "float32" or len(spec["shape"]) != 4:
        malformed("preprocessing: size is not height and width of an image of float32")
    if any(own != size for own, size in zip(laid(spec, steps["size"]), spec["shape"][1:]) if isinstance(size, int)):
        malformed("preprocessing: size and channels are not those of the model's input")


def is_size(value):
    """Whether this is height and width."""
    return isinstance(value, list) and len(value) == 2 and all(is_count(side, 1) for side in value)


def laid(spec, size):
    """The shape of one image of a height and width, without the batch."""
    channels = 1 if spec["preprocessing"]["color"] == "gray" else 3
    return [*size, channels] if spec["layout"] == "NHWC" else [channels, *size]


def check_image(manifest, files):
    """Prove that the golden image is one of the model."""
    image, spec = manifest["golden"]["image"], manifest["inputs"][0]
    if spec["preprocessing"] is None or not is_number(image["tolerance"]) or not 0 < image["tolerance"] <= 1:
        malformed("image: has no tolerance, or the first input no preprocessing")
    check_role(files, image["png"], "golden", "image")
    size = spec["preprocessing"]["size"]
    check_pair(image, spec, size, files)
    if image["pixels"]["shape"][:2] != size:
        malformed("image: pixels are not of the input's size")
    if image["resized"] is not None:
        check_pair(image["resized"], spec, image["resized"]["size"], files)
    if image["outputs"] != []:
        check_tensors(image["outputs"], manifest["outputs"], files, "image: outputs")


def check_pair(pair, spec, size, files):
    """Prove that pixels and what is prepared of them are tensors of a size."""
    if not is_size(size):
        malformed("image: resized has no size")
    for key in ("pixels", "prepared"):
        check_tensor(pair[key], files, "image: %s" % key)
    own, channels = pair["pixels"]["shape"], len(spec["preprocessing"]["mean"])
    if pair["pixels"]["dtype"] != "uint8" or len(own) != 3 or own[2] != channels:
        malformed("image: pixels are not bytes of the input's channels")
    if pair["prepared"]["dtype"] != "float32" or pair["prepared"]["shape"] != [1, *laid(spec, size)]:
        malformed("image: prepared has not the shape of the input")


def check_files(files, given):
    """Prove that what is listed is here and whole, and that nothing else is here but the input."""
    for path, entry in files.items():
        file = HERE / path
        links = [part for part in (file, *file.parents) if HERE in part.parents and part.is_symlink()]
        if links or not file.is_file():
            fail("%s is missing, or is a link; copy the whole folder" % path, 2)
        if file.stat().st_size != entry["size_bytes"] or digest_of(file) != entry["sha256"]:
            fail("%s was changed or damaged: its size or sha256 differs from the manifest's" % path)
    for path, entry in entries_in(HERE, folders_of(files)):
        known = path in files or path == MANIFEST or entry.name in IGNORED
        if not known and not (given and os.path.realpath(given) == str(entry)):
            fail("%s is not listed in the manifest; move it out of this folder" % path, 2)


def entries_in(folder, folders, above=""):
    """What lies here and in the folders that files are listed in; other folders themselves."""
    for entry in sorted(folder.iterdir()):
        path = above + entry.name
        if path in folders and entry.is_dir():
            yield from entries_in(entry, folders, path + "/")
        else:
            yield path, entry


def digest_of(file):
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(str(file), "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


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


def read_tensor(tensor):
    """A raw file: its numbers, little-endian, and nothing else."""
    import numpy as np

    kind = np.dtype(tensor["dtype"])
    array = np.fromfile(str(HERE / tensor["path"]), kind.newbyteorder("<")).astype(kind).reshape(tensor["shape"])
    if has_nan(array):
        fail("%s holds NaN, which proves nothing" % tensor["path"], 2)
    return array


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
    golden = manifest["golden"]
    return differences(session, {one["name"]: read_tensor(one) for one in golden["inputs"]}, golden["outputs"])


def differences(session, feed, tensors):
    """How far the worst output for ``feed`` is from its raw file."""
    found = run(session, feed)
    return max(difference(one["name"], found[one["name"]], read_tensor(one)) for one in tensors)


def check_image_answers(manifest, session):
    """Pixels become the prepared input, and that the answer; None where the model takes no image."""
    image, spec = manifest["golden"]["image"], manifest["inputs"][0]
    if image is None:
        return None
    worst = 0.0
    for pair, size in ((image, None), (image["resized"], (image["resized"] or {}).get("size"))):
        if pair is not None:
            ours = prepare(read_tensor(pair["pixels"]), spec, size)
            worst = max(worst, difference("the prepared image", ours, read_tensor(pair["prepared"])))
    if not worst <= image["tolerance"]:
        fail("the golden image is prepared with an error of %.2e (allowed %.0e)" % (worst, image["tolerance"]))
    if image["outputs"]:
        off = differences(session, {spec["name"]: prepare(read_tensor(image["pixels"]), spec)}, image["outputs"])
        if not off <= manifest["tolerance"]:
            fail("the golden image's answer differs by %.2e (allowed %.0e)" % (off, manifest["tolerance"]))
    return worst


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


def prepare(array, spec, size=None):
    """A bytes image as the network's input by the input's preprocessing; anything else unchanged.

    In double precision and rounded once, as in every other language.
    """
    import numpy as np

    steps = spec["preprocessing"]
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        return array
    if steps is None:
        fail("an image cannot be prepared: the manifest has no preprocessing")
    image = np.atleast_3d(array)[:, :, :3].astype(np.int64)
    if steps["color"] == "gray" and image.shape[2] == 3:
        image = (image.dot([19595, 38470, 7471]) + 32768)[:, :, None] >> 16
    elif steps["color"] != "gray" and image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    if image.shape[2] != len(steps["mean"]):
        fail("an image has 1, 3 or 4 channels", 2)
    image = image[:, :, ::-1] if steps["color"] == "BGR" else image
    image = resize(image.astype(np.float64), tuple(size or steps["size"]), steps)
    image = (image * steps["scale"] - np.array(steps["mean"])) / np.array(steps["std"])
    return np.ascontiguousarray((image if spec["layout"] == "NHWC" else image.transpose(2, 0, 1))[None], np.float32)


def resize(image, size, steps):
    """An image in another height and width: all of it, or as much of its middle as has the proportions."""
    import numpy as np

    given = part = image.shape[:2]
    if steps["resize"] == "none":
        if given != size:
            fail("the image is %d x %d, the model takes %d x %d" % (given + size), 2)
        return image
    if steps["resize"] == "centre-crop":
        factor = min(given[0] / size[0], given[1] / size[1])
        part = (size[0] * factor, size[1] * factor)
    nearest = steps["interpolation"] == "nearest"
    rows, columns = (weights(*sides, nearest=nearest) for sides in zip(given, part, size))
    return np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True)


def weights(whole, part, wanted, nearest):
    """How much each of ``whole`` pixels of a side counts for each of ``wanted``, which span ``part`` in its middle."""
    import numpy as np

    step = part / wanted
    centres = (whole - part) / 2 + (np.arange(wanted) + 0.5) * step
    if nearest:
        return np.eye(whole)[np.clip(np.floor(centres).astype(int), 0, whole - 1)]
    found = np.maximum(0, 1 - np.abs(np.arange(whole) + 0.5 - centres[:, None]) / max(step, 1.0))
    return found / found.sum(1, keepdims=True)


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
        prepared = prepare(given, spec)
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
    path = manifest["outputs"][0]["labels"]
    labels = [] if path is None else (HERE / path).read_text(encoding="utf-8").splitlines()
    if output.ndim != 2 or output.shape[1] != len(labels):
        return None
    return [labels[index] for index in output.argmax(1)]


def as_json(values):
    """Lists of numbers as JSON has them: infinity, which it has not, as text."""
    if isinstance(values, list):
        return [as_json(value) for value in values]
    return str(values) if values in (float("inf"), float("-inf")) else values


def checked(manifest, session):
    """What the check found, once model and image answered as they must."""
    worst = check_golden(manifest, session)
    if not worst <= manifest["tolerance"]:
        fail("the golden pair differs by %.2e of the output's scale (allowed %.0e)" % (worst, manifest["tolerance"]))
    prepared = check_image_answers(manifest, session)
    return {"model": manifest["model"], "golden": "ok", "max_relative_error": worst, "image_error": prepared}


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
    result = checked(manifest, session)
    if options.input:
        result.update(answer(manifest, session, options.input))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
