"""One decoding for every path: what each kind of image becomes, and what is refused in one line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tiny import SIZE, Tiny, draw_nothing

from nci_plugin import Benchmark, PluginError, evaluate
from nci_plugin.benchmarks import decoding
from nci_plugin.benchmarks.decoding import Preprocessing, read_image, to_rgb
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.benchmarks.samples import Samples
from nci_plugin.cli.main import main

PREPROCESSING = Preprocessing(None, None, ((0.0,) * 3, (1.0,) * 3))
GREY = np.array([[0, 1, 2, 100, 128, 200, 254, 255]], np.uint8)


def pixels(image: Any) -> np.ndarray:
    return np.asarray(to_rgb(image))[..., 0]


def saved(image: Image.Image, form: str) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return Image.open(io.BytesIO(buffer.getvalue()))


# -------------------------------------------------------------------- greyscale of more than 8 bits


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000", None])
def test_16_bit_greyscale_is_scaled(form, factor):
    """An 8-bit image that was stretched to 16 bits, either way, comes back as it was."""
    values = GREY.astype(np.uint16) * factor
    image = Image.fromarray(values)
    if form == "PPM":
        image = Image.open(io.BytesIO(b"P5 8 1 65535\n" + values.astype(">u2").tobytes()))
    elif form:
        image = saved(image, form)
    assert pixels(image).tolist() == GREY.tolist()


def test_16_bit_greyscale_is_as_16_bit_colour_of_the_same_values():
    """Pillow itself reads 16-bit colour by its high bytes."""
    values = np.arange(0, 65536, 97, dtype=">u2")[None]
    grey, colour = (Image.open(io.BytesIO(png(array))) for array in (values, np.repeat(values[..., None], 3, axis=2)))
    assert colour.mode == "RGB"
    assert np.array_equal(np.asarray(to_rgb(grey)), np.asarray(colour))


def png(array: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow does not write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in array))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30), st.sampled_from(["I;16", "I;16B", "I;16L"]))
@settings(max_examples=50, deadline=None)
def test_16_bit_values_keep_their_order_and_white(values, mode):
    stored = np.array([values], np.uint16).astype(">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (len(values), 1), stored.tobytes())
    assert pixels(image)[0].tolist() == [value // 256 for value in values]


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), "floating-point numbers"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "32-bit whole numbers"),
        (saved(Image.fromarray(np.full((4, 4), 9, np.int32)), "TIFF"), "32-bit whole numbers"),
        (saved(Image.fromarray(np.full((4, 4), 9, np.float32)), "TIFF"), "floating-point numbers"),
    ],
)
def test_values_whose_white_is_not_known_are_refused(image, kind):
    with pytest.raises(PluginError, match=f"its pixels are {kind}, whose white is not known: save it with 8 or 16"):
        to_rgb(image)


# -------------------------------------------------------------------- 8 bits: as OpenOOD converts them


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV"])
def test_images_of_8_bits_are_what_convert_gives(mode):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (5, 4, 3)).astype(np.uint8)).convert("RGB")
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_is_what_convert_gives():
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = 3
    image = saved(image, "PNG")
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


# -------------------------------------------------------------------- files that are no images


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Paths of things that are no image, by kind."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr(decoding, "IMAGE_BYTES", 10_000)
    paths = {kind: tmp_path / kind for kind in ("pipe", "device", "folder", "text", "empty", "bomb", "large", "cut")}
    os.mkfifo(paths["pipe"])
    paths["device"].symlink_to("/dev/zero")
    paths["folder"].mkdir()
    paths["text"].write_text("no image")
    paths["empty"].write_bytes(b"")
    Image.new("L", (100, 100)).save(paths["bomb"], "PNG")
    paths["large"].write_bytes(bytes(10_001))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(paths["cut"], "PNG")
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:120])
    paths["float"] = tmp_path / "float.tiff"
    Image.fromarray(np.zeros((4, 4), np.float32)).save(paths["float"])
    return {**paths, "gone": tmp_path / "gone", "long": tmp_path / ("x" * 300)}


MESSAGES = {
    "pipe": "regular file",
    "device": "regular file",
    "folder": "regular file|directory",
    "text": "of no format that Pillow knows",
    "empty": "it is empty",
    "bomb": "decompression bomb",
    "large": "larger than",
    "cut": "truncated|broken",
    "float": "white is not known",
    "gone": "there is no such file",
    "long": "too long|no such file",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_is_no_image_is_refused_in_one_line(bad, kind):
    with pytest.raises(PluginError, match=f"^image '.*({MESSAGES[kind]}).*; pass another$"):
        read_image(bad[kind], PREPROCESSING, "pass another")
    error = Samples([bad[kind]], None, PREPROCESSING)[0]
    assert isinstance(error, PluginError)
    assert str(error).startswith("image 0: image '")


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind not in ("gone", "long")])
def test_a_list_that_names_what_is_no_image(bad, kind):
    list_file = bad["text"].with_name("list.txt")
    list_file.write_text(f"{bad[kind].name} -1\n")
    with pytest.raises(PluginError, match=rf"^image .*\(line 1 of '{list_file}'\).*; replace the file$"):
        ImageList("list.txt", "", PREPROCESSING, list_file.parent).read().item(0)


@pytest.mark.parametrize("kind", MESSAGES)
def test_explain_refuses_it_before_anything_starts(
    bad, kind, tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("nci_plugin.cli.network.Job.find_one", lambda *_: pytest.fail("something started"))
    assert main(["explain", str(bad[kind]), str(tiny.yaml), "--net", f"{tiny.net}:make", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.endswith("; pass an image file\n")


def test_a_strip_that_would_be_too_large_once_resized_is_refused():
    with pytest.raises(PluginError, match=r"sides are 1 : 100000, too large"):
        Preprocessing(256, 224, ((0.0,) * 3, (1.0,) * 3))(Image.new("L", (100_000, 1)))


# -------------------------------------------------------------------- the whole way


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    return Tiny(tmp_path / "tiny", csid=False)


def test_16_bit_images_score_as_8_bit_ones(tiny):
    """By a list and as PIL images: the images are those of 8 bits, so the scores are too."""
    splits: dict[str, list[tuple[Any, int]]] = {}
    for split in ("test", "near"):
        names = [line.split() for line in tiny.list(split).read_text().splitlines()]
        images = [Image.open(tiny.data / "images_classic" / name).convert("L") for name, _ in names]
        deep = [Image.fromarray(np.asarray(image).astype(np.uint16) * 257) for image in images]
        splits[split] = [(image, int(target)) for image, (_, target) in zip(images, names)]
        splits[f"deep {split}"] = [(image, int(target)) for image, (_, target) in zip(deep, names)]
    preprocessing = Preprocessing(SIZE, SIZE, ((0.5,) * 3, (0.5,) * 3))

    def scores(of: str) -> dict[str, np.ndarray]:
        benchmark = Benchmark.from_splits(
            "grey", 3, test=splits[f"{of}test"], near={"near": splits[f"{of}near"]}, preprocessing=preprocessing
        )
        return dict(evaluate(tiny.loaded(), benchmark, ["msp"], device="cpu", progress=False).scores["msp"])

    shallow, deep = scores(""), scores("deep ")
    assert all(np.array_equal(shallow[name], deep[name]) for name in shallow)
    assert len(np.unique(shallow["id/test"])) > 1


def test_sound_images_are_what_they_were(tmp_path):
    """The tensor is that of OpenOOD's steps: RGB, resize, crop, to a tensor, normalise."""
    path = tmp_path / "a.png"
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(colours).save(path)
    expected = torch.from_numpy(colours).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(path, PREPROCESSING, ""), expected)


# -------------------------------------------------------------------- what no image does


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript, where that is installed."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    file = tmp_path / "picture.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(PluginError, match="cannot be decoded .EPS is a program, and is not run"):
        read_image(file, to_rgb, "replace the file")


def test_a_picture_cut_off_is_refused_whatever_the_process_asked_pillow_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[:-600])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(PluginError, match="cannot be decoded"):
        read_image(file, to_rgb, "replace the file")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_picture_cut_off_is_refused_in_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that came second found the flag of the first, let the cut picture pass, and left the flag changed."""
    file, cut = tmp_path / "whole.png", tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)).save(file)
    cut.write_bytes(file.read_bytes()[:-600])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    second_is_in, first_is_out = Event(), Event()

    def first(image: Image.Image) -> Image.Image:
        assert second_is_in.wait(10)
        return to_rgb(image)

    def second(image: Image.Image) -> Image.Image:
        second_is_in.set()
        assert first_is_out.wait(10)
        return to_rgb(image)

    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(read_image, file, first, "replace the file")
        broken = pool.submit(read_image, cut, second, "replace the file")
        whole.result(20)
        first_is_out.set()
        with pytest.raises(PluginError, match="cannot be decoded"):
            broken.result(20)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
