"""The file of codes: what goes in comes out, it is short, and nothing broken or hostile gets through."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.codecs.coding import Codes, decode, encode
from edgecompress.codecs.payload import MAGIC, Stored, StoredLayer, from_bytes, load, save, to_bytes
from edgecompress.costs import coded_bytes
from edgecompress.errors import FileError
from tests.codecs import plain_decoder

sequences = st.lists(
    st.sampled_from([1, 3, 7, 127]).flatmap(
        lambda largest: st.tuples(st.lists(st.integers(-largest, largest), max_size=200), st.just(largest))
    ),
    max_size=6,
)


@given(sequences)
def test_any_codes_come_back(drawn: list[tuple[list[int], int]]) -> None:
    given_codes = [(np.array(codes, np.int32), largest) for codes, largest in drawn]
    back = decode(encode(given_codes), [(len(codes), largest) for codes, largest in given_codes])
    for (codes, _), read in zip(given_codes, back, strict=True):
        assert np.array_equal(codes, read)


@pytest.mark.parametrize("largest", [1, 3, 7])
def test_the_length_is_within_three_percent_of_the_entropy(largest: int) -> None:
    rng = np.random.default_rng(0)
    shape = np.exp(-np.abs(np.arange(-largest, largest + 1)) / (0.35 * largest))
    parts = [(rng.choice(2 * largest + 1, 2_000, p=shape / shape.sum()) - largest).astype(np.int32) for _ in range(3)]
    counts = np.bincount(np.concatenate(parts) + largest)
    shares = counts[counts > 0] / counts.sum()
    entropy_bytes = -(shares * np.log2(shares)).sum() * counts.sum() / 8
    assert len(encode([(part, largest) for part in parts])) < 1.03 * entropy_bytes + 4


def layer(name: str, largest: tuple[int, int, int] = (7, 3, 0), seed: int = 0) -> StoredLayer:
    rng, dims, ranks = np.random.default_rng(seed), (4, 5, 6), (2, 3, 2)

    def codes(count: int, most: int) -> Codes:
        return rng.integers(-most, most + 1, count).astype(np.int32)

    factors = (codes(prod(ranks), largest[0]), *(codes(d * r, largest[1]) for d, r in zip(dims, ranks, strict=True)))
    bias = codes(12, largest[2]) if largest[2] else np.zeros(0, np.int32)
    return StoredLayer(name, (12, 10), dims, ranks, 0.125, largest, factors, bias, 0.5 if largest[2] else 0.0)


def stored(*, shared: bool = False) -> Stored:
    first, second = layer("fc1"), layer("größer.fc2", (7, 3, 5), seed=1)
    if shared:
        second = replace(second, codes=(first.codes[0], *second.codes[1:]))
    others = {"bn.weight": np.arange(5, dtype="<f2"), "bn.count": np.array(7, "<i8"), "x": np.ones((2, 3), "<f4")}
    return Stored((first, second), others, shared)


def same(one: Stored, two: Stored) -> bool:
    for a, b in zip(one.layers, two.layers, strict=True):
        facts = [(x.name, x.shape, x.dims, x.ranks, x.scale, x.largest, x.step) for x in (a, b)]
        arrays = zip((*a.codes, a.bias), (*b.codes, b.bias), strict=True)
        if facts[0] != facts[1] or not all(np.array_equal(x, y) for x, y in arrays):
            return False
    pairs = [(one.others[name], two.others[name]) for name in one.others]
    return one.shared == two.shared and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("shared", [False, True])
def test_layers_take_the_bytes_that_the_file_has_for_them(shared: bool) -> None:
    """Each layer's, and what is no layer's, are the file; without a layer it is shorter by about that layer's."""
    whole = stored(shared=shared)
    taken = coded_bytes(whole)
    others = len(to_bytes(Stored((), whole.others, shared)))
    assert others + sum(taken.values()) == pytest.approx(len(to_bytes(whole)), abs=8)
    shorter = len(to_bytes(replace(whole, layers=whole.layers[:1])))
    assert len(to_bytes(whole)) - shorter == pytest.approx(taken["größer.fc2"], abs=8)
    assert taken["größer.fc2"] < 60 if shared else taken["größer.fc2"] < 70


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_gives_back_what_was_stored(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "model.ectk"
    size = save(stored(shared=shared), path)
    assert size == path.stat().st_size
    assert same(load(path), stored(shared=shared))
    assert to_bytes(load(path)) == path.read_bytes()


def test_a_shared_core_is_written_once() -> None:
    apart, shared = stored(), stored(shared=True)
    assert len(to_bytes(shared)) < len(to_bytes(apart))
    assert shared.numbers == apart.numbers - 12


def test_every_flipped_byte_is_noticed() -> None:
    data = to_bytes(stored())
    for at in range(len(data)):
        with pytest.raises(FileError):
            from_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])


def test_a_file_cut_short_is_refused() -> None:
    data = to_bytes(stored())
    for end in range(len(data)):
        with pytest.raises(FileError):
            from_bytes(data[:end])


@given(st.binary(max_size=80))
def test_hostile_bytes_with_a_right_checksum_end_in_an_error_or_a_value(body: bytes) -> None:
    data = MAGIC + b"\1" + body
    with suppress(FileError):
        from_bytes(data + zlib.crc32(data).to_bytes(4, "little"))


def test_sizes_beyond_reason_are_refused_before_anything_is_made() -> None:
    huge = replace(layer("fc1"), dims=(1 << 20, 1 << 20, 2), ranks=(1 << 9, 1 << 9, 1))
    with pytest.raises(FileError, match="out of range"):
        from_bytes(to_bytes(Stored((huge,), {}, shared=False)))


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ectk"
    with pytest.raises(FileError, match=r"model\.ectk: no such file"):
        load(path)
    path.write_bytes(b"PK\3\4")
    with pytest.raises(FileError, match="does not begin with ECTK"):
        load(path)
    path.write_bytes(MAGIC + b"\2" + b"\0" * 9)
    with pytest.raises(FileError, match="version 02"):
        load(path)


@pytest.mark.parametrize("shared", [False, True])
def test_a_decoder_that_shares_no_code_reads_the_same(shared: bool) -> None:
    found, wanted = plain_decoder.decode(to_bytes(stored(shared=shared))), stored(shared=shared)
    for part in wanted.layers:
        core, *matrices = part.codes
        sizes = list(zip(part.dims, part.ranks, strict=True))
        shaped = [matrix.reshape(size) for matrix, size in zip(matrices, sizes, strict=True)]
        full = np.einsum("abc,Aa,Bb,Cc->ABC", core.reshape(part.ranks), *shaped)
        assert np.allclose(found.weights[part.name], part.scale * full.reshape(part.shape))
        if len(part.bias):
            assert np.allclose(found.biases[part.name], part.step * part.bias)
    assert all(np.array_equal(found.others[name], array) for name, array in wanted.others.items())


@given(sequences)
def test_the_other_decoder_reads_any_codes(drawn: list[tuple[list[int], int]]) -> None:
    given_codes = [(np.array(codes, np.int32), largest) for codes, largest in drawn]
    learned = plain_decoder.Learned(plain_decoder.RangeCoder(encode(given_codes)))
    for codes, largest in given_codes:
        assert np.array_equal(learned.sequence(len(codes), largest), codes)
