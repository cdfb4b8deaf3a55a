"""Checkpoints read without torch, against torch itself; code and damage are refused."""

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.weights.torch_file import read_tensors
from backend.weights.torch_pickle import read_pickle
from shared_protocol.errors import WeightsError

LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(value, path: Path, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def flat(value, name=""):
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(item, f"{name}.{key}" if name else str(key))


@pytest.fixture
def checkpoint():
    random = torch.Generator().manual_seed(1)
    whole = torch.randn(6, 5, generator=random)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return {
        "state_dict": module.state_dict(),
        "parameter": module[0].weight,
        "step": 7,
        "rate": 0.5,
        "note": "grün",
        "nothing": None,
        "sizes": [torch.Size([2, 3]), True],
        "transposed": whole.T,
        "window": whole[1:4, ::2],
        "half": whole.half(),
        "bfloat": whole.bfloat16(),
        "numbers": (torch.arange(4), torch.arange(3, dtype=torch.int32), torch.tensor([True, False])),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "double": whole.double(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "ordered": collections.OrderedDict(a=collections.OrderedDict(b=whole[0])),
    }


@LAYOUTS
def test_every_tensor_has_the_name_shape_type_and_values_that_torch_reads(checkpoint, tmp_path, zipped):
    path = save(checkpoint, tmp_path / "model.pt", zipped)
    expected = dict(flat(torch.load(path, weights_only=True)))
    read = read_tensors(path)
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert read[name].dtype == tensor.numpy().dtype, name
        assert np.array_equal(read[name], tensor.numpy()), name
        assert read[name].flags.c_contiguous, name


@LAYOUTS
def test_a_lone_tensor_has_the_empty_name(tmp_path, zipped):
    read = read_tensors(save(torch.arange(3), tmp_path / "one.pt", zipped))
    assert {name: array.tolist() for name, array in read.items()} == {"": [0, 1, 2]}


class Foreign:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@LAYOUTS
@pytest.mark.parametrize("function", [os.system, print, getattr, torch.load, collections.Counter])
def test_a_name_that_is_not_data_is_refused_and_not_called(tmp_path, zipped, function, capsys):
    path = save({"a": Foreign(function, "echo called")}, tmp_path / "evil.pt", zipped)
    with pytest.raises(WeightsError, match=r"evil\.pt: the checkpoint uses '.*', which is code"):
        read_tensors(path)
    assert "called" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "program",
    [b"(S'echo'\nios\nsystem\n.", b"\x80\x02cos\nsystem\n)\x81.", b"\x80\x02\x82\x01.", b"(cos\nsystem\no."],
    ids=["INST", "NEWOBJ", "EXT1", "OBJ"],
)
def test_instructions_that_make_objects_are_refused(tmp_path, program):
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(WeightsError, match="not data"):
        read_tensors(path)


@LAYOUTS
def test_a_file_cut_anywhere_is_refused(checkpoint, tmp_path, zipped):
    path = save(checkpoint, tmp_path / "model.pt", zipped)
    whole = path.read_bytes()
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"damaged|code"):
            read_tensors(path)


@LAYOUTS
def test_damaged_bytes_give_our_error_or_numbers_but_nothing_else(checkpoint, tmp_path, zipped):
    path = save(checkpoint, tmp_path / "model.pt", zipped)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except WeightsError:
            refused += 1
    assert refused > 50


def test_text_with_an_unknown_escape_is_read_without_a_warning():
    assert read_pickle(io.BytesIO(b"S'a\\K'\n.")) == "a\\K"


def describe(shape, strides, offset=0, count=6, key="0"):
    """A legacy checkpoint of one float tensor described as given, over a storage of 6 elements."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return (
                ("storage", torch.FloatStorage, key, "cpu", count, None)
                if isinstance(value, Storage)
                else None
            )

    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, stream, protocol=2)
    tensor = Foreign(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, strides, False, None)
    Pickler(stream, protocol=2).dump({"a": tensor})
    pickle.dump(["0"], stream, protocol=2)
    stream.write(struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes())
    return stream.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (7,), "strides": (1,), "count": 7},
        {"shape": (7,), "strides": (1,)},
        {"shape": (3,), "strides": (1,), "offset": 4},
        {"shape": (3,), "strides": (-1,), "offset": 4},
        {"shape": (2, 2), "strides": (1,)},
        {"shape": (1 << 40,), "strides": (0,)},
        {"shape": (2,), "strides": (1,), "key": "1"},
        {"shape": (2,), "strides": (1,), "offset": -1},
        {"shape": (2.0,), "strides": (1,)},
        {"shape": (2,), "strides": (1,), "count": -6},
    ],
    ids=lambda a: ", ".join(f"{k}={v}" for k, v in a.items()),
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, arguments):
    path = tmp_path / "model.pt"
    path.write_bytes(describe((2, 3), (3, 1)))
    assert read_tensors(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(describe(**arguments))
    with pytest.raises(WeightsError, match="damaged"):
        read_tensors(path)


def test_a_dictionary_inside_itself_is_refused(tmp_path):
    knot = {}
    knot["again"] = knot
    with pytest.raises(WeightsError, match="inside one another"):
        read_tensors(save(knot, tmp_path / "knot.pt", False))


def test_packed_entries_are_refused(tmp_path):
    plain = save({"a": torch.zeros(1000)}, tmp_path / "plain.pt", True)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(WeightsError, match="compressed"):
        read_tensors(packed)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "picture.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"picture\.pt"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pt does not exist"):
        read_tensors(tmp_path / "none.pt")
