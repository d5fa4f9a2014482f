"""Emulated cores: every instruction is counted, in the right class, and the same each time."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgecompress.devices.base import DeviceOptions
from edgecompress.devices.emulated import FORM, EmulatedSession, counts_of, parse
from edgecompress.devices.emulated import spec as emulation
from edgecompress.devices.emulated.setup import build_plugin, planned, plugin_api, set_up
from edgecompress.devices.emulated.spec import Emulation, recipe, recipe_folder
from edgecompress.errors import DeviceError, MissingExtra
from edgecompress.exporting import export
from edgecompress.files import write_json
from edgecompress.profiling.instruction_counts import Counts
from edgecompress.sources import resolve
from edgecompress.targets.runtimes import bench_script

needs_emulator = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-aarch64", "gcc"))), reason="needs apt-get install qemu-user gcc"
)
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs apt-get install gcc")

CLASSES = ("vector_fp", "integer_dot", "vector_int", "scalar_fp", "load_store", "branch", "integer", "other")
BASE, HEADERS, ROOM = 0x400000, 120, 0x10000

MARK = (0xD28015A8, 0xD4000001)  # mov x8, #173; svc #0
EXIT = (0xD2800000, 0xD2800BC8, 0xD4000001)  # mov x0, #0; mov x8, #94; svc #0
FOREVER = 0x14000000  # b .
UNDEFINED = 0x00000000
SDOT, FADD, ADD, FMUL_SCALAR, LDR, NOP = 0x4E829420, 0x4E22D420, 0x4E228420, 0x1E220820, 0xF94003E2, 0xD503201F


def loop(times: int, *body: int) -> tuple[int, ...]:
    """Run ``body`` so often: two instructions more each time, and one before."""
    back = -(len(body) + 1) & 0x7FFFF
    return (0xD2800001 | times << 5, *body, 0xF1000421, 0x54000001 | back << 5)  # mov x1; ...; subs x1, x1, #1; b.ne


def program(path: Path, *words: int) -> str:
    """A static ELF for aarch64 with nothing but these instructions, and room to write behind them."""
    code = struct.pack(f"<{len(words)}I", *words)
    size = HEADERS + len(code)
    header = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, ROOM, 0x1000)
    path.write_bytes(header + code)
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> EmulatedSession:
    """A core and the plug-in, and nothing to run there but what a test brings."""
    folder = tmp_path_factory.mktemp("bare, with a comma")
    build_plugin(Emulation(folder).plugin)
    return EmulatedSession("emulated:cortex-a76", "cortex-a76", Emulation(folder), folder)


@needs_emulator
def test_instructions_are_counted_exactly_and_by_class(bare: EmulatedSession, tmp_path: Path) -> None:
    body = (SDOT, FADD, ADD, ADD, FMUL_SCALAR, LDR, NOP)
    file = program(tmp_path / "program", *MARK, *loop(1000, *body), *MARK, FADD, *MARK, *EXIT)
    text, intervals = bare.counted([file], timeout_s=30)
    assert text == ""
    # `mov x1`, `mov x8` of the next mark, and `svc` of the first, which is entered after its mark
    first = dict(zip(CLASSES, (1000, 1000, 2000, 1000, 1000, 1000, 1002, 1001), strict=True))
    second = dict.fromkeys(CLASSES, 0) | {"vector_fp": 1, "integer": 1, "other": 1}
    assert intervals == [first, second]


@needs_emulator
def test_threads_are_counted_all_of_them(bare: EmulatedSession, tmp_path: Path) -> None:
    times = 50_000
    flags = (0xD281E000, 0xF2A000A0)  # mov x0, #0xf00; movk x0, #5, lsl #16: a thread of this process
    place = (0xD2900003, 0xF2A00803)  # mov x3, #0x8000; movk x3, #0x40, lsl #16: free memory
    start = (0x91400461, 0xD2801B88, 0xD4000001)  # add x1, x3, #0x1000; mov x8, #220; svc #0: clone
    work = loop(times, FADD)
    child = (*work, 0xD2800024, 0xF9000064, 0xD2800000, 0xD2800BA8, 0xD4000001)  # ...; str 1 to [x3]; exit
    wait = (0xF9400064, 0xB4FFFFE4)  # ldr x4, [x3]; cbz x4, back
    branch = 0xB5000000 | (len(child) + 1) << 5  # cbnz x0: the parent jumps over the child
    file = program(tmp_path / "threads", *MARK, *flags, *place, *start, branch, *child, *work, *wait, *MARK, *EXIT)
    for _ in range(3):
        _, ((counted),) = bare.counted([file], timeout_s=30)
        assert counted["vector_fp"] == 2 * times


@needs_emulator
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*MARK, FOREVER), "no answer within 1 s"),
        ((*MARK, UNDEFINED), "ended with -"),
        ((), "qemu-aarch64 ended with 1: it wrote nothing"),
    ],
    ids=["hangs", "crashes", "is no program"],
)
def test_a_program_that_hangs_or_crashes_is_an_error_and_leaves_nothing(
    words: Sequence[int], said: str, bare: EmulatedSession, tmp_path: Path
) -> None:
    file = program(tmp_path / "bad", *words)
    if not words:
        Path(file).write_text("garbage")
    before = set(bare.scratch.iterdir())
    with pytest.raises(DeviceError, match=said) as raised:
        bare.counted([file], timeout_s=1)
    assert raised.value.exit_code == 4
    assert set(bare.scratch.iterdir()) == before
    assert not commands_with(file)


def commands_with(text: str) -> list[str]:
    """Processes of this machine that were started with ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] * (text.encode() in path.read_bytes())
        except OSError:
            continue
    return found


@needs_emulator
def test_a_program_sees_none_of_this_machines_variables(
    bare: EmulatedSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_VERSION", "1")  # the emulator would print its version and end
    file = program(tmp_path / "program", *MARK, *EXIT)
    assert bare.run([file], timeout_s=30) == ""
    seen = bare.built.environment(bare.scratch)
    assert "QEMU_VERSION" not in seen
    assert seen["PYTHONHASHSEED"] == "0"
    assert seen["ORT_DISABLE_TELEMETRY"] == "1"


# The runner's answer and the intervals, put together.


def test_the_first_inference_is_dropped_and_the_least_one_gives_the_mix() -> None:
    answer = {"intervals": ["load", "input", "run", "run", "run"]}
    intervals = [{"vector_fp": total, "integer": 1} for total in (500, 7, 90, 32, 30)]
    (found,) = counts_of(answer, intervals, "cortex-a53")
    assert found == Counts("cortex-a53", (33, 31), {"vector_fp": 30, "integer": 1}, 501)
    assert found.least == 31


def test_models_counted_in_one_process_are_told_apart() -> None:
    one = ["load", "input", "run", "run"]
    intervals = [{"integer": count} for count in (50, 1, 9, 3, 1000, 60, 2, 8, 4)]
    found = counts_of({"intervals": [*one, "between", *one]}, intervals, "cortex-a53")
    assert [(counts.per_inference, counts.load) for counts in found] == [((3,), 50), ((4,), 60)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["load", "input", "run"], "fewer than two"),
        (["load", "run", "load"], "fewer than two"),
        (["load", "run"], "3 intervals were counted"),
        ("load", "load"),
        (None, "None"),
    ],
)
def test_an_answer_that_does_not_match_the_marks_is_refused(names: object, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        counts_of({"intervals": names}, [{"integer": 1}] * 3, "cortex-a76")


# Names, plans and what is missing.


def test_only_the_cores_of_the_recipe_have_a_name() -> None:
    assert "|".join(recipe().cores) == FORM
    assert parse("neoverse-n1", DeviceOptions()).name == "emulated:neoverse-n1"
    assert parse("neoverse-n1", DeviceOptions()).provenance == "emulated"
    with pytest.raises(
        DeviceError, match="'cortex-m4' is unknown; there are cortex-a53, cortex-a72, cortex-a76, neoverse-n1"
    ):
        parse("cortex-m4", DeviceOptions())


def test_the_core_that_has_every_feature_is_refused() -> None:
    with pytest.raises(
        DeviceError, match="'max' is no core but every feature the emulator knows; there are cortex-a53"
    ):
        parse("max", DeviceOptions())


def test_options_of_other_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="--remote-python is of no use"):
        parse("cortex-a76", DeviceOptions(remote_python="/usr/bin/python3"))


def test_a_device_that_was_not_set_up_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    assert not emulation.is_installed()
    device = parse("cortex-a76", DeviceOptions())
    with (
        pytest.raises(DeviceError, match="not set up; run `edgecompress doctor --setup emulated`"),
        device.session(("numpy",)),
    ):
        pass


def test_the_plan_names_sizes_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECOMPRESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = planned()
    assert plan.folder.parent == tmp_path / "edgecompress"
    assert plan.bytes == sum(download.bytes for download in plan.downloads) > 60e6
    assert all(download.bytes > 0 for download in plan.downloads)
    assert json.loads(json.dumps(plan.to_json()))["bytes"] == plan.bytes
    assert list(tmp_path.iterdir()) == []


def test_wheels_are_of_the_versions_run_together() -> None:
    constraints = (Path(__file__).parents[3] / "constraints.txt").read_text().splitlines()
    for wheel in recipe().wheels:
        assert f"{wheel.name}=={wheel.version}" in constraints


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match=r"needs qemu-aarch64, gcc, .*apt-get install qemu-user gcc") as raised:
        set_up()
    assert raised.value.exit_code == 3


@needs_emulator
def test_an_emulator_without_plug_ins_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    static = tmp_path / "qemu-aarch64"
    static.write_text("#!/bin/sh\necho usage\n")
    static.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(MissingExtra, match=r"loads no plug-ins; .* Debian 12's qemu-user"):
        set_up()


@needs_emulator
def test_an_interrupted_set_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))

    def interrupt(name: str, done: int, total: int, detail: str) -> None:
        if detail == "Debian packages":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        set_up(interrupt)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@needs_emulator
def test_what_was_changed_since_it_was_set_up_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    made = Emulation(emulation.emulation_folder())
    (made.site / "runtime").mkdir(parents=True)
    library = made.site / "runtime" / "library.so"
    library.write_bytes(b"code")
    facts = {"kind": emulation.KIND, "version": emulation.VERSION, "packages": {}, "sha256": made.digests()}
    write_json(made.manifest, facts | {"emulator": "qemu-aarch64 version 1.0"})
    with pytest.raises(DeviceError, match=r"set up for qemu-aarch64 version 1\.0, this is"):
        emulation.load_installation()
    write_json(made.manifest, facts | {"emulator": emulation.emulator_version()})
    assert emulation.is_installed()
    library.write_bytes(b"c0de")
    with pytest.raises(DeviceError, match="not as they were set up; run"):
        emulation.load_installation()
    made.manifest.write_text("{")
    with pytest.raises(DeviceError, match="is not whole"):
        emulation.load_installation()


@pytest.mark.parametrize(("version", "api"), [("7.2.22", 1), ("8.2.0", 1), ("9.0.2", 2), ("9.1.0", 3), ("10.0.3", 3)])
def test_the_plug_in_is_built_for_the_emulators_interface(version: str, api: int) -> None:
    assert plugin_api(f"qemu-aarch64 version {version} (Debian)") == api


# The decoder, against a disassembler.

DOT = {"sdot", "udot", "usdot", "sudot", "smmla", "ummla", "usmmla"}
BRANCHES = r"b|bl|bc?\.\w+|[ct]bn?z|(br|blr|ret|eret)(a[ab]z?)?|drps"
LOADS_AND_STORES = r"(ld|st|prf|cas|swp|cpy|set[gpme]).*"
SYSTEM = (
    r"smst(art|op)|svc|hvc|smc|brk|hlt|udf|dcps\d|t(cancel|commit|start|test)|nop|yield|wf[ei]t?|sevl?|hint|esb|[pt]sb|csdb|dgh|bti|"
    r"clrex|p?ssbb|d[ms]b|isb|sb|msr|mrs|sysl?|[di]c|at|tlbi|cfp|cpp|dvp|cfinv|[ax]+flag|"
    r"(pac|aut)i[ab](1716|z|sp)|xpaclri|trcit"
)
LANES_TO_ONE = r"f(max|min)(nm)?v"


def expected_class(word: int, mnemonic: str, operands: str) -> str:
    """What the disassembler's words say of an instruction."""
    if word >> 25 & 0xF in (0b0000, 0b0010):  # SME and SVE, whose operands look like any others
        return "other"
    for kind, pattern in (("branch", BRANCHES), ("load_store", LOADS_AND_STORES), ("other", SYSTEM)):
        if re.fullmatch(pattern, mnemonic):
            return kind
    if not re.search(r"\b[vbhsdq]\d", operands):
        return "integer"
    return class_of_arithmetic(mnemonic, operands)


def class_of_arithmetic(mnemonic: str, operands: str) -> str:
    """By the name and the register it writes."""
    target = operands.split(",", maxsplit=1)[0]
    if mnemonic in DOT:
        return "integer_dot"
    if not mnemonic.startswith(("f", "bf", "scvtf", "ucvtf")):
        return "vector_int"
    if mnemonic == "fmov" and target.startswith("v"):
        return "scalar_fp" if "[" in target else "vector_int"
    return "vector_fp" if target.startswith("v") or re.fullmatch(LANES_TO_ONE, mnemonic) else "scalar_fp"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads words, writes a digit for the class of each."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "classify.h"\n'
        "int main(void) { uint32_t word; while (fread(&word, 4, 1, stdin) == 1) putchar('0' + class_of(word)); }\n"
    )
    argv = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(recipe_folder()), "-o", str(folder / "classifier")]
    subprocess.run([*argv, str(folder / "main.c")], check=True)
    return folder / "classifier"


def classes_of(classifier: Path, words: bytes) -> list[str]:
    done = subprocess.run([classifier], input=words, capture_output=True, check=True)
    return [CLASSES[int(digit)] for digit in done.stdout.decode()]


def disagreements(classifier: Path, words: np.ndarray) -> tuple[int, dict[tuple[str, str, str], str]]:
    """How many words the disassembler knows, and one example of each kind on which it does not agree."""
    capstone = pytest.importorskip("capstone", reason="needs pip install capstone")
    disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    known, found = 0, {}
    for word, ours in zip(words.tolist(), classes_of(classifier, words.astype("<u4").tobytes()), strict=True):
        for _, _, mnemonic, operands in disassembler.disasm_lite(struct.pack("<I", word), 0):
            known += 1
            theirs = expected_class(word, mnemonic, operands)
            if theirs != ours:
                found[mnemonic, ours, theirs] = f"{word:08x} {operands}"
    return known, found


@needs_compiler
def test_the_classes_are_the_disassemblers_over_random_words(classifier: Path) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 150_000, np.uint32)
    vectors = words[:100_000] & ~np.uint32(0xF << 25) | np.uint32(0x7 << 25)
    known, found = disagreements(classifier, np.concatenate([words, vectors]))
    assert found == {}
    assert known > 50_000


@needs_compiler
def test_the_class_of_each_kind_of_instruction(classifier: Path) -> None:
    picked = {
        "vector_fp": [FADD, 0x4F811000, 0x4E21CC20, 0x6EA1B820, 0x0E617820, 0x6E30C820],  # fmla by lane ... fmaxnmv
        "integer_dot": [SDOT, 0x6F82E020, 0x4E82A420, 0x4E829C20, 0x0F02F020, 0x4F82F020],  # udot, smmla, usdot, sudot
        "vector_int": [ADD, 0x4F00E400, 0x4E040420, 0x4E020020, 0x4E284820, 0x0E013C20, 0xCE020C20],  # movi ... eor3
        "scalar_fp": [FMUL_SCALAR, 0x1F020C20, 0x9E660020, 0x7E30D820, 0x5E21D820, 0x1E202010],  # fmadd, fmov, faddp
        "load_store": [LDR, 0x3DC00020, 0xF9800020, 0xC85FFC20, 0xF8210020, 0x4C407020, 0x58000000],  # ..., ldadd, ld1
        "branch": [FOREVER, 0x94000001, 0x54000001, 0xB4000001, 0x36000001, 0xD61F0020, 0xD65F03C0, 0xD63F0020],
        "integer": [0xD2800000, 0x8B010000, 0x9B017C00, 0x9A810000, 0x10000000, 0xFA410000, 0xDAC00000],
        "other": [NOP, 0xD4000001, 0xD5033BBF, 0xD53BD040, UNDEFINED, 0x04A00000],  # svc, dmb, mrs, udf, SVE add
    }
    for kind, words in picked.items():
        assert classes_of(classifier, struct.pack(f"<{len(words)}I", *words)) == [kind] * len(words)


# The device itself: a system for aarch64 with the runtimes.


@pytest.fixture(scope="module")
def device() -> None:
    """Skip where there is no such system."""
    if not emulation.is_installed():
        pytest.skip("needs the emulated device: edgecompress doctor --setup emulated")


@pytest.fixture
def session(request: pytest.FixtureRequest, device: None) -> Iterator[EmulatedSession]:
    """A core of the device; cortex-a76 unless a test says otherwise."""
    with parse(getattr(request, "param", "cortex-a76"), DeviceOptions()).session(("numpy", "onnxruntime")) as session:
        yield session


def counted(core: str, model: Path, *, runs: int = 4) -> Counts:
    with parse(core, DeviceOptions()).session(("onnxruntime",)) as session:
        argv = [
            *session.python,
            session.push(bench_script()),
            session.push(model),
            "--pass",
            "count",
            "--runs",
            str(runs),
        ]
        text, intervals = session.counted(argv, timeout_s=600)
    (found,) = counts_of(json.loads(text), intervals, core)
    return found


@pytest.mark.slow
def test_a_model_counts_the_same_each_time(device: None, tmp_path: Path) -> None:
    sample = resolve("lenet5")
    path = export(sample.model(), sample, tmp_path).path
    first, second = counted("cortex-a76", path), counted("cortex-a76", path)
    assert second.least == pytest.approx(first.least, rel=1e-3)
    # LeNet-5 has 2.293 M multiply-accumulates, four to a vector instruction
    assert 2_293_000 / 4 < first.mix["vector_fp"] < 1.1 * 2_293_000 / 4
    assert len(first.per_inference) == 3
    assert first.load > first.least


@pytest.mark.slow
def test_int8_pays_on_a_core_with_dot_products_only(device: None, tmp_path: Path) -> None:
    whole, quantized = (convolution(tmp_path, is_quantized=is_quantized) for is_quantized in (False, True))
    gain = {}
    for core in ("cortex-a53", "cortex-a76"):
        plain, small = counted(core, whole), counted(core, quantized)
        gain[core] = plain.least / small.least
        assert plain.mix["integer_dot"] == 0
        assert (small.mix["integer_dot"] > 0) == (core == "cortex-a76")
    assert gain["cortex-a76"] > 2 > 1.5 > gain["cortex-a53"] > 0.8


def convolution(folder: Path, *, is_quantized: bool) -> Path:
    """One 3 x 3 convolution of 64 channels, in float32 or in int8 throughout."""
    import onnx
    from onnx import helper, numpy_helper

    kind = onnx.TensorProto.UINT8 if is_quantized else onnx.TensorProto.FLOAT
    weights = (
        np.random.default_rng(0).integers(-127, 127, (64, 64, 3, 3)).astype(np.int8 if is_quantized else np.float32)
    )
    constants = {"w": weights}
    if is_quantized:
        zeros = {"zero_x": np.uint8(128), "zero_w": np.int8(0), "zero_y": np.uint8(128)}
        constants |= {"scale": np.float32(0.01), **zeros}
        inputs = ["x", "scale", "zero_x", "w", "scale", "zero_w", "scale", "zero_y"]
    node = helper.make_node(
        *(("QLinearConv", inputs) if is_quantized else ("Conv", ["x", "w"])), outputs=["y"], pads=[1] * 4
    )
    ends = [helper.make_tensor_value_info(name, kind, [1, 64, 14, 14]) for name in "xy"]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "convolution", ends[:1], ends[1:], held)
    path = folder / f"{'int8' if is_quantized else 'float32'}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


FEATURES = """
fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4
asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg
""".split()  # noqa: SIM905 - thirty-two words are read as such
"""In the order of the kernel's bits."""

ASK = """
import ctypes, json, os
library = ctypes.CDLL(None)
library.getauxval.restype = ctypes.c_ulong
print(json.dumps({
    "features": library.getauxval(16),
    "cpuinfo": open("/proc/cpuinfo").read(),
    "machine": os.uname().machine,
    "variables": dict(os.environ),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("session", recipe().cores, indirect=True)
def test_what_a_core_says_of_itself_is_what_is_emulated(session: EmulatedSession) -> None:
    core = recipe().cores[session.cpu]
    said = json.loads(session.run([*session.python, "-c", ASK], timeout_s=60))
    assert [name for place, name in enumerate(FEATURES) if said["features"] >> place & 1] == core.features.split()
    assert f"Features\t: {core.features}\n" in said["cpuinfo"]
    assert f"CPU part\t: {core.part:#05x}\n" in said["cpuinfo"]
    assert said["machine"] == session.facts()["machine"] == "aarch64"
    assert said["variables"] == session.built.environment(session.scratch)


@pytest.mark.slow
def test_two_cores_at_once_do_not_disturb_each_other(device: None) -> None:
    with (
        parse("cortex-a53", DeviceOptions()).session(()) as small,
        parse("cortex-a76", DeviceOptions()).session(()) as big,
    ):
        parts = [
            json.loads(session.run([*session.python, "-c", ASK], timeout_s=60))["cpuinfo"]
            for session in (small, big, small)
        ]
    assert parts[0] == parts[2] != parts[1]


@pytest.mark.slow
def test_a_session_leaves_nothing_behind(device: None) -> None:
    with parse("cortex-a76", DeviceOptions()).session(("numpy",)) as session:
        session.run([*session.python, "-c", "import tempfile; tempfile.mkstemp()"], timeout_s=60)
        assert len(list(session.scratch.iterdir())) == 1
    assert not session.scratch.exists()
    assert emulation.is_installed()


@pytest.mark.slow
def test_a_module_that_is_not_there_is_named(device: None) -> None:
    with (
        pytest.raises(DeviceError, match="has no openvino; there are numpy, onnxruntime"),
        parse("cortex-a76", DeviceOptions()).session(("numpy", "openvino")),
    ):
        pass


@pytest.mark.slow
@needs_compiler
def test_the_classes_are_the_disassemblers_over_a_runtimes_code(device: None, classifier: Path) -> None:
    (library,) = emulation.load_installation()[0].site.glob("onnxruntime/capi/onnxruntime_pybind11_state*.so")
    words = np.unique(np.frombuffer(text_section(library.read_bytes()), "<u4"))
    known, found = disagreements(classifier, words)
    assert found == {}
    assert known > 100_000


def text_section(library: bytes) -> bytes:
    """The code of an ELF of 64 bits."""
    (table,), (count, names) = struct.unpack_from("<Q", library, 40), struct.unpack_from("<HH", library, 60)
    sections = [struct.unpack_from("<IIQQQQ", library, table + 64 * index) for index in range(count)]
    for name, _, _, _, offset, size in sections:
        start = sections[names][4] + name
        if library[start : library.index(b"\0", start)] == b".text":
            return library[offset : offset + size]
    raise AssertionError("no .text")
