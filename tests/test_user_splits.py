"""Everything that a user may bring as a split: what it is taken for, and what is refused in one line."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import SIZE, Tiny, draw_nothing
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder

from nci_plugin import Benchmark, Features, PluginError, evaluate
from nci_plugin.benchmarks import samples
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.detectors import NCI

CLASSES, ROWS = 3, 24
PREPROCESSING = Preprocessing(None, None, ((0.5,) * 3, (0.5,) * 3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).relu().mean((2, 3)))


class Items(Dataset):
    def __init__(self, item: Callable[[int], Any], rows: int = ROWS) -> None:
        self.item, self.rows = item, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Stream(IterableDataset):
    def __init__(self, items: Callable[[], Iterator[Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return self.items()


class Data:
    """Images of 8 bits, as tensors, PIL images and files in a folder of one sub-folder a class; a network; scores."""

    def __init__(self, root: Path) -> None:
        generator = np.random.default_rng(0)
        self.labels = torch.arange(ROWS) * CLASSES // ROWS
        self.pixels = generator.integers(0, 256, (ROWS, SIZE, SIZE, 3)).astype(np.uint8)
        self.pil = [Image.fromarray(each) for each in self.pixels]
        self.images = torch.stack([PREPROCESSING(image) for image in self.pil])
        self.paths = []
        for index, image in enumerate(self.pil):
            path = root / "photos" / f"class {self.labels[index]}" / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            self.paths.append(path)
        self.folder = root / "photos"
        (self.folder / "class 0" / "notes.txt").write_text("no image")
        torch.manual_seed(0)
        self.network = Net().eval()
        self.near = TensorDataset(1 - self.images, self.labels)

    def benchmark(self, **splits: Any) -> Benchmark:
        sound = {"test": TensorDataset(self.images, self.labels), "near": {"near": self.near}}
        return Benchmark.from_splits("mine", CLASSES, preprocessing=PREPROCESSING, **{**sound, **splits})

    def run(self, **splits: Any) -> tuple[float, list[float], list[float]]:
        evaluation = evaluate(self.network, self.benchmark(**splits), ["msp"], device="cpu", progress=False)
        scores = evaluation.scores["msp"]
        return evaluation.results[0].acc, scores["id/test"].tolist(), scores["near/near"].tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


# -------------------------------------------------------------------- what is taken

ID_SPLITS: dict[str, Callable[[Data], Any]] = {
    "(image, label)": lambda d: Items(lambda i: (d.images[i], int(d.labels[i]))),
    "(image, label, metadata)": lambda d: Items(lambda i: (d.images[i], d.labels[i], {"site": i})),
    "a list as an item": lambda d: Items(lambda i: [d.images[i], d.labels[i]]),
    "labels (1,), as MedMNIST's": lambda d: Items(lambda i: (d.images[i], np.array([int(d.labels[i])]))),
    "whole floats": lambda d: Items(lambda i: (d.images[i], float(d.labels[i]))),
    "data, label, as OpenOOD's": lambda d: Items(lambda i: {"data": d.images[i], "data_aux": 0, "label": d.labels[i]}),
    "pixel_values, labels": lambda d: Items(lambda i: {"pixel_values": d.images[i], "labels": int(d.labels[i])}),
    "image, label, as datasets'": lambda d: Items(lambda i: {"image": d.pil[i], "label": int(d.labels[i])}),
    "a UserDict, as a BatchFeature": lambda d: Items(lambda i: UserDict(img=d.images[i], target=d.labels[i])),
    "arrays": lambda d: Items(lambda i: (d.images[i].numpy(), d.labels[i].numpy())),
    "images with a graph": lambda d: Items(lambda i: (d.images[i].clone().requires_grad_(), d.labels[i])),
    "PIL images": lambda d: Items(lambda i: (d.pil[i], int(d.labels[i]))),
    "a list of PIL images": lambda d: list(zip(d.pil, d.labels)),
    "a list of paths": lambda d: [(path, int(label)) for path, label in zip(d.paths, d.labels)],
    "a list of texts": lambda d: [(str(path), int(label)) for path, label in zip(d.paths, d.labels)],
    "a list of tensors": lambda d: list(zip(d.images, d.labels.tolist())),
    "a tuple (images, labels)": lambda d: (d.images, d.labels),
    "a tuple of arrays": lambda d: (d.images.numpy(), d.labels.numpy()[:, None]),
    "an IterableDataset": lambda d: Stream(lambda: zip(d.images, d.labels)),
    "a generator": lambda d: (pair for pair in zip(d.pil, d.labels)),
    "a DataLoader": lambda d: DataLoader(TensorDataset(d.images, d.labels), 5),
    "a DataLoader that shuffles and drops": lambda d: DataLoader(
        TensorDataset(d.images, d.labels), 5, shuffle=True, drop_last=True
    ),
    "a DataLoader of mappings": lambda d: DataLoader(
        Items(lambda i: i),
        5,
        collate_fn=lambda rows: {"pixel_values": d.images[rows], "labels": d.labels[rows]},
    ),
    "a DataLoader of a stream": lambda d: DataLoader(Stream(lambda: zip(d.images, d.labels)), 5),
    "a folder": lambda d: d.folder,
    "a folder's name": lambda d: str(d.folder),
    "torchvision's ImageFolder": lambda d: ImageFolder(str(d.folder)),
}


@pytest.mark.parametrize("kind", ID_SPLITS)
def test_an_id_split_of_any_kind_gives_the_same_numbers(data, kind):
    assert data.run(test=ID_SPLITS[kind](data)) == data.run()


OOD_SPLITS: dict[str, Callable[[Data, torch.Tensor], Any]] = {
    "no label at all": lambda d, x: Items(lambda i: x[i]),
    "a tuple of the image alone": lambda d, x: Items(lambda i: (x[i],)),
    "label None": lambda d, x: Items(lambda i: (x[i], None)),
    "a text": lambda d, x: Items(lambda i: (x[i], "cat")),
    "one-hot": lambda d, x: Items(lambda i: (x[i], torch.eye(CLASSES)[0])),
    "label NaN": lambda d, x: Items(lambda i: (x[i], float("nan"))),
    "a mapping without label": lambda d, x: Items(lambda i: {"pixel_values": x[i]}),
    "a mapping with another label": lambda d, x: Items(lambda i: {"img": x[i], "label": "cat"}),
    "a tensor of images": lambda d, x: x,
    "an array of images": lambda d, x: x.numpy(),
    "a list of tensors": lambda d, x: list(x),
    "a stream of images": lambda d, x: Stream(lambda: iter(x)),
    "a DataLoader of images": lambda d, x: DataLoader(Items(lambda i: x[i]), 7),
}


@pytest.mark.parametrize("kind", OOD_SPLITS)
def test_an_ood_split_needs_no_labels(data, kind):
    assert data.run(near={"near": OOD_SPLITS[kind](data, 1 - data.images)}) == data.run()


def test_an_ood_folder_is_any_images(data, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for index, image in enumerate(data.pil):
        image.save(tmp_path / ("deep/er" if index % 2 else "") / f"{index:02d}.PNG")
    got = data.run(near={"near": tmp_path})
    expected = data.run(near={"near": [*data.images[::2], *data.images[1::2]]})
    assert got == expected


def test_a_loader_that_selects_gives_what_it_selects(data):
    loader = DataLoader(TensorDataset(data.images, data.labels), 4, sampler=SubsetRandomSampler([20, 3, 11, 5, 9, 17]))
    rows = [20, 3, 11, 5, 9, 17]
    assert data.run(test=loader) == data.run(test=TensorDataset(data.images[rows], data.labels[rows]))


@given(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS), st.integers(1, 7), st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_split_is_the_same_whatever_holds_it(data, rows, batch_size, shuffle):
    """Any selection, batch size and order of a loader: the samples are those of the dataset, in its order."""
    pairs = [(data.images[row], int(data.labels[row])) for row in rows]
    held = [samples.open_samples(source, CLASSES, None) for source in (pairs, iter(pairs), Stream(lambda: iter(pairs)))]
    held.append(samples.open_samples(DataLoader(pairs, batch_size, shuffle=shuffle), CLASSES, None))
    for split in held:
        assert [split[index][1] for index in range(len(split))] == [int(data.labels[row]) for row in rows]
        assert all(torch.equal(split[index][0], pairs[index][0]) for index in range(len(rows)))


def test_workers_read_what_the_process_itself_reads(data):
    split = Items(lambda i: {"image": data.pil[i], "label": data.labels[i]})
    alone, shared = (
        evaluate(data.network, data.benchmark(test=split), ["msp"], device="cpu", workers=workers, batch_size=5)
        for workers in (0, 2)
    )
    assert np.array_equal(alone.scores["msp"]["id/test"], shared.scores["msp"]["id/test"])


# -------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[Callable[[Data], Any], str]] = {
    "one-hot": (lambda d: Items(lambda i: (d.images[i], torch.eye(3)[d.labels[i]])), "image 0: its label.*argmax"),
    "no label": (lambda d: Items(lambda i: d.images[i]), "image 0: has no label"),
    "label None": (lambda d: Items(lambda i: (d.images[i], None)), "image 0: has no label"),
    "a text as label": (lambda d: Items(lambda i: (d.images[i], "cat")), "image 0: its label.*'cat'"),
    "a fraction later": (lambda d: Items(lambda i: (d.images[i], 0 if i < 9 else 0.5)), "image 9: .*no whole number"),
    "out of range later": (lambda d: Items(lambda i: (d.images[i], i // 8 + (i > 20))), r"image 21: .*outside 0\.\.2"),
    "two sizes": (lambda d: Items(lambda i: (d.images[i, :, : 6 + i % 2], 0)), "images of a split must have one size"),
    "keys that nobody knows": (lambda d: Items(lambda i: {"x": 1}), "data, pixel_values, image, img, got"),
    "a number as image": (lambda d: Items(lambda i: (3, 1)), "image 0: must be a tensor.*got int"),
    "a dataset that raises": (lambda d: Items(lambda i: {}[i]), "image 0: cannot be read .KeyError: 0"),
    "a dataset that raises later": (lambda d: Items(lambda i: (d.images[i * 2], 0)), "image 12: cannot be read .Index"),
    "an empty dataset": (lambda d: Items(lambda i: i, 0), "the split is empty"),
    "an empty list": (lambda d: [], "the split is empty"),
    "an empty stream": (lambda d: Stream(lambda: iter(())), "the split is empty"),
    "a stream that raises": (lambda d: Stream(lambda: (1 / 0 for _ in "ab")), "cannot be read .ZeroDivision"),
    "a mapping": (lambda d: {"a.png": 1}, "must be a Dataset or a list of images, got dict"),
    "bytes": (lambda d: b"abc", "must be a Dataset or a list of images, got bytes"),
    "a number": (lambda d: 5, "must be a Dataset, a DataLoader or a list of images, got int"),
    "a tuple of features": (lambda d: (torch.zeros(9, 5), torch.zeros(9)), "Features.features, labels"),
    "a matrix": (lambda d: np.zeros((9, 5)), "may be images or features"),
    "images of whole numbers": (lambda d: (torch.from_numpy(d.pixels), d.labels), "preprocessed floats"),
    "images and fewer labels": (lambda d: (d.images, d.labels[:-1]), "24 images, labels of shape"),
    "a loader that draws twice": (
        lambda d: DataLoader(TensorDataset(d.images, d.labels), 5, sampler=WeightedRandomSampler([1] * 24, 24)),
        "WeightedRandomSampler.*pass its dataset",
    ),
    "a loader of batches of its own": (
        lambda d: DataLoader(TensorDataset(d.images, d.labels), batch_sampler=[[0, 1], [2, 2]]),
        "may repeat or leave out images",
    ),
    "a loader without batches": (
        lambda d: DataLoader(TensorDataset(d.images, d.labels), batch_size=None),
        "pass its dataset",
    ),
    "a path that is not there": (lambda d: "data/test.txt", "'data/test.txt' is not there; pass a folder of images"),
    "a file": (lambda d: str(d.paths[0]), "is no folder; pass a folder of images, or .*ImageList"),
    "a path in a list that is not there": (lambda d: [("gone.png", 0)], "image 'gone.png': there is no such file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_id_splits_are_refused_in_one_line(data, kind):
    make, message = REFUSED[kind]
    with pytest.raises(PluginError, match=rf"^(benchmark 'mine' )?split 'id/test': .*{message}") as caught:
        data.run(test=make(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["photos", Path("photos"), "data/a.png", ["a.png", "b.png"], [Image.new("L", (8, 8))]]
)
def test_images_that_need_a_preprocessing_say_so(data, source, monkeypatch):
    """A text is never read letter by letter."""
    monkeypatch.chdir(data.folder.parent)
    benchmark = Benchmark.from_splits("mine", CLASSES, test=data.near, far={"far": source})
    with pytest.raises(PluginError, match=r"split 'far/far': .*(needs a preprocessing; pass|is not there)"):
        evaluate(data.network, benchmark, ["msp"])


def test_an_iterator_that_was_read_before_says_so(data):
    benchmark = data.benchmark(test=zip(data.images, data.labels))
    assert evaluate(data.network, benchmark, ["msp"], device="cpu").results
    with pytest.raises(PluginError, match="'id/test': the split is empty.*an iterator can be read once"):
        evaluate(data.network, benchmark, ["msp"], device="cpu")


def test_a_stream_is_bounded(data, monkeypatch):
    monkeypatch.setattr(samples, "HELD_BYTES", 10_000)

    def endless() -> Iterator[Any]:
        while True:
            yield data.images[0], 0

    with pytest.raises(PluginError, match="image 13: a stream is held in memory.*pass a Dataset with a length"):
        data.run(test=Stream(endless))


@pytest.mark.parametrize("near", ["photos", ["a.png"], torch.zeros(2, 3, 8, 8)])
def test_groups_map_names_to_images(near):
    with pytest.raises(PluginError, match="near must map names of data sets to their images, got"):
        Benchmark.from_splits("mine", 3, test=[], near=near)


@pytest.mark.parametrize("count", [3, np.int64(3), torch.tensor(3)])
def test_a_number_of_classes_of_any_whole_type(count):
    assert type(Benchmark.from_splits("mine", count, test=[]).num_classes) is int


@pytest.mark.parametrize("count", ["3", 3.0, 0, -1, 10**40, None, torch.ones(2)])
def test_other_numbers_of_classes_are_refused(count):
    with pytest.raises(PluginError, match="num_classes must be a whole number from 1 to 1000000000, got"):
        Benchmark.from_splits("mine", count, test=[])


@pytest.mark.parametrize(
    "split", ["id/tests", "ood/near", "near", "near/", "near/../x", "far/a\x1b[2J", "far/" + "x" * 200]
)
def test_splits_that_would_not_be_scored_or_stored_are_refused(split):
    with pytest.raises(PluginError, match="benchmark 'mine'"):
        Benchmark("mine", 3, {"id/test": [], "near/a": [], split: []})


# -------------------------------------------------------------------- folders


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("L", (SIZE, SIZE)).save(root / name / "a.png")
    return root


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"one sub-folder for each of 3 classes, got 2, \['a', 'b'\]"),
        (("a", "b", "c", "d"), "got 4"),
        (("2", "10", "9"), r"\['10', '2', '9'\], not the classes that they name; write all with as many digits"),
    ],
)
def test_folders_whose_order_is_no_label_are_refused(data, tmp_path, names, message):
    with pytest.raises(PluginError, match=message):
        data.run(test=folders(tmp_path / "test", *names))


def test_a_class_without_images_is_refused(data, tmp_path):
    folders(tmp_path / "test", "a", "b")
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(PluginError, match="test/c': holds no image; every class needs one"):
        data.run(test=tmp_path / "test")


def test_folders_of_other_classes_are_refused(data, tmp_path):
    """Sorted, both have three; but the class 1 of one is not that of the other."""
    train, test = folders(tmp_path / "train", "ant", "bee", "cat"), folders(tmp_path / "test", "ant", "cat", "dog")
    with pytest.raises(PluginError, match="are other classes, 'bee' is in one alone; name them alike"):
        data.run(train=train, test=test)


def test_a_link_that_leads_back_is_refused(data, tmp_path):
    root = folders(tmp_path / "far", "a")
    for name in ("x", "y"):
        (root / name).symlink_to(root)
    with pytest.raises(PluginError, match=r"folder '.*far': .*(deeper than|levels of symbolic links)"):
        data.run(near={"near": root})


def test_numbers_of_equally_many_digits_are_classes(data, tmp_path):
    folders(tmp_path / "test", "1", "2", "3")
    assert data.run(test=tmp_path / "test")[1]


# -------------------------------------------------------------------- image lists


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    return Tiny(tmp_path, csid=False)


def opened(tiny: Tiny) -> Any:
    return ImageList("benchmark_imglist/tiny/near.txt", "images_classic/", PREPROCESSING, tiny.data).read()


REWRITTEN: dict[str, Callable[[str], bytes]] = {
    "two spaces": lambda text: text.replace(" ", "  ").encode(),
    "a tab": lambda text: text.replace(" ", "\t").encode(),
    "spaces and tabs": lambda text: text.replace(" ", " \t ").encode(),
    "spaces around": lambda text: text.replace("near/", "  near/").replace("\n", " \t\n").encode(),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "both": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
}


@pytest.mark.parametrize("form", REWRITTEN)
def test_lists_that_any_reader_would_read(tiny, form):
    """They are the same list, down to what its content is known by."""
    before = opened(tiny)
    content = list(before.content())
    tiny.list("near").write_bytes(REWRITTEN[form](tiny.list("near").read_text()))
    assert list(opened(tiny).content()) == content


def test_a_leading_dot_names_the_same_images(tiny):
    before = opened(tiny)[3][0]
    tiny.list("near").write_text(tiny.list("near").read_text().replace("near/", "./near/"))
    assert torch.equal(opened(tiny)[3][0], before)


def test_names_that_hold_spaces_and_backslashes_are_kept(tiny):
    names = ["near/a  b.png", "near/c\\d.png", "near/e\tf.png", "near/g 1.png"]
    for name in names:
        Image.new("L", (SIZE, SIZE)).save(tiny.data / "images_classic" / name)
    tiny.list("near").write_text("".join(f"{name} -1\n" for name in names))
    assert list(opened(tiny).names) == names


@given(
    st.lists(
        st.tuples(st.text("ab .\\é", min_size=1, max_size=8), st.integers(-1, 9), st.sampled_from([" ", "  ", "\t"])),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_a_line_is_its_path_and_its_label(tmp_path_factory, lines):
    root = tmp_path_factory.mktemp("list")
    wanted = []
    for number, (text, label, gap) in enumerate(lines):
        name = f"{number}{text}x"
        Image.new("L", (1, 1)).save(root / name, "PNG")
        wanted.append((name, label, gap))
    (root / "list.txt").write_text("".join(f"{name}{gap}{label}\n" for name, label, gap in wanted), encoding="utf-8")
    files = ImageList("list.txt", "", PREPROCESSING, root).read()
    assert [(name, label) for name, label in zip(files.names, files.labels.tolist())] == [each[:2] for each in wanted]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("..\\..\\tiny.ckpt -1", "must stay inside"),
        ("\\\\server\\share.png -1", "must stay inside"),
        ("near/1.png,-1", "expected 'path label'"),
        ("near/1.png -1 -1", "images are missing"),
        ("near/1.png\u00a0-1", "expected 'path label'"),
    ],
)
def test_other_lines_are_refused(tiny, line, message):
    tiny.list("near").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(PluginError, match=message):
        opened(tiny)


def test_an_empty_data_dir_is_the_data_root(tiny):
    entry = {"data_dir": "", "imglist_path": "benchmark_imglist/tiny/near.txt"}
    tiny.config["benchmark"]["ood"]["far"]["far"] = entry
    tiny.list("near").write_text("".join(f"images_classic/near/{index}.png -1\n" for index in range(6)))
    tiny.config["benchmark"]["ood"]["near"]["near"] = entry
    tiny.save_config()
    assert main(["validate", str(tiny.yaml), "--data-root", str(tiny.data)]) == 0


# -------------------------------------------------------------------- splits that are left out


def without(tiny: Tiny, *keys: str) -> None:
    part = tiny.config["benchmark"]
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    tiny.save_config()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not rendered, which would take seconds."""
    monkeypatch.setattr("nci_plugin.report.figures.save", lambda figure, path: None)


@pytest.mark.parametrize("written", [{}, None, {"near": {"datasets": []}}])
def test_an_ood_key_that_names_no_set_is_none(tiny, written):
    tiny.config["benchmark"]["ood"] = written
    tiny.save_config()
    assert not load_benchmark(str(tiny.yaml)).has_ood


@pytest.mark.usefixtures("drawn")
def test_a_benchmark_of_id_splits_alone(tiny, capsys):
    """Collapse needs no OOD set: every command but eval does what it can, and says what it leaves out."""
    without(tiny, "ood")
    common = [*tiny.eval()[4:]]  # without the command, the benchmark and the detectors
    assert main(["validate", str(tiny.yaml), "--data-root", str(tiny.data)]) == 0
    assert main(["explain", str(tiny.image("far", 0)), str(tiny.yaml), *common]) == 0
    assert main(["eval", str(tiny.yaml), "--detectors", "msp", *common]) == 2
    assert "there is no OOD set; add one to 'near' or 'far'" in capsys.readouterr().err
    tiny.passes()
    assert main(["diagnose", str(tiny.yaml), *common, "--layers"]) == 0
    output = capsys.readouterr().out
    assert "NC1: Tr(Sigma_W) / Tr(Sigma_B) on train is " in output
    assert "no OOD set: NC5, AUROC and its correlation with collapse are left out" in output
    assert main(["diagnose", str(tiny.output)]) == 0  # drawn again from its files


@pytest.mark.usefixtures("drawn")
def test_dynamics_without_an_ood_set(tiny, capsys):
    without(tiny, "ood")
    for epoch in (1, 2):
        tiny.save_checkpoint(tiny.root / "run" / f"epoch_{epoch:03d}.ckpt", epoch)
    options = [*tiny.eval(ckpt_path=None)[4:]]
    assert main(["dynamics", str(tiny.root / "run"), "--benchmark", str(tiny.yaml), *options]) == 0
    output = capsys.readouterr().out
    assert "no OOD set, so AUROC along training is left out" in output
    assert "run: 2 checkpoints, 2 measured now" in output


def test_evaluate_without_an_ood_set_is_refused_before_the_pass(data):
    class Refusing(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("passed")

    benchmark = Benchmark.from_splits("mine", CLASSES, test=data.near, train=data.near)
    with pytest.raises(PluginError, match="there is no OOD set; add one to 'near' or 'far'"):
        evaluate(Refusing(), benchmark, ["msp"])


@pytest.mark.parametrize("source", ["images", "features"])
def test_detectors_that_fit_are_failures_without_a_training_split(data, source):
    network: Any = data.network
    benchmark = data.benchmark()
    if source == "features":
        network, rows = data.network.fc, torch.randn(ROWS, 5)
        benchmark = data.benchmark(test=Features(rows, data.labels), near={"near": Features(rows + 1)})
    evaluation = evaluate(network, benchmark, ["msp", "nci", "knn", "mls", "pytorch_ood:vim"], device="cpu")
    assert set(evaluation.scores) == {"msp", "mls"}
    assert {row.detector for row in evaluation.results} == {"msp", "mls"}
    assert set(evaluation.failures) == {"nci", "knn", "pytorch_ood:vim"}
    assert all("lacks the split 'id/train', on which it fits; add it" in why for why in evaluation.failures.values())
    with pytest.raises(PluginError, match="'id/train' is missing"):
        evaluate(network, benchmark, ["nci"], device="cpu")


def test_the_command_scores_what_needs_no_training_split(tiny, capsys):
    without(tiny, "id", "train")
    assert main(tiny.eval("msp", "nci")) == 1
    assert "not scored: nci: " in capsys.readouterr().out
    assert [path.name for path in (tiny.output / "ood").iterdir()] == ["msp.csv"]


class ReadsValidation(NCI):
    name = "reads_validation"

    def _fit(self, training: Any, head: Any, validation: Any) -> None:
        assert validation is None
        super()._fit(training, head, validation)


def test_what_is_tested_on_calibrates_and_chooses_nothing(data):
    rows = TensorDataset(data.images, data.labels)
    detectors = ["klm", "nci_auto", "nci_gated", "nci", ReadsValidation]
    benchmark = data.benchmark(train=rows, val=list(zip(data.pil, data.labels)), ood_val=data.near)
    evaluation = evaluate(data.network, benchmark, detectors, device="cpu", progress=False)
    assert list(evaluation.scores) == ["nci", "reads_validation"]
    assert all("samples are tested on too" in why for why in evaluation.failures.values())
    assert all(row.chosen_by.startswith("fixed") for row in evaluation.results)
    fewer = data.benchmark(train=rows, val=TensorDataset(data.images[1:], data.labels[1:]), ood_val=data.near)
    assert list(evaluate(data.network, fewer, ["klm", "nci"], device="cpu").scores) == ["klm", "nci"]


@pytest.mark.parametrize("detectors", [NCI, [NCI], ["msp", NCI]])
def test_a_detector_class_is_its_detector(data, detectors):
    benchmark = data.benchmark(train=TensorDataset(data.images, data.labels))
    by_class = evaluate(data.network, benchmark, detectors, device="cpu").scores["nci"]
    by_object = evaluate(data.network, benchmark, NCI(), device="cpu").scores["nci"]
    assert all(np.array_equal(by_class[name], by_object[name]) for name in by_object)


def test_a_class_that_is_no_detector_is_refused(data):
    with pytest.raises(PluginError, match="must be a class that inherits nci_plugin.Detector, got <class 'dict'>"):
        evaluate(data.network, data.benchmark(), [dict])


def test_the_yaml_of_an_id_benchmark_still_names_a_key_that_nobody_knows(tiny):
    tiny.yaml.write_text(yaml.safe_dump({"benchmark": {**tiny.config["benchmark"], "odd": {}}}))
    with pytest.raises(PluginError, match="unknown key 'odd'"):
        load_benchmark(str(tiny.yaml))
