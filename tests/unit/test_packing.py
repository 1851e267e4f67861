"""Packed files: lossless, smaller, and refused if anything in them is wrong."""

import gzip
import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from builders import model_header, ncsn_model, small_model, training, write_small_model
from safetensors.torch import save_file

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.steps import apply_steps
from slimdiff.errors import UserError
from slimdiff.io import packed
from slimdiff.io.tensors import save_tensors
from slimdiff.models.registry import build_network

RECIPES = [
    [],
    [{"prune": {"method": "l1", "amount": 0.7}}],
    [{"quantize": {"linear": "8bit"}}],
    [{"quantize": {"linear": "4bit"}}],
    [{"prune": {"method": "random", "amount": 0.5}}, {"quantize": {"weights": "8bit"}}],
    [{"quantize": {"weights": "4bit"}}],
    [{"quantize": {"weights": "bf16"}}],
]


def write(path, steps=(), model=None):
    model = model or small_model()
    network = build_network(model, seed=1)
    structure = apply_steps(network, list(steps), 3)
    write_model(path, network, model_header(model, training(), steps=list(steps), structure=structure))
    return path


def sealed(body: bytes) -> bytes:
    """Return a file with a correct digest, as an attacker would write it."""
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("steps", RECIPES, ids=str)
def test_unpacking_restores_the_file_and_loading_the_images(tmp_path, steps):
    source = write(tmp_path / "model.safetensors", steps)
    packed.pack(source, tmp_path / "model.packed")
    packed.unpack(tmp_path / "model.packed", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()
    one, other = slimdiff.load(source), slimdiff.load(tmp_path / "model.packed")
    assert one.settings == other.settings
    assert torch.equal(one.sample(3, seed=2).images, other.sample(3, seed=2).images)
    assert packed.is_packed(tmp_path / "model.packed") and not packed.is_packed(source)


def test_every_type_and_shape_survives(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{dtype}".removeprefix("torch."): (torch.randn(5, 7, generator=generator) * 50).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    }
    tensors |= {"uint8": torch.arange(256, dtype=torch.uint8), "bool": torch.tensor([True, False, True])}
    tensors |= {"none": torch.zeros(0, 4), "scalar": torch.tensor(3.5), "zeros": torch.zeros(1000)}
    tensors["odd"] = torch.tensor([0.0, -0.0, torch.nan, -torch.inf, 1e-42, -1e-42])
    save_file(tensors, tmp_path / "all.safetensors", metadata={"note": "ä"})
    packed.pack(tmp_path / "all.safetensors", tmp_path / "all.packed")
    packed.unpack(tmp_path / "all.packed", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()


@pytest.mark.parametrize(("amount", "share"), [(0.0, 0.94), (0.3, 0.74), (0.5, 0.55), (0.7, 0.35)])
def test_zeros_shrink_the_packed_file_more_than_gzip(tmp_path, amount, share):
    """Initial weights are uniform, so packing saves 3 bits less of the exponent than for trained ones."""
    source = write(tmp_path / "m.safetensors", [{"prune": {"method": "random", "amount": amount}}], ncsn_model())
    packed.pack(source, tmp_path / "m.packed")
    n_bytes = (tmp_path / "m.packed").stat().st_size
    assert n_bytes < share * source.stat().st_size
    assert n_bytes < len(gzip.compress(source.read_bytes(), 6))


def test_equal_models_make_equal_packed_files(tmp_path):
    for name in ("one", "two"):
        write_small_model(tmp_path / f"{name}.safetensors")
        packed.pack(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.packed")
    assert (tmp_path / "one.packed").read_bytes() == (tmp_path / "two.packed").read_bytes()


def test_every_flipped_bit_and_every_cut_is_refused_by_name(tmp_path):
    path = tmp_path / "model.packed"
    save_file({"a": torch.randn(40), "b": torch.zeros(9)}, tmp_path / "small.safetensors")
    packed.pack(tmp_path / "small.safetensors", path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(UserError, match=r"model.packed is damaged .*: delete it and run again to rebuild it"):
            list(packed.read(path))
        path.write_bytes(whole[:position])
        with pytest.raises(UserError, match=r"model.packed is damaged"):
            list(packed.read(path))
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="digest at its end"):
        list(packed.read(path))


def test_flipped_bits_with_a_recomputed_digest_are_refused_or_harmless(tmp_path):
    """Without the outer digest: read tensors must not differ, and only UserError may be raised."""
    path = tmp_path / "model.packed"
    save_file({"a": torch.randn(40), "b": torch.zeros(9), "c": torch.zeros(3)}, tmp_path / "small.safetensors")
    packed.pack(tmp_path / "small.safetensors", path)
    body, wanted = path.read_bytes()[: -packed.SHA256_BYTES], (tmp_path / "small.safetensors").read_bytes()[-52 * 4 :]
    refused = 0
    for position in range(len(body)):
        for bit in range(8):
            path.write_bytes(sealed(body[:position] + bytes([body[position] ^ 1 << bit]) + body[position + 1 :]))
            try:
                found = b"".join(packed.read(path))
            except UserError:
                refused += 1
            else:
                assert found[-52 * 4 :] == wanted  # only names can change
    assert refused > 7 * len(body)


def forged(shape, content: bytes) -> bytes:
    """Return a packed file of one float tensor `a` of this shape, whose record is `content`."""
    size = int(np.prod(shape)) * 4
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    start = packed.MAGIC + struct.pack("<IQ", packed.VERSION, len(text)) + struct.pack("<Q", len(text)) + text
    return sealed(start + content)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (forged([1 << 40], b""), "its tensors take"),
        (forged([1 << 20], b"\0" + bytes(16) + struct.pack("<Q", 1 << 40)), "bytes where at most"),
        (forged([4], b"\0" + bytes(16) + struct.pack("<Q", 5) + bytes(5)), "holds 5 bytes instead of 4"),
        (forged([4], b"\7" + bytes(16)), "unknown encoding 7"),
        (forged([-4], b""), "is not where its header says"),
        (sealed(packed.MAGIC + struct.pack("<IQ", 9, 0)), "version 9, this slimdiff reads 1"),
        (sealed(packed.MAGIC + struct.pack("<IQ", 1, 1 << 60)), "bytes where at most"),
        (sealed(b"something else entirely"), "does not start with SLIMPACK"),
        (sealed(packed.MAGIC + struct.pack("<IQQ", 1, 2, 2) + b"[]"), "invalid safetensors header"),
        (b"", "cut short"),
    ],
)
def test_forged_sizes_are_refused_before_allocation(tmp_path, body, message):
    (tmp_path / "model.packed").write_bytes(body)
    with pytest.raises(UserError, match=message):
        list(packed.read(tmp_path / "model.packed"))


def test_a_decompression_bomb_is_refused(tmp_path):
    """zstandard allocates the size stated in a frame, whatever the limit."""
    import zstandard

    frame = zstandard.ZstdCompressor().compress(bytes(50 << 20))
    chunk = struct.pack("<Q", len(frame) | packed.COMPRESSED) + frame
    (tmp_path / "model.packed").write_bytes(forged([4], b"\0" + bytes(16) + chunk))
    with pytest.raises(UserError, match="claims 52428800 bytes instead of 4"):
        list(packed.read(tmp_path / "model.packed"))


def test_only_whole_safetensors_files_are_packed(tmp_path):
    source = write(tmp_path / "model.safetensors")
    content = source.read_bytes()
    for broken in (content[:-1], content + b"x", content[:5], b"", content[:8] + b"x" + content[9:]):
        (tmp_path / "broken.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match=r"broken.safetensors is damaged"):
            packed.pack(tmp_path / "broken.safetensors", tmp_path / "model.packed")
    with pytest.raises(UserError, match="does not exist"):
        packed.pack(tmp_path / "nothing.safetensors", tmp_path / "model.packed")
    with pytest.raises(UserError, match="cannot be read"):
        packed.pack(tmp_path, tmp_path / "model.packed")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken.safetensors", "model.safetensors"]


def test_packed_files_of_other_kinds_or_programs_are_refused(tmp_path):
    save_tensors(tmp_path / "images.safetensors", "images", {"a": torch.zeros(2)}, {})
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in (("images", "holds 'images', expected 'model'"), ("other", "was not written by slimdiff")):
        packed.pack(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.packed")
        with pytest.raises(UserError, match=message):
            slimdiff.load(tmp_path / f"{name}.packed")
