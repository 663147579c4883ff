"""Images in tar files of WebDataset: what is read, and what of hostile ones is refused."""

from __future__ import annotations

import io
import pickle
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nci_plugin import Benchmark, PluginError, Preprocessing, evaluate
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.benchmarks.shards import HEADER_BYTES, ImageShards
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark

webdataset = pytest.importorskip("webdataset")

PREPROCESSING = Preprocessing(2, 2, ((0.5,) * 3, (0.5,) * 3))
Members = Sequence[tuple[str, bytes]]


def png(value: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(data, "PNG")
    return data.getvalue()


def sound(count: int = 5, first: int = 0) -> list[tuple[str, bytes]]:
    numbers = range(first, first + count)
    return [each for n in numbers for each in ((f"a/{n:03d}.png", png(n)), (f"a/{n:03d}.cls", str(n % 2).encode()))]


def shard(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(*paths: Any, num_classes: int | None = 2) -> Any:
    return ImageShards(list(paths), PREPROCESSING).read(num_classes)


def test_samples_are_those_that_webdataset_reads(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.tar") for number in range(2)]
    for number, path in enumerate(paths):
        with webdataset.TarWriter(path) as writer:
            for n in range(3):
                image = Image.new("RGB", (2, 2), (10 * number + n, 7, 0))
                writer.write({"__key__": f"b/{n:04d}", "png": image, "cls": (number + n) % 2, "json": {"x": n}})
    files = read(*paths)
    expected = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
    assert len(files) == len(expected) == 6
    for index, (image, label) in enumerate(expected):
        found = pickle.loads(pickle.dumps(files))[index]  # as a process that loads images has it
        assert torch.equal(found[0], PREPROCESSING(image))
        assert int(found[1]) == label
    images, labels = next(image_batches("id/train", files, 4, workers=1, starts=[2]))
    assert torch.equal(images, torch.stack([PREPROCESSING(image) for image, _ in expected[2:]]))
    assert labels.tolist() == [label for _, label in expected[2:]]


def test_an_evaluation_of_shards(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    train = [shard(tmp_path / "0.tar", sound(5)), shard(tmp_path / "1.tar", sound(4, 5))]
    near = ImageShards([shard(tmp_path / "near.tar", [(f"{n}.png", png(100 + n)) for n in range(3)])], PREPROCESSING)
    benchmark = Benchmark.from_splits(
        "tars", 2, train=ImageShards(train, PREPROCESSING), test=ImageShards(train[:1], PREPROCESSING), near={"n": near}
    )
    first = evaluate(network, benchmark, ["nci", "knn"], output=tmp_path / "out", progress=False)
    assert set(first.failures) == {"knn"}  # 50 neighbours of 9
    assert [len(first.scores["nci"][name]) for name in ("id/test", "near/n")] == [5, 3]
    assert not torch.equal(*(each for each in (open_splits(benchmark)["near/n"][n][0] for n in (0, 2))))
    assert list((tmp_path / "out").glob("features/*/id.train-*"))
    again = evaluate(network, benchmark, ["nci"], output=tmp_path / "out", progress=False)
    assert (again.scores["nci"]["id/test"] == first.scores["nci"]["id/test"]).all()
    assert again.results[0].provenance["features"] == first.results[0].provenance["features"]


@pytest.mark.parametrize(
    "path",
    [
        "pipe:touch hacked",
        "http://host/a.tar",
        "s3://bucket/a.tar",
        "file:///a.tar",
        "a.tar::b.tar",
        "gs://b/{0..1}.tar",
    ],
)
def test_pipes_and_urls_are_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match="pipes and URLs are not read"):
        read(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["a.tar.gz", "a.zip", "", 3, "list.txt"])
def test_other_files_are_refused(path: Any) -> None:
    with pytest.raises(PluginError, match="must be the path of a file that ends in .tar"):
        read(path)


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    for name, reason in (("folder.tar", "Is a directory"), ("none.tar", "No such file")):
        with pytest.raises(PluginError, match=reason):
            read(tmp_path / name)
    with pytest.raises(PluginError, match="must be a list of paths"):
        ImageShards(str(tmp_path / "a.tar"), PREPROCESSING).read(2)  # type: ignore[arg-type]


HOSTILE: dict[str, tuple[Members, str]] = {
    "a path that leaves the shard": ([("../../a.png", png()), ("../../a.cls", b"0")], "lies outside of the shard"),
    "an absolute path": ([("/etc/a.png", png()), ("/etc/a.cls", b"0")], "lies outside of the shard"),
    "no label": ([*sound(2), ("b.png", png())], "sample 'b' has no .cls"),
    "no image": ([*sound(2), ("b.cls", b"0")], "sample 'b' has 0 images"),
    "two images": ([("b.png", png()), ("b.jpg", png()), ("b.cls", b"0")], "sample 'b' has 2 images"),
    "a member twice": ([("b.png", png()), ("b.png", png()), ("b.cls", b"0")], "duplicate file name"),
    "a sample twice": ([*sound(2), *sound(1)], "sample 'a/000' is there twice"),
    "parts that are apart": ([("b.png", png()), *sound(1), ("b.cls", b"0")], "sample 'b' has no .cls"),
    "a label that is none": ([("b.png", png()), ("b.cls", b"cat")], "the label 'cat'"),
    "a label that is no text": ([("b.png", png()), ("b.cls", b"\xff\x00")], "has the label"),
    "a label that is long": ([("b.png", png()), ("b.cls", b"0" * 33)], "more than a label"),
    "a label out of range": ([*sound(3), ("b.png", png()), ("b.cls", b"2")], "label 2 at sample 3 is outside 0..1"),
    "a negative label": ([("b.png", png()), ("b.cls", b"-1")], "label -1 at sample 0 is outside 0..1"),
    "nothing": ([], "the split is empty"),
    "a dot in the key": (
        [*sound(2), ("img.1.png", png()), ("img.1.cls", b"0")],
        "sample 'img' has 0 images; it needs one (the ending begins at the first dot of a name, and '1.png' is none",
    ),
    "other members alone": ([("a.json", b"{}"), ("__init__.py", b"import os")], "the split is empty"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_members_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    members, reason = HOSTILE[what]
    if what == "nothing" and sys.version_info < (3, 10):
        reason = "Invalid argument"  # tarfile of Python 3.9 cannot read a file without members
    with pytest.raises(PluginError) as refused:
        read(shard(tmp_path / "a.tar", members))
    assert reason in str(refused.value)
    assert "a.tar" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(PluginError, match="member 'b.png' is a link, a device or sparse"):
        read(tmp_path / "a.tar")


def declared(size: int) -> Callable[[bytes], bytes]:
    """The first member says another size than it has."""

    def changed(data: bytes) -> bytes:
        header = tarfile.TarInfo("b.png")
        header.size = size
        return header.tobuf(tarfile.GNU_FORMAT)[:512] + data[512:]

    return changed


def long_name(data: bytes) -> bytes:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**40
    return header.tobuf(tarfile.GNU_FORMAT)[:512] + data


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in a member": (lambda data: data[: 512 + 20], "says 68 bytes, more than the file has"),
    "cut in a header": (lambda data: data[: 512 + 512 + 100], "cut off or damaged at byte 1024"),
    "no end": (lambda data: data[: 4 * 1024], "cut off or damaged at byte 4096"),
    "a header of zeros": (lambda data: data[:2048] + bytes(512) + data[2560:], "ends at byte 2048 of 10240, but more"),
    "two in one": (lambda data: data * 2, "ends at byte 4096 of 20480, but more follows.*; write the shard again"),
    "zeros for the second half": (lambda data: data[:2048] + bytes(2**20 + 512), "ends at byte 2048 of 1051136, but"),
    "a header that is another": (lambda data: data[:1024] + b"\x07" * 512 + data[1536:], "cut off or damaged"),
    "compressed": (lambda data: __import__("gzip").compress(data), "cannot be read"),
    "empty": (lambda data: b"", "cannot be read"),
    "a size of terabytes": (declared(2**42), "more than the file has"),
    "a size below 0": (declared(-512), "says -512 bytes"),
    "a name of terabytes": (long_name, f"a header of {2**40} bytes is more than can be right"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_shards_that_are_damaged(what: str, tmp_path: Path) -> None:
    damage, reason = DAMAGE[what]
    path = shard(tmp_path / "a.tar", sound(2))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PluginError, match=reason) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert HEADER_BYTES < 2**40


def test_zeros_fill_the_last_record_and_other_members_are_left(tmp_path: Path) -> None:
    """As `tar` with large records, masks beside images, and the files that macOS adds."""
    others = [("a/._000.png", b"x"), ("a/000.seg.png", png()), *sound(2), ("._b.png", b"x"), (".png", png())]
    path = shard(tmp_path / "a.tar", others)
    path.write_bytes(path.read_bytes() + bytes(2**19))
    assert len(read(path)) == 2
    assert len(read(path, num_classes=None)) == 2


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    files = read(shard(tmp_path / "a.tar", [*sound(2), ("b.png", b"no image"), ("b.cls", b"0")]))
    assert isinstance(files[2], PluginError)
    assert "a.tar' (sample 2): cannot be decoded" in str(files[2])


def test_an_image_of_more_pixels_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read(shard(tmp_path / "a.tar", sound(1)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert "exceeds limit" in str(files[0])


def test_names_that_are_no_text(tmp_path: Path) -> None:
    files = read(shard(tmp_path / "a.tar", [("\udcff\udcfe.png", png(3)), ("\udcff\udcfe.cls", b"1")]))
    assert int(files[0][1]) == 1
    with pytest.raises(PluginError, match="has no .cls"):
        read(shard(tmp_path / "b.tar", [("\udcff.png", png(3))]))


def test_a_shard_that_changed_is_not_read_on(tmp_path: Path) -> None:
    files = read(shard(tmp_path / "a.tar", sound(2)))
    shard(tmp_path / "a.tar", sound(3, 1))
    assert "it changed since it was read" in str(files[0])


def test_ood_images_need_no_label(tmp_path: Path) -> None:
    files = read(shard(tmp_path / "a.tar", [("b.png", png()), ("c.png", png()), ("c.cls", b"cat")]), num_classes=None)
    assert files.labels.tolist() == [-1, -1]


YAML = """
benchmark:
  name: tars
  num_classes: 2
  preprocessing: {pre_size: 2, img_size: 2, normalization: [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]}
  id:
    train: {shards: [shards/0.tar, shards/1.tar]}
    test: {shards: [shards/0.tar]}
  ood:
    near:
      datasets: [n]
      n: {shards: [near.tar], preprocessing: {normalization: [[0, 0, 0], [1, 1, 1]]}}
"""


def test_a_yaml_file_names_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the data root, as image lists; the same samples as from Python."""
    (tmp_path / "shards").mkdir()
    for number in range(2):
        shard(tmp_path / "shards" / f"{number}.tar", sound(4, 4 * number))
    shard(tmp_path / "near.tar", [(f"{n}.png", png(100 + n)) for n in range(3)])
    (tmp_path / "tars.yml").write_text(YAML)
    opened = open_splits(load_benchmark(str(tmp_path / "tars.yml")).with_data_root(tmp_path))
    expected = read(*(tmp_path / "shards" / f"{number}.tar" for number in range(2)))
    assert all(torch.equal(opened["id/train"][n][0], expected[n][0]) for n in range(8))
    assert opened["id/train"].labels.tolist() == expected.labels.tolist()
    assert opened["near/n"].preprocessing.normalization == ((0, 0, 0), (1, 1, 1))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    evaluation = evaluate(network, tmp_path / "tars.yml", "nci", data_root=tmp_path, progress=False)
    assert not evaluation.failures
    assert main(["validate", str(tmp_path / "tars.yml"), "--data-root", str(tmp_path)]) == 0
    assert "id/train 8, id/test 4, near/n 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{shards: ['pipe:touch hacked']}", "id: test: image shard 'pipe:touch hacked': pipes and URLs are not read"),
        ("{shards: ['https://host/a.tar']}", "pipes and URLs are not read"),
        ("{shards: a.tar}", "must be a list of paths of tar files, got 'a.tar'"),
        ("{shards: []}", "must be a list of paths of tar files"),
        ("{shards: {a.tar: 1}}", "must be a list of paths of tar files"),
        ("{shards: [1]}", "must be the path of a file that ends in .tar"),
        ("{shards: [a.tar], data_dir: images/}", "unknown key 'data_dir'"),
    ],
)
def test_what_a_yaml_file_cannot_name(entry: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tars.yml").write_text(YAML.replace("{shards: [shards/0.tar]}", entry))
    with pytest.raises(PluginError, match=re.escape(reason)):
        load_benchmark(str(tmp_path / "tars.yml"))
