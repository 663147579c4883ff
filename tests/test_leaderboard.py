"""Rows for OpenOOD's leaderboard: numbers, bytes, ranks, and what its own converter makes of them."""

from __future__ import annotations

import configparser
import csv
import hashlib
import io
import re
import shutil
from pathlib import Path

import pytest

from nci_plugin.adapters.openood.checkout import LANDMARK
from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.checks import PluginError
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.evaluation.results import Result
from nci_plugin.evaluation.run import Run
from nci_plugin.installation import plan_installation
from nci_plugin.leaderboard import board as board_module
from nci_plugin.leaderboard.board import BOARDS, COLUMNS, PAPER_COLUMNS, Board, Row, Table, cells_of, csv_line
from nci_plugin.leaderboard.comparability import SIZES
from nci_plugin.leaderboard.disputed import DISPUTES, dispute
from nci_plugin.leaderboard.names import alias, name_network
from nci_plugin.leaderboard.rank import standing

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(board_module.__file__).parent / "data"
SHA256 = {
    "cifar10.csv": "6b6ea7770c027b090a3baaf383b01b3cf010d933f94de348e23d83db19d017b2",
    "cifar100.csv": "034e91add20a1f27e36273863fe1dfcd0bec71b5e0e29b7a1cc9b2972ce70174",
    "imagenet1k_fsood.csv": "86f4cd65619ca9710a2aecfadb4445be061c74b56464f3919e046a4d33b19e72",
    "imagenet1k_ood.csv": "d0a3d698976b52fe88762f13f8bf25e485f72a87f351362e4eb3f4b3d9dddde9",
    "imagenet200_fsood.csv": "543b21f9690301dff35179f9deccd2608dcc490c9c45102cf9cbb71512951257",
    "imagenet200_ood.csv": "3bf340c448a2fb4c72e9e0aeb8c29afd26dbb1b4189649412cacd4dc8f450884",
    "papers.csv": "21f85e6a1f2afabdbfdf250c1fa690d17c9883711a44dea4ecc8d7bea9fcc0aa",
}
"""The files as OpenOOD has them."""

SEARCH = "search of 4 values of alpha: best AUROC of id/val against ood/val, 91.00"
CIFAR_RUN = "cifar10_resnet18_32x32_base_e100_lr0.1_default"
NUMBERS = {"s0": (87.70, 91.0, 95.0), "s1": (88.10, 91.5, 95.3), "s2": (88.30, 92.0, 94.9)}
"""Near and far AUROC and accuracy; mean and population std 88.0333 and 0.2494, 91.5 and 0.4082, 95.0667 and 0.1700."""

VIT = {"": (75.555, 90.0, 81.14)}


def results_of(benchmark, detectors, numbers, setting="ood", n_id=None, sizes=None, **changes):
    """Results as an evaluation of OpenOOD's own splits gives them."""
    sizes = sizes or SIZES[benchmark]
    if n_id is None:
        n_id = sum(
            size for name, size in sizes.items() if name.split("/")[0] in ("id", "csid")[: 1 + (setting != "ood")]
        )
    found = []
    for detector in detectors:
        for seed, (near, far, acc) in numbers.items():
            for group, auroc in ((NEAR, near), (FAR, far)):
                sets = {name.split("/")[1]: size for name, size in sizes.items() if name.split("/")[0] == group}
                for data_set, count in {**sets, f"{group}ood": sum(sets.values())}.items():
                    values = {
                        "hyperparameters": {"alpha": 0.001},
                        "chosen_by": SEARCH,
                        "seconds": {"fit": 0.0, "search": 0.0, "score": 0.0},
                        **changes,
                    }
                    provenance = {
                        "checkpoint": f"results/{CIFAR_RUN}/{seed}/best.ckpt",
                        "network_factory": "nci_plugin.networks.resnet:ResNet18_32x32",
                        "weights": f"weights of {seed}",
                        **values.pop("provenance", {}),
                    }
                    metrics = {"fpr95": 30.0, "auroc": auroc, "aupr_in": 80.0, "aupr_out": 70.0, "acc": acc}
                    keys = {"group": group, "dataset": data_set, "seed": seed, "n_id": n_id, "n_ood": count}
                    found.append(
                        Result(benchmark, detector, setting, **keys, **metrics, provenance=provenance, **values)
                    )
    return found


def written(path, results):
    path.mkdir(parents=True)
    (path / "results.jsonl").write_text("".join(f"{result.to_json()}\n" for result in results))
    return path


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No sentence is folded."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture
def cifar(tmp_path):
    return written(tmp_path / "results" / CIFAR_RUN, results_of("cifar10", ["nci", "neco"], NUMBERS))


@pytest.fixture
def vit(tmp_path):
    provenance = {"checkpoint": "vit_b_16-c867db91.pth", "network_factory": "torchvision:vit_b_16"}
    full = {"": (60.1, 75.0, 61.49)}
    return written(
        tmp_path / "results" / "imagenet_vit-b-16_tvsv1_base_default",
        results_of("imagenet", ["nci"], VIT, provenance=provenance)
        + results_of("imagenet", ["nci"], full, "fsood", provenance=provenance),
    )


@pytest.fixture
def checkout(tmp_path):
    """A checkout of the leaderboard, as it is in OpenOOD's branch."""
    root = tmp_path / "OpenOOD"
    (root / "results").mkdir(parents=True)
    (root / "utils").mkdir()
    for name in SHA256:
        shutil.copyfile(DATA / name, root / ("utils" if name == "papers.csv" else "results") / name)
    return root


@pytest.fixture
def run(capsys):
    def command(*arguments):
        code = main(["leaderboard", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def refused(run):
    def command(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("nci-ood: error: ")
        assert len(err.splitlines()) == 1
        return err

    return command


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# -------------------------------------------------------------------- the board's own conversion, written anew


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def convert(root):
    """File name -> (rank, near, far, accuracy) of every board: the rules of the leaderboard's converter."""
    papers = read_csv(root / "utils" / "papers.csv")
    links = {row["Alias"]: row["Link"] for row in papers}
    assert len(links) == len(papers)  # pandas refuses to index by an alias that is there twice
    converted = {}
    for path in sorted((root / "results").iterdir()):
        rows = read_csv(path)
        assert all(None not in row and None not in row.values() for row in rows)
        first = [{name: re.search(r"(\d+\.\d+)", row[name]) for name in COLUMNS[2:5]} for row in rows]
        near = [float(found[COLUMNS[2]].group(1)) for found in first]
        by_name = {}
        for index, row in enumerate(rows):
            for part in row["Postprocessor"].split(" + "):
                assert links[part].startswith("http")
            name = f"{row['Training']}_{row['Postprocessor']}_{row['Arch'].replace('/', '-')}"
            name += f"_{row['Additional_Description']}" if row["Additional_Description"] else ""
            name = f"{name}.json".replace(" ", "_")
            assert "/" not in name
            assert name not in by_name
            rank = 1 + sum(value > near[index] or (value == near[index] and i < index) for i, value in enumerate(near))
            accuracy = first[index][COLUMNS[4]]
            far = float(first[index][COLUMNS[3]].group(1))
            by_name[name] = (rank, near[index], far, float(accuracy.group(1)) if accuracy else "/")
        converted[path.stem] = by_name
    return converted


def test_converter_reads_the_snapshot(checkout):
    converted = convert(checkout)
    assert {name: len(rows) for name, rows in converted.items()} == {
        "cifar10": 61,
        "cifar100": 57,
        "imagenet1k_fsood": 83,
        "imagenet1k_ood": 97,
        "imagenet200_fsood": 60,
        "imagenet200_ood": 56,
    }
    assert converted["cifar10"]["RotPred_+_PixMix_RotPred_ResNet18_100_epochs.json"][0] == 1
    assert converted["imagenet1k_ood"]["CrossEntropy_CombOOD_ResNet50_torchvision_ckpt.json"][:2] == (1, 95.22)
    assert converted["imagenet1k_ood"]["CrossEntropy_MDS_ViT-B-16_torchvision_ckpt.json"][1] == 79.04
    assert converted["cifar10"]["CIDER_KNN_ResNet18_100_epochs.json"][3] == "/"


# -------------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", SHA256)
def test_snapshot_is_read_and_written_byte_for_byte(name):
    content = (DATA / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    table = Table.read(DATA / name, PAPER_COLUMNS if name == "papers.csv" else COLUMNS)
    assert table.text.encode() == content
    for number, cells in table.cells().items():
        assert table.replaced(number, cells).text.encode() == content
        if name != "papers.csv":
            assert csv_line(cells_of(Row(*cells))) == table.lines[number].rstrip("\r\n")


def test_snapshot_holds_what_makes_it_hard_to_write():
    contents = {name: (DATA / name).read_bytes() for name in SHA256}
    assert [name for name, content in contents.items() if not content.endswith(b"\n")] == [
        "imagenet1k_ood.csv",
        "imagenet200_ood.csv",
        "papers.csv",
    ]
    assert contents["papers.csv"].count(b"\r\n") == contents["papers.csv"].count(b"\n") == 63
    assert {path.name for path in DATA.iterdir()} == set(SHA256)


@pytest.mark.parametrize("name", SHA256)
def test_a_row_more_is_one_line_and_one_line_end_more(name):
    content = (DATA / name).read_bytes()
    columns = PAPER_COLUMNS if name == "papers.csv" else COLUMNS
    cells = [f"cell {number}" for number, _ in enumerate(columns)]
    end = b"\r\n" if name == "papers.csv" else b"\n"
    line = ",".join(cells).encode()
    expected = content + line + end if content.endswith(b"\n") else content + end + line
    assert Table.read(DATA / name, columns).appended(cells).text.encode() == expected


# -------------------------------------------------------------------- rows


def sections(out):
    """File -> parsed lines of what ``rows`` prints."""
    found = {}
    for block in out.split("\n\n"):
        name, *lines = block.splitlines()
        if name.endswith(".csv"):
            found[name] = list(csv.reader(lines))
    return found


def test_rows_of_three_networks(cifar, run):
    code, out, err = run("rows", cifar)
    numbers = ["88.03 ± 0.25", "91.50 ± 0.41", "95.07 ± 0.17", "No", "ResNet18", "100 epochs"]
    assert (code, err) == (0, "")
    assert sections(out) == {
        "results/cifar10.csv": [["CrossEntropy", "NCI", *numbers], ["CrossEntropy", "NECO", *numbers]],
        "utils/papers.csv": [["NECO", "https://arxiv.org/abs/2310.06823"]],
    }


def test_rows_of_one_network_on_both_boards(vit, run):
    _, out, _ = run("rows", vit)
    network = ["No", "ViT-B/16", "torchvision ckpt"]
    found = sections(out)
    assert found["results/imagenet1k_fsood.csv"] == [["CrossEntropy", "NCI", "60.10", "75.00", "61.49", *network]]
    (row,) = found["results/imagenet1k_ood.csv"]
    assert row == ["CrossEntropy", "NCI", f"{75.555:.2f}", "90.00", "81.14", *network]
    assert set(found) == {"results/imagenet1k_fsood.csv", "results/imagenet1k_ood.csv"}
    assert "warning" not in out


def test_one_seed_is_one_network(tmp_path, run):
    results = results_of("cifar10", ["nci"], {"s0": NUMBERS["s0"]})
    _, out, _ = run("rows", written(tmp_path / CIFAR_RUN, results))
    assert sections(out)["results/cifar10.csv"][0][2:5] == ["87.70", "91.00", "95.00"]


def test_rows_take_the_names_given(cifar, run):
    options = ["--training", "LogitNorm", "--arch-name", "WRN-28", "--description", "", "--outlier-data"]
    options += ["--alias", "nci=NCI v2", "neco=NCI + NECO", "--link", "NCI v2=https://x.org", "NECO=https://y.org"]
    _, out, _ = run("rows", cifar, *options)
    found = sections(out)
    assert [row[:2] + row[5:] for row in found["results/cifar10.csv"]] == [
        ["LogitNorm", "NCI v2", "Yes", "WRN-28", ""],
        ["LogitNorm", "NCI + NECO", "Yes", "WRN-28", ""],
    ]
    assert found["utils/papers.csv"] == [["NCI v2", "https://x.org"], ["NECO", "https://y.org"]]


def test_every_number_is_traced_to_its_results(cifar, run):
    _, out, _ = run("rows", cifar, "--detectors", "neco", "--explain")
    lines = (cifar / "results.jsonl").read_text().splitlines()
    column, traced = "", {}
    for line in out.split("neco")[-1].splitlines():
        column = match.group(1) if (match := re.match(r" +(\S+) = ", line)) else column
        if match := re.match(r" +(s\d)  ([\d.]+)  results\.jsonl line (\d+)", line):
            traced[column, match.group(1)] = (float(match.group(2)), Result.from_json(lines[int(match.group(3)) - 1]))
    assert len(traced) == 9
    for (column, seed), (value, result) in traced.items():
        metric, group = {
            "Near-OOD_AUROC": ("auroc", "nearood"),
            "Far-OOD_AUROC": ("auroc", "farood"),
            "ID_Accuracy": ("acc", "nearood"),
        }[column]
        assert (result.detector, result.setting, result.seed, result.dataset) == ("neco", "ood", seed, group)
        assert value == getattr(result, metric) == NUMBERS[seed][list(COLUMNS[2:5]).index(column)]
    assert "the mean over cifar100, tin;" in out
    assert f"s1: alpha=0.001 ({SEARCH})" in out
    assert "weights weights of s2" in out


def test_issue_has_every_field_and_the_csv_files_beside_it(vit, run, tmp_path):
    code, out, _ = run("rows", vit, "--issue", "--output", tmp_path / "issue")
    assert code == 0
    assert set(files(tmp_path / "issue")) == {"nci.md", "nci_imagenet1k_ood.csv", "nci_imagenet1k_fsood.csv"}
    text = (tmp_path / "issue" / "nci.md").read_text()
    for line in (
        "- **`Training`**: CrossEntropy",
        "- **`Postprocessor`**: NCI",
        "- **`Near-OOD AUROC`**: 75.56 (imagenet1k_ood); 60.10 (imagenet1k_fsood)",
        "- **`Far-OOD AUROC`**: 90.00 (imagenet1k_ood); 75.00 (imagenet1k_fsood)",
        "- **`ID Accuracy`**: 81.14 (imagenet1k_ood); 61.49 (imagenet1k_fsood)",
        "- **`Outlier Data`**: No",
        "- **`Model Arch.`**: ViT-B/16",
        "- **`Additional Description`**: torchvision ckpt",
        "- **Link**: https://arxiv.org/abs/2311.01479",
        "Attached: nci_imagenet1k_ood.csv, nci_imagenet1k_fsood.csv.",
    ):
        assert line in text.splitlines()
    table = list(csv.DictReader(io.StringIO((tmp_path / "issue" / "nci_imagenet1k_fsood.csv").read_text())))
    assert [row["AUROC"] for row in table if row[""] in ("nearood", "farood")] == ["60.10", "75.00"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nci", "NCI"),
        ("openood:knn", "KNN"),
        ("openood:temp_scaling", "TempScale"),
        ("openood:iodin", "i-ODIN"),
        ("openood:adascale_a", "AdaSCALE-A"),
        ("openood:mds_ensemble", "MDSEns"),
        ("pytorch_ood:vim", "VIM"),
        ("pytorch_ood:rmd", "RMDS"),
        ("knn_l1", "KNN-L1"),
        ("rmds_pp", "RMDS++"),
    ],
)
def test_detectors_have_the_names_of_the_board(name, expected):
    assert alias(name, list(Board.snapshot().links())) == expected


@pytest.mark.parametrize(
    ("directory", "benchmark", "checkpoint", "factory", "expected"),
    [
        ("mine", "cifar10", f"results/{CIFAR_RUN}/s0/best.ckpt", "a.b:ResNet18_32x32", "ResNet18, 100 epochs"),
        (CIFAR_RUN, "cifar10", "x.pt", "openood.networks:ResNet18_32x32", "ResNet18, 100 epochs"),
        ("imagenet200_resnet18_224x224_base_e90_lr0.1", "imagenet200", "", "t:resnet18", "ResNet18, 90 epochs"),
        ("x", "imagenet", "w/resnet50_imagenet1k_v1.pth", "models:resnet50", "ResNet50, torchvision ckpt"),
        ("imagenet_swin-t_tvsv1_base_default", "imagenet", "", "t:swin_t", "Swin-T, torchvision ckpt"),
        ("imagenet_regnet_tvsv1_base_default", "imagenet", "", "t:regnet_y_16gf", "RegNet_Y_16GF, torchvision ckpt"),
        ("imagenet_resnet50_tvsv2_base_default", "imagenet", "", "t:resnet50", "ResNet50, torchvision ckpt v2"),
    ],
)
def test_networks_have_the_names_of_the_board(directory, benchmark, checkpoint, factory, expected):
    provenance = {"checkpoint": checkpoint, "network_factory": factory}
    results = results_of(benchmark, ["nci"], VIT, provenance=provenance)
    network = name_network(Run(Path(directory), results), Board.snapshot())
    assert (network.training, f"{network.arch}, {network.description}") == ("CrossEntropy", expected)


@pytest.mark.parametrize(
    ("directory", "checkpoint", "factory", "option"),
    [
        (CIFAR_RUN, "x.pt", "net.py:densenet", "--arch-name"),
        ("mine", "x.pt", "a:ResNet18_32x32", "--training"),
        ("mine_base_lr", "x.pt", "a:ResNet18_32x32", "--description"),
        ("cifar10_resnet18_32x32_logitnorm_e100_lr0.1", "x.pt", "a:ResNet18_32x32", "--training"),
    ],
)
def test_names_that_cannot_be_told_are_asked_for(tmp_path, refused, directory, checkpoint, factory, option):
    results = results_of("cifar10", ["nci"], NUMBERS, provenance={"checkpoint": checkpoint, "network_factory": factory})
    assert f"; pass {option}" in refused("rows", written(tmp_path / directory, results))


# -------------------------------------------------------------------- apply


def test_apply_adds_and_updates_and_changes_no_other_byte(cifar, checkout, run):
    before, converted = files(checkout), convert(checkout)
    code, _, err = run("apply", cifar, "--board", checkout)
    assert (code, err) == (0, "")
    after = files(checkout)
    assert {name for name in before if before[name] != after[name]} == {"results/cifar10.csv", "utils/papers.csv"}
    assert set(before) == set(after)
    numbers = "88.03 ± 0.25,91.50 ± 0.41,95.07 ± 0.17,No,ResNet18,100 epochs\n".encode()
    old = "CrossEntropy,NCI,88.86 ± 0.00,91.27 ± 0.00,95.22 ± 0.00,No,ResNet18,100 epochs\n".encode()
    assert after["results/cifar10.csv"] == (
        before["results/cifar10.csv"].replace(old, b"CrossEntropy,NCI," + numbers) + b"CrossEntropy,NECO," + numbers
    )
    assert after["utils/papers.csv"] == before["utils/papers.csv"] + b"\r\nNECO,https://arxiv.org/abs/2310.06823"

    now = convert(checkout)["cifar10"]
    assert {name: values[1:] for name, values in now.items() if "_NCI_" not in name and "_NECO_" not in name} == {
        name: values[1:] for name, values in converted["cifar10"].items() if "_NCI_" not in name
    }
    better = sum(near > 88.03 for _, near, _, _ in converted["cifar10"].values()) - 1  # the old row of NCI, 88.86
    # 88.03 is what MSP has: the NCI row stands later in the file, the new one at its end.
    assert now["CrossEntropy_NCI_ResNet18_100_epochs.json"] == (better + 2, 88.03, 91.50, 95.07)
    assert now["CrossEntropy_NECO_ResNet18_100_epochs.json"] == (better + 3, 88.03, 91.50, 95.07)

    code, out, _ = run("apply", cifar, "--board", checkout)
    assert code == 0
    assert "nothing to change" in out
    assert files(checkout) == after


def test_the_same_command_applies_again(cifar, checkout, run, refused):
    command = ["apply", cifar, "--board", checkout, "--alias", "neco=Mine", "--link"]
    assert run(*command, "Mine=https://x.org")[0] == 0
    code, out, _ = run(*command, "Mine=https://x.org")
    assert code == 0
    assert "nothing to change" in out
    assert "the board has https://x.org" in refused(*command, "Mine=https://y.org")


def test_apply_ends_the_last_line_of_a_board(vit, checkout, run):
    before = files(checkout)
    run("apply", vit, "--board", checkout)
    after = files(checkout)
    for name, numbers in (("imagenet1k_ood", "75.56,90.00,81.14"), ("imagenet1k_fsood", "60.10,75.00,61.49")):
        content, line = before[f"results/{name}.csv"], f"CrossEntropy,NCI,{numbers},No,ViT-B/16,torchvision ckpt"
        expected = [content + line.encode() + b"\n", content + b"\n" + line.encode()]
        assert after[f"results/{name}.csv"] == expected[not content.endswith(b"\n")]
    assert after["utils/papers.csv"] == before["utils/papers.csv"]
    assert convert(checkout)["imagenet1k_fsood"]["CrossEntropy_NCI_ViT-B-16_torchvision_ckpt.json"][1] == 60.10


def test_dry_run_shows_the_diff_and_writes_nothing(cifar, checkout, run):
    before = files(checkout)
    code, out, _ = run("apply", cifar, "--board", checkout, "--dry-run")
    assert code == 0
    assert files(checkout) == before
    changed = [line for line in out.splitlines() if re.match(r"[+-](?![+-])", line)]
    numbers = "88.03 ± 0.25,91.50 ± 0.41,95.07 ± 0.17,No,ResNet18,100 epochs"
    assert changed == [
        "-RMDS++,https://arxiv.org/abs/2505.18032",
        "+RMDS++,https://arxiv.org/abs/2505.18032",
        "+NECO,https://arxiv.org/abs/2310.06823",
        "-CrossEntropy,NCI,88.86 ± 0.00,91.27 ± 0.00,95.22 ± 0.00,No,ResNet18,100 epochs",
        f"+CrossEntropy,NCI,{numbers}",
        f"+CrossEntropy,NECO,{numbers}",
    ]
    assert {line for line in out.splitlines() if line.startswith(("---", "+++"))} == {
        "--- a/utils/papers.csv",
        "+++ b/utils/papers.csv",
        "--- a/results/cifar10.csv",
        "+++ b/results/cifar10.csv",
    }


def test_duplicates_are_refused(cifar, checkout, refused, tmp_path):
    board = checkout / "results" / "cifar10.csv"
    original = board.read_bytes()
    for line, reason in (
        ("CrossEntropy,NCI,1.00,1.00,1.00,No,ResNet18,100 epochs\n", "in line 62, 63; leave one of them"),
        ("CrossEntropy,Neco,1.00,1.00,1.00,No,ResNet18,100 epochs\n", "in line 63; give yours the same names"),
    ):
        board.write_bytes(original + line.encode())
        before = files(checkout)
        assert reason in refused("apply", cifar, "--board", checkout)
        assert files(checkout) == before
    both = written(tmp_path / "b" / CIFAR_RUN, results_of("cifar10", ["nci", "openood:nci"], NUMBERS))
    board.write_bytes(original)
    assert "'nci' and 'openood:nci' would both be its row NCI" in refused("apply", both, "--board", checkout)


def test_digits_and_other_benchmarks_are_refused_and_rank_among_themselves(checkout, run, refused, tmp_path):
    numbers = {"s0": (80.0, 90.0, 99.0), "s1": (81.0, 91.0, 99.0)}
    results = [
        *results_of("digits", ["nci"], numbers, sizes=SIZES["cifar10"]),
        *results_of("digits", ["msp"], {seed: (85.0, 60.0, 99.0) for seed in numbers}, sizes=SIZES["cifar10"]),
    ]
    digits = written(tmp_path / "digits", results)
    before = files(checkout)
    for arguments in (["rows", digits], ["apply", digits, "--board", checkout]):
        error = refused(*arguments)
        assert "are of 'digits', which is no benchmark of OpenOOD's leaderboard (cifar10, cifar100," in error
        assert "its numbers stand only beside each other" in error
    assert files(checkout) == before
    assert "unknown benchmark of the leaderboard 'digits'" in refused("compare", "digits", "nci")
    code, out, _ = run("rank", digits)
    assert code == 0
    assert [line.split() for line in out.splitlines() if re.match(r"\d", line)] == [
        ["1", "85.00", "+-", "0.00", "60.00", "+-", "0.00", "msp"],
        ["2", "80.50", "+-", "0.50", "90.50", "+-", "0.50", "nci"],
    ]
    assert "board of" not in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--description", "a/b"], "Additional_Description 'a/b': must not hold '/'"),
        (["--training", "None"], "Training 'None': the board's reader would read it as nan"),
        (["--training", " x"], "Training ' x': must be one line without spaces around it"),
        (["--alias", "nci=NCI-X"], ""),
        (["--alias", "nci=A + B"], "link: none is known for A, B, and the board has none; pass --link A=URL"),
        (["--alias", "nc=X"], "unknown detector of --alias 'nc' (did you mean 'nci'?)"),
        (["--alias", "nci"], "--alias 'nci': must be NAME=VALUE"),
        (["--link", "NCI=https://x.org"], "--link NCI: the board has https://arxiv.org/abs/2311.01479; leave it out"),
        (["--link", "XYZ=https://x.org"], "--link XYZ: no row has that alias; leave it out"),
        (["--detectors", "nca"], "(did you mean 'nci'?)"),
    ],
)
def test_rows_that_the_board_could_not_read_are_refused(cifar, run, options, reason):
    code, _, err = run("rows", cifar, *options)
    assert code == (2 if reason else 0)
    assert reason in err


def test_a_detector_without_a_paper_needs_a_link(tmp_path, refused, run):
    path = written(tmp_path / CIFAR_RUN, results_of("cifar10", ["openood:cfood"], NUMBERS))
    assert "none is known for CFOOD" in refused("rows", path)
    assert sections(run("rows", path, "--link", "CFOOD=https://x.org")[1])["utils/papers.csv"] == [
        ["CFOOD", "https://x.org"]
    ]


def test_bad_directories_are_refused(cifar, tmp_path, refused, checkout):
    assert "there is no results.jsonl" in refused("rows", tmp_path / "nothing")
    assert "must be a checkout of OpenOOD's leaderboard branch" in refused("apply", cifar, "--board", tmp_path)
    (checkout / "results" / "cifar10.csv").write_text("Training,Postprocessor\n")
    assert "must have the columns Training,Postprocessor,Near" in refused("apply", cifar, "--board", checkout)
    (checkout / "results" / "cifar10.csv").write_text(",".join(COLUMNS) + "\na,b\n")
    assert "line 2: must have 8 cells, got 2" in refused("apply", cifar, "--board", checkout)


def test_a_detector_that_lacks_a_seed_is_no_row(tmp_path, run, refused):
    results = results_of("cifar10", ["nci"], NUMBERS) + results_of("cifar10", ["neco"], {"s0": NUMBERS["s0"]})
    path = written(tmp_path / CIFAR_RUN, results)
    _, out, _ = run("rows", path)
    assert [row[1] for row in sections(out)["results/cifar10.csv"]] == ["NCI"]
    assert "left out, not scored for every seed: neco" in out
    assert "was not scored for every seed" in refused("rows", path, "--detectors", "neco")


# -------------------------------------------------------------------- rank


def test_rank_counts_the_rows_before_it():
    def row(postprocessor, near, far, arch="ResNet18"):
        return Row("CrossEntropy", postprocessor, near, far, "95.06", "No", arch, "100 epochs")

    board = [row("A", "90.00 ± 0.10", "80.00"), row("B", "88.03 ± 0.25", "95.00"), row("C", "87.00", "94.00", "ViT")]
    mine = row("NCI", "88.03 ± 0.01", "94.50")
    near, far = standing(mine, board, "near"), standing(mine, board, "far")
    assert (near.rank, len(near.rows), near.among_same_network) == (3, 4, (3, 3))  # after B, which is equal
    assert (far.rank, far.among_same_network) == (2, (2, 3))
    assert (near.ranks, far.ranks) == ("2-3", "2")  # a tie to two decimals
    assert standing(mine, board, "far", (93.0, 94.9)).ranks == "2-3"
    assert standing(mine, board, "near", (80.0, 100.0)).ranks == "1-4"
    assert [(rank, each.postprocessor) for rank, each in near.around(1).items()] == [(2, "B"), (3, "NCI"), (4, "C")]
    update = standing(row("A", "10.00", "10.00"), board, "near")
    assert (update.rank, len(update.rows), update.replaces) == (3, 3, board[0])


def test_sentences_of_a_rank_are_folded_and_plain(cifar, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    out = run("rank", cifar, "--around", "0")[1]
    sentences = [line for line in out.splitlines() if line.startswith(("cifar10", "in the", "Near", "Far", "note"))]
    assert len(sentences) == 9
    assert max(map(len, sentences)) <= 70
    assert "±" not in out


def test_rank_shows_the_rows_around_both_places(cifar, run):
    code, out, _ = run("rank", cifar, "--detectors", "neco", "--around", "1")
    rows = [dict(zip(COLUMNS, cells)) for cells in csv.reader((DATA / "cifar10.csv").open(encoding="utf-8"))][1:]
    assert code == 0
    for column, value in ((COLUMNS[2], 88.03), (COLUMNS[3], 91.50)):
        better = [row for row in rows if float(row[column].split()[0]) >= value]
        same = [
            row for row in better if row["Training"] == "CrossEntropy" and row["Additional_Description"] == "100 epochs"
        ]
        above = [row for row in better if float(row[column].split()[0]) > value]
        ranks = f"{len(above) + 1}-{len(better) + 1}" if len(above) < len(better) else str(len(above) + 1)
        assert f": rank {ranks} of 62; {len(same) + 1} of 33 with the same architecture and training" in out
    assert out.count(">*") == 2
    assert "warning" not in out
    assert "OpenOOD itself does that" in out


@pytest.mark.parametrize(
    ("benchmark", "run_name", "numbers", "claimed"),
    [
        ("imagenet", "imagenet_resnet50_tvsv1_base_default", {"": (78.7, 95.5, 76.18)}, "95.22"),
        (
            "imagenet200",
            "imagenet200_resnet18_224x224_base_e90_lr0.1_default",
            {seed: (83.5, 93.7, 86.37) for seed in NUMBERS},
            "95.74 ± 0.00",
        ),
    ],
)
def test_disputed_numbers_are_marked(tmp_path, run, checkout, benchmark, run_name, numbers, claimed):
    factory = {"imagenet": "torchvision:resnet50", "imagenet200": "nci_plugin.networks:ResNet18_224x224"}[benchmark]
    given = {} if benchmark == "imagenet200" else {"provenance": {"network_factory": factory}}
    results = written(tmp_path / run_name, results_of(benchmark, ["nci"], numbers, **given))
    names = ["--arch-name", "ResNet18", "--training", "CrossEntropy", "--description", "90 epochs"]
    names = names if benchmark == "imagenet200" else []
    code, out, _ = run("rank", results, "--around", "200", *names)
    assert code == 0
    lines = out.splitlines()
    numbers_shown = [re.sub(r"^[ >*]*\d+ +", "", line) for line in lines if re.search(r"  CombOOD  ", line)]
    plain = claimed.replace("±", "+-")  # a table that goes to no terminal is ASCII
    assert [line.startswith(f"{plain} !  ") for line in numbers_shown] == [True, True]  # both tables
    (reason,) = [line for line in lines if line.startswith("! disputed")]
    assert f"CombOOD {plain}: near-OOD AUROC could not be reproduced" in reason
    assert reason.endswith("https://github.com/Jingkang50/OpenOOD/issues/307")
    assert len([line for line in lines if " !" in line]) == 2  # nothing else is disputed

    shown = run("rank", results, "--around", "0", *names)[1]
    assert "! disputed: CombOOD" in shown  # it is not shown, but counts in the rank
    path = checkout / "results" / f"{BOARDS[benchmark]['ood']}.csv"
    corrected = path.read_text(encoding="utf-8").replace(claimed, claimed.replace("95", "75"))
    path.write_text(corrected, encoding="utf-8")
    assert "!" not in run("rank", results, "--around", "200", "--board", checkout, *names)[1]


def test_every_disputed_number_is_on_a_board():
    board = Board.snapshot()
    rows = [row for name in SHA256 if name != "papers.csv" for row in board.rows(name.removesuffix(".csv"))]
    for each in DISPUTES:
        assert len([row for row in rows if dispute(row, each.group) is each]) == 1
    assert not [row for row in rows if dispute(row, "far")]


def test_the_board_is_of_a_stated_commit():
    assert Board.snapshot().name == "the board of 28d3a40 of 2025-07-19"
    with pytest.raises(PluginError, match="git clone --branch leaderboard https://github.com/zjysteven/OpenOOD"):
        Board.checkout(DATA)


# -------------------------------------------------------------------- comparability


def sizes_of(benchmark, **changes):
    return {**SIZES[benchmark], **changes}


@pytest.mark.parametrize(
    ("results", "warning"),
    [
        (results_of("cifar10", ["nci"], NUMBERS), ""),
        (
            results_of("cifar10", ["nci"], {"s0": NUMBERS["s0"]}),
            "1 network, where the board's rows are the mean of 3",
        ),
        (
            results_of("cifar10", ["nci"], {seed: (88.0, 91.0, 94.55) for seed in NUMBERS}),
            "ID accuracy 94.55, where the board's of CrossEntropy, ResNet18, 100 epochs is 95.06",
        ),
        (results_of("cifar10", ["nci"], {seed: (88.0, 91.0, 94.57) for seed in NUMBERS}), ""),
        (
            results_of("cifar10", ["nci"], NUMBERS, sizes=sizes_of("cifar10", **{"near/tin": 10000})),
            "whose numbers are in brackets: near/tin 10000 (7793)",
        ),
        (results_of("cifar10", ["nci"], NUMBERS, n_id=10000), "in brackets: id/test 10000 (9000)"),
        (
            results_of(
                "cifar10", ["nci"], NUMBERS, sizes={k: v for k, v in SIZES["cifar10"].items() if k != "far/svhn"}
            ),
            "in brackets: far/svhn none (26032)",
        ),
        (
            results_of("cifar10", ["nci"], NUMBERS, chosen_by="best AUROC of id/test against nearood"),
            "a hyper-parameter was chosen on test data: best AUROC of id/test against nearood",
        ),
        (results_of("cifar10", ["nci"], NUMBERS, chosen_by="fixed"), ""),
    ],
)
def test_rows_that_cannot_be_compared_are_warned_of(tmp_path, run, results, warning):
    _, out, _ = run("rank", written(tmp_path / CIFAR_RUN, results))
    warnings = [line for line in out.splitlines() if line.startswith("warning: not comparable: ")]
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)
    searched = results[0].chosen_by == SEARCH
    assert ("source of the test set 'near/tin'; OpenOOD itself does that" in out) == searched


def test_other_covariate_shifted_sets_are_warned_of(tmp_path, vit, run):
    provenance = {"network_factory": "torchvision:vit_b_16"}
    results = results_of("imagenet", ["nci"], {"": (60.1, 75.0, 61.49)}, "fsood", 159000, provenance=provenance)
    _, out, _ = run("rank", written(tmp_path / "imagenet_vit-b-16_tvsv1_base_default", results))
    assert "159000 ID and covariate-shifted images, where the board's rows have 95000" in out
    assert "made with imagenet_v2, imagenet_c, imagenet_r (imagenet_es came after them)" in out
    assert "left out" not in out
    _, out, _ = run("rank", vit)
    assert "warning" not in out


def test_another_implementation_is_noted(tmp_path, run):
    path = written(tmp_path / CIFAR_RUN, results_of("cifar10", ["pytorch_ood:dice", "openood:ash"], NUMBERS))
    _, out, _ = run("rows", path)
    assert [line for line in out.splitlines() if "pytorch-ood's implementation" in line] == [
        "cifar10 DICE: note: 'pytorch_ood:dice' is pytorch-ood's implementation, which need not give the scores of"
        " OpenOOD's"
    ]


@pytest.mark.parametrize("benchmark", BOARDS)
def test_sizes_are_of_the_splits_that_are_evaluated(benchmark):
    loaded = load_benchmark(benchmark)
    sizes = {name for name in SIZES[benchmark] if not name.startswith("csid")}
    assert sizes == {name for name in loaded.splits if name.split("/")[0] in (NEAR, FAR) or name == "id/test"}
    csid = {name for name in SIZES[benchmark] if name.startswith("csid")}
    assert csid <= set(loaded.splits)


# -------------------------------------------------------------------- compare


def test_compare_with_the_published_row(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.adapters.openood.roots.find_checkout", lambda: None)
    numbers = {"s0": (88.864, 91.272, 95.222), "s1": (88.1, 90.0, 95.0), "s2": (89.7, 91.27, 95.2)}
    written(tmp_path / "results" / CIFAR_RUN, results_of("cifar10", ["nci", "msp"], numbers))
    code, out, _ = run("compare", "cifar10", "nci")
    assert code == 0
    assert "s0, the nearest seed, is compared with it" in out
    differences = {
        line.split()[0]: line.split()[-1] for line in out.splitlines() if re.match("near|far|accuracy", line)
    }
    assert differences == {"near": "+0.00", "far": "+0.00", "accuracy": "+0.00"}
    assert "agrees within 0.1 points" in out

    code, out, _ = run("compare", "cifar10", "msp")  # published 88.03 ± 0.25, 90.73 ± 0.43, 95.06 ± 0.30
    assert code == 1
    assert "nearest seed" not in out
    differences = {
        line.split()[0]: line.split()[-1] for line in out.splitlines() if re.match("near|far|accuracy", line)
    }
    assert differences == {"near": "+0.86", "far": "+0.12", "accuracy": "+0.08"}
    assert run("compare", "cifar10", "msp", "--tolerance", "1")[0] == 0


def test_compare_says_what_is_missing(tmp_path, cifar, refused, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.adapters.openood.roots.find_checkout", lambda: None)
    assert "holds none of 'msp' on 'cifar10'; run nci-ood eval cifar10" in refused("compare", "cifar10", "msp")
    code, _, err = run("compare", "cifar10", "neco")
    assert code == 2
    assert "has no row of NECO with CrossEntropy, ResNet18, 100 epochs; of NECO it has none" in err
    shutil.copytree(cifar, cifar.with_name("other"))
    assert "choose one with --results" in refused("compare", "cifar10", "nci")
    assert "are not of 'cifar100'" in refused("compare", "cifar100", "nci", "--results", cifar)


def test_compare_leaves_out_results_that_are_damaged(tmp_path, cifar, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nci_plugin.adapters.openood.roots.find_checkout", lambda: None)
    damaged = tmp_path / "results" / "another"
    damaged.mkdir()
    (damaged / "results.jsonl").write_text("{}\n")
    code, out, err = run("compare", "cifar10", "nci", "--tolerance", "100")
    assert (code, err) == (0, "")
    assert out.count("left out: result") == 1
    assert f"results: results/{CIFAR_RUN}" in out
    code, out, err = run("compare", "cifar10", "nci", "--results", damaged)
    assert (code, out) == (2, "")
    assert "another" in err


# -------------------------------------------------------------------- the copy that ships


def test_the_copy_ships_with_the_package(tmp_path):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["options.package_data"]["nci_plugin.leaderboard"] == "data/*.csv"
    landmark = tmp_path / LANDMARK
    landmark.parent.mkdir(parents=True)
    landmark.touch()
    installed = plan_installation(tmp_path).write
    assert {name: installed[f"nci_plugin/leaderboard/data/{name}"] for name in SHA256} == files(DATA)
