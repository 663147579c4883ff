"""What a pass leaves beside features and logits: statistics of unit features, stages' outputs; other precisions."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import batches, command, passes_after_first, read_rows, small_knn
from tiny import COUNTS, Tiny, draw_nothing, stored, tree
from torch import Tensor

from nci_plugin import Benchmark, Features, LinearHead, PluginError, evaluate
from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.cli.main import main
from nci_plugin.config import load_benchmark
from nci_plugin.diagnosis.layers import measure_layers
from nci_plugin.evaluation.precision import shift
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.forward import in_channels_last
from nci_plugin.features.options import ExtractionOptions, check_amp
from nci_plugin.features.shard_collector import Layout
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.features.store import SplitStore

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = frozenset({FitsOn.STATISTICS, FitsOn.UNIT_STATISTICS})
STAGED = ("test", "near", "near2", "far")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A shard holds one batch here."""
    monkeypatch.setattr("nci_plugin.features.shard_collector.SHARD_BYTES", 1)
    monkeypatch.setattr("nci_plugin.report.figures.auroc_figure", draw_nothing)
    monkeypatch.setattr("nci_plugin.report.diagnosis_figures.draw", lambda results: [])
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Tiny(tmp_path)


def bank_of(tiny: Tiny, training: Any, *, store: bool = True, stages: bool = False, **options: Any) -> FeatureBank:
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)
    directory = tiny.root / "features" if store else None
    settings = ExtractionOptions("cpu", 4, store=directory, progress=False, **options)
    return extract(tiny.loaded(), benchmark, training, settings, stages=stages)


def images_of(tiny: Tiny, split: str) -> tuple[Tensor, Tensor]:
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)
    items = [open_splits(benchmark)[split].item(index) for index in range(COUNTS[split.split("/")[1]])]
    return torch.stack([image for image, _ in items]), torch.stack([label for _, label in items])


def by_hand(tiny: Tiny, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Penultimate features, pooled outputs of the one stage before, and labels."""
    images, labels = images_of(tiny, split)
    network, seen = tiny.loaded().eval(), {}
    network.conv.register_forward_hook(lambda _, inputs, output: seen.update(stage=output.mean(dim=(2, 3))))
    network.fc.register_forward_hook(lambda _, inputs, output: seen.update(features=inputs[0]))
    with torch.no_grad():
        for start in range(0, len(images), 4):
            network(images[start : start + 4])
            for name in ("stage", "features"):
                seen.setdefault(f"all {name}", []).append(seen[name])
    tiny.passes()
    return torch.cat(seen["all features"]), torch.cat(seen["all stage"]), labels


def statistics(features: Tensor, labels: Tensor) -> ClassStatistics:
    return ClassStatistics(3, features.shape[1]).update(features, labels)


def assert_close(got: ClassStatistics | None, expected: ClassStatistics) -> None:
    assert got is not None
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(got.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------- statistics of unit features


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("training", [BOTH, {FitsOn.UNIT_STATISTICS}, {FitsOn.UNIT_STATISTICS, FitsOn.BANK}])
def test_unit_statistics_are_those_of_unit_features(tiny: Tiny, training: Any, store: bool) -> None:
    bank = bank_of(tiny, training, store=store)
    assert passes_after_first(tiny, batches(*COUNTS)) == batches(*COUNTS)
    features, _, labels = by_hand(tiny, TRAIN)
    assert_close(bank.unit_statistics, statistics(features.double() / features.double().norm(dim=1)[:, None], labels))
    assert_close(bank.statistics, statistics(features, labels))
    assert (TRAIN in bank.splits) == (FitsOn.BANK in training)


def test_unit_statistics_are_there_only_if_asked_for(tiny: Tiny) -> None:
    assert bank_of(tiny, {FitsOn.STATISTICS}).unit_statistics is None
    bank = bank_of(tiny, set())
    assert bank.statistics is None
    assert bank.unit_statistics is None


def test_the_layout_of_a_pass_leaves_each_weight_in_its_own() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3), torch.nn.Linear(5, 2))
    network[1].to(memory_format=torch.channels_last)
    before = {name: (id(each), each.stride(), each.clone()) for name, each in network.named_parameters()}
    with in_channels_last(network):
        assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, each in network.named_parameters():
        assert (id(each), each.stride()) == before[name][:2]
        assert torch.equal(each, before[name][2])


def test_a_zero_feature_stays_zero() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 1])
    given = Features(features, labels)
    benchmark = Benchmark.from_splits("toy", 2, train=given, test=given, near={"near": given}, far={})
    bank = extract(LinearHead(torch.eye(2), torch.zeros(2)), benchmark, BOTH)
    assert bank.unit_statistics is not None
    torch.testing.assert_close(bank.unit_statistics.means, torch.tensor([[0.3, 0.4], [0.0, 1.0]]).double())
    assert bank.unit_statistics.l2_norm_sums.tolist() == [1.0, 1.0]


class Switched(torch.nn.Module):
    """May compute something else with the same weights and source."""

    def __init__(self, used: int = 0, shift: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(12, 3, bias=False) for _ in range(2))
        for head in self.heads:
            head.weight.data = torch.randn(3, 12, generator=generator)
        self.used, self.shift = used, shift

    def forward(self, images: Tensor) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return self.heads[self.used](pooled + self.shift)


@pytest.mark.parametrize("training", [{FitsOn.BANK}, {FitsOn.STATISTICS}])
@pytest.mark.parametrize("lost", ["none", "00000-*"])
@pytest.mark.parametrize("change", [{"used": 1}, {"shift": 1.0}])
def test_what_another_network_left_is_not_used(tiny: Tiny, training: Any, lost: str, change: dict[str, Any]) -> None:
    """Another head on the same features too, and where the first shard of a split is not there any more."""
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)
    settings = ExtractionOptions("cpu", 4, store=tiny.root / "features", progress=False)
    extract(Switched(), benchmark, training, settings)
    extract(Switched(), benchmark, training, settings)
    for path in (tiny.root / "features").rglob(lost):
        path.unlink()
    with pytest.raises(PluginError, match="are not what the network gives now"):
        extract(Switched(**change), benchmark, training, settings)


def test_stored_unit_statistics_are_used_again(tiny: Tiny) -> None:
    first = bank_of(tiny, BOTH)
    before = tree(tiny.root / "features")
    tiny.passes()
    again = bank_of(tiny, BOTH)
    assert passes_after_first(tiny, []) == []
    assert tree(tiny.root / "features") == before
    assert_close(again.unit_statistics, first.unit_statistics)
    assert len([path for path in before if "unit-statistics-" in path]) == 1


def test_unit_statistics_come_from_stored_features_where_those_are(tiny: Tiny) -> None:
    bank_of(tiny, {FitsOn.BANK})
    tiny.passes()
    bank = bank_of(tiny, BOTH)
    assert passes_after_first(tiny, []) == []
    features, _, labels = by_hand(tiny, TRAIN)
    assert_close(bank.unit_statistics, statistics(unit_rows(features), labels))


def test_without_stored_features_the_training_images_alone_pass_again(tiny: Tiny) -> None:
    bank_of(tiny, {FitsOn.STATISTICS})
    before = stored_files(tiny)
    tiny.passes()
    bank_of(tiny, BOTH)
    assert passes_after_first(tiny, batches("train")) == batches("train")
    assert {path: data for path, data in stored_files(tiny).items() if "unit-" not in path} == before


def stored_files(tiny: Tiny) -> dict[str, bytes | None]:
    return {path: data for path, data in tree(tiny.root / "features").items() if data is not None}


@pytest.mark.parametrize(
    ("first", "second", "left"), [(3, 4, []), (6, 7, []), (6, 4, ["part-0of1-00002", "unit-part-0of1-00001"])]
)
def test_statistics_that_were_left_at_different_shards(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, first: int, second: int, left: list[str]
) -> None:
    """Interrupted with the statistics of the features alone, then with both: each goes on where it was."""
    monkeypatch.setattr("nci_plugin.features.shard_collector.STATISTICS_SECONDS", 0)
    bank_of(tiny, BOTH)
    whole = stored_files(tiny)
    (tiny.root / "features").rename(tiny.root / "whole")
    stop = tiny.net.parent / "interrupt_after"
    tiny.passes()
    for passes, training in ((first, {FitsOn.STATISTICS}), (second, BOTH)):
        stop.write_text(str(passes))
        with pytest.raises(KeyboardInterrupt):
            bank_of(tiny, training)
        tiny.passes()
    assert sorted(path.name.rpartition("-")[0] for path in (tiny.root / "features").rglob("*part-*")) == left
    stop.unlink()
    bank_of(tiny, BOTH)
    assert stored_files(tiny) == whole


# -------------------------------------------------------------------- stages


def layers(tiny: Tiny, *flags: str) -> list[str]:
    _, benchmark, _, _, *rest = tiny.eval()
    return ["diagnose", benchmark, "--layers", *flags, *rest]


def test_stages_come_from_the_same_pass(tiny: Tiny) -> None:
    """Each image passes once, but for those of the first batch, on which the head and the stages are found."""
    network_passes = batches(*COUNTS)
    for store in (False, True):
        bank = bank_of(tiny, {FitsOn.STATISTICS}, store=store, stages=True)
        passes = tiny.passes()
        assert passes[-len(network_passes) :] == network_passes
        assert set(passes[: -len(network_passes)]) == {4}
        assert len(passes) - len(network_passes) <= 3
        assert bank.stages is not None
        features, pooled, labels = by_hand(tiny, TRAIN)
        assert list(bank.stages.statistics) == ["conv"]
        assert_close(bank.stages.statistics["conv"], statistics(pooled, labels))
        assert_close(bank.statistics, statistics(features, labels))
        assert set(bank.stages.splits) == {"id/test", "near/near", "near/near2", "far/far"}
        for split, shards in bank.stages.splits.items():
            assert [len(each["conv"]) for each in shards] == [len(shard) for shard in bank.splits[split].shards]
            features, pooled, _ = by_hand(tiny, split)
            assert torch.equal(torch.cat([each["conv"] for each in shards]), pooled)
            assert torch.equal(bank.splits[split].features, features)


def test_features_are_the_same_with_stages_and_without(tiny: Tiny) -> None:
    bank_of(tiny, {FitsOn.BANK})
    before = stored_files(tiny)
    (tiny.root / "features").rename(tiny.root / "before")
    bank_of(tiny, {FitsOn.BANK}, stages=True)
    assert {path: data for path, data in stored_files(tiny).items() if "/stage" not in path} == before


def test_layers_pass_the_images_once(tiny: Tiny) -> None:
    code, out, _ = command(layers(tiny))
    assert code == 0
    passes = tiny.passes()
    assert passes[-len(batches(*COUNTS)) :] == batches(*COUNTS)
    assert len(passes) <= len(batches(*COUNTS)) + 3
    assert "pass again" not in out
    assert command(layers(tiny))[0] == 0
    assert sum(tiny.passes()) <= 4 * 4, "nothing but the first batch passed again"
    assert command(tiny.eval("msp", "nci"))[0] == 0
    assert passes_after_first(tiny, []) == []


def test_layers_after_an_evaluation_pass_what_they_need_again_and_say_so(tiny: Tiny) -> None:
    assert command(tiny.eval("msp", "nci"))[0] == 0
    before = stored(tiny.output)
    tiny.passes()
    code, out, _ = command(layers(tiny))
    assert code == 0
    again = batches("train", *STAGED)
    assert tiny.passes()[-len(again) :] == again
    assert f"stages: an earlier run stored features without them, so {sum(again)} images pass again" in out
    after = stored(tiny.output)
    assert {path: after[path] for path in before} == before
    assert all("/stage" in path for path in set(after) - set(before))
    assert "pass again" not in command(layers(tiny))[1]


@pytest.mark.parametrize("after", [4, 6, 9, 15])
def test_interrupted_layers_go_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr("nci_plugin.features.shard_collector.STATISTICS_SECONDS", 0)
    assert command(layers(tiny))[0] == 0
    whole, passes = stored(tiny.output), len(tiny.passes())
    tiny.output.rename(tiny.root / "whole")
    (tiny.net.parent / "interrupt_after").write_text(str(after))
    assert command(layers(tiny))[0] == 130
    done = len(tiny.passes())
    (tiny.net.parent / "interrupt_after").unlink()
    code, out, _ = command(layers(tiny))
    assert code == 0
    assert "pass again" not in out
    assert done + len(tiny.passes()) - passes <= 1 + 4, "the pass that was stopped, and those of the first batch"
    assert stored(tiny.output) == whole


def test_damaged_outputs_of_stages_are_made_again(tiny: Tiny) -> None:
    assert command(layers(tiny))[0] == 0
    before = stored(tiny.output)
    victims = [path for path in before if "/stage" in path]
    assert len(victims) == 1 + len(batches(*STAGED))
    for number, path in enumerate(victims):
        data = bytearray(before[path])
        data[number % len(data)] ^= 1
        (tiny.output / path).write_bytes(data)
    assert command(layers(tiny))[0] == 0
    assert stored(tiny.output) == before


def test_outputs_of_other_stages_are_not_read(tmp_path: Path) -> None:
    """Another version of this package may find others."""
    store = SplitStore(tmp_path)
    store.add_stages(0, {"layer1": torch.ones(2, 3), "layer2": torch.zeros(2, 5)})
    assert store.stages(["layer1"], range(1)) == {}
    assert store.stages(["layer2", "layer1"], range(1)) == {}
    found = store.stages(["layer1", "layer2"], range(1))
    assert list(found[0]) == ["layer1", "layer2"]
    assert found[0]["layer2"].shape == (2, 5)
    assert store.shards() == {}


def test_stages_that_are_not_finite_are_named(tiny: Tiny) -> None:
    network = tiny.loaded()
    network.conv.register_forward_hook(lambda _, inputs, output: output.clamp(max=1e30) * torch.inf)
    network.pool.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    benchmark = load_benchmark(str(tiny.yaml)).with_data_root(tiny.data)
    with pytest.raises(PluginError, match=r"split 'id/test' features of conv: row 0 holds NaN or infinity"):
        extract(network, benchmark, {FitsOn.STATISTICS}, ExtractionOptions("cpu", 4), stages=True)


def test_layers_need_images(golden: Any) -> None:
    benchmark = golden.benchmark()
    bank = extract(golden.head, benchmark, {FitsOn.STATISTICS}, stages=True)
    with pytest.raises(PluginError, match="layers: stages can only be measured on images"):
        measure_layers(bank, benchmark)


# -------------------------------------------------------------------- precision


def test_bfloat16_is_another_network_and_says_how_far_scores_move(tiny: Tiny) -> None:
    assert command(tiny.eval("msp", "nci"))[0] == 0
    exact = {path: data for path, data in stored(tiny.output).items()}
    code, out, err = command([*tiny.eval("msp", "nci", output=tiny.root / "bf16"), "--amp", "bf16"])
    assert (code, err) == (0, "")
    assert "scores in bf16 against float32, on 20 rows that passed in both" in out
    rows = read_rows(tiny.root / "bf16")
    for row in rows:
        moved = row["provenance"]["amp_shift"]
        assert row["provenance"]["amp"] == "bf16"
        assert moved["rows"] == 5 * 4
        assert 0 < moved["mean"] <= moved["largest"] < 1
        assert 0.5 < moved["rank_correlation"] <= 1
        assert 0 <= moved["auroc"] <= 100
    for detector in ("msp", "nci"):
        assert any(line.startswith(f"{detector} ") for line in out.split("against float32")[1].splitlines())
    coarse = stored(tiny.root / "bf16")
    assert len(coarse) == len(exact)
    assert not set(coarse) & set(exact), "another fingerprint"
    assert all("amp_shift" not in row["provenance"] for row in read_rows(tiny.output))


def test_loader_processes_are_for_the_pass_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared in float32 is a batch of each split, which would not be worth their start."""
    started: list[int] = []

    def by_one_process(name: str, split: Any, size: int, workers: int = 0, *rest: Any, **options: Any) -> Any:
        started.append(workers)
        return image_batches(name, split, size, 0, *rest, **options)

    monkeypatch.setattr("nci_plugin.features.plan.image_batches", by_one_process)
    coarse = bank_of(tiny, set(), amp="bf16", workers=2)
    assert len(coarse.float32) > 0
    assert started.count(2) == len(coarse.splits)


def test_bfloat16_features_are_float32_and_near(tiny: Tiny) -> None:
    exact, coarse = bank_of(tiny, set()), bank_of(tiny, set(), amp="bf16")
    assert exact.provenance["amp"] == "none"
    assert exact.float32 == {}
    for name, split in exact.splits.items():
        for one, other in ((split.features, coarse.splits[name].features), (split.logits, coarse.splits[name].logits)):
            assert other.dtype == torch.float32
            assert not torch.equal(one, other)
            torch.testing.assert_close(one, other, rtol=0, atol=float(0.05 * one.abs().max()))
    for name, split in coarse.float32.items():
        torch.testing.assert_close(split.features, exact.splits[name].features[:4], rtol=0, atol=0)
        assert torch.equal(split.labels, exact.splits[name].labels[:4])
    assert set(coarse.float32) == set(exact.splits) - {"id/val", "ood/val"}


def test_bfloat16_is_used_again_and_compared(tiny: Tiny) -> None:
    first = bank_of(tiny, BOTH, amp="bf16")
    before = stored_files(tiny)
    tiny.passes()
    again = bank_of(tiny, BOTH, amp="bf16", stages=True)
    assert {path: data for path, data in stored_files(tiny).items() if "/stage" not in path} == before
    assert torch.equal(first.splits["far/far"].features, again.splits["far/far"].features)


def test_shift_by_hand() -> None:
    exact: Mapping[str, Any] = {"id/test": np.array([3.0, 2.0]), "near/a": np.array([1.0, 0.0])}
    coarse: Mapping[str, Any] = {"id/test": np.array([3.5, 0.5]), "near/a": np.array([1.0, 0.0])}
    found = shift(coarse, exact)
    assert found == {
        "rows": 4,
        "largest": 1.5,
        "mean": 0.5,
        "rank_correlation": pytest.approx(0.8),  # ranks 4 2 3 1 against 4 3 2 1: 1 - 6 * 2 / (4 * 15)
        "auroc": pytest.approx(25.0),
    }
    assert shift(exact, exact) == {"rows": 4, "largest": 0, "mean": 0, "rank_correlation": 1.0, "auroc": 0.0}
    constant = {name: np.zeros(2) for name in exact}
    assert "rank_correlation" not in shift(constant, constant)


@pytest.mark.parametrize("name", ["fp16", "fp8", "float32"])
def test_precisions_that_the_device_has_not(tiny: Tiny, name: str) -> None:
    code, _, err = command([*tiny.eval(), "--amp", name])
    assert (code, err.count("\n")) == (2, 1)
    assert f"amp '{name}': must be none or bf16 on cpu" in err
    assert not tiny.output.exists()
    with pytest.raises(PluginError, match="amp"):
        evaluate(tiny.loaded(), str(tiny.yaml), "msp", data_root=tiny.data, device="cpu", amp=name)


def test_precisions_of_other_devices() -> None:
    for name in ("none", "bf16", "fp16"):
        check_amp(name, torch.device("cuda"))
    with pytest.raises(PluginError, match="must be none on mps"):
        check_amp("bf16", torch.device("mps"))


def test_results_in_another_precision_lie_elsewhere(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.root)
    assert command([*tiny.eval(output=None), "--amp", "bf16"])[0] == 0
    assert [path.name for path in (tiny.root / "results").iterdir()] == ["tiny_tiny_bf16"]


# -------------------------------------------------------------------- options and layout


def test_workers_auto(tiny: Tiny) -> None:
    assert command(tiny.eval(workers="auto"))[0] == 0
    error = io.StringIO()
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stderr(error):
        main(tiny.eval(workers="many"))
    assert stopped.value.code == 2
    assert "argument --workers: invalid number_or_auto value: 'many'" in error.getvalue()


@pytest.mark.parametrize(("rows", "batch"), [(1, 200), (200, 200), (201, 200), (50_000, 128), (1_281_167, 256)])
def test_shards_are_whole_batches_and_cover_the_split(rows: int, batch: int) -> None:
    layout = Layout(rows, batch, row_bytes=4 * 3048)
    starts = [start for number in range(layout.num_shards) for start in layout.starts(number)]
    assert starts == list(range(0, rows, batch))
    assert sum(layout.rows_of(number) for number in range(layout.num_shards)) == rows
    assert layout.rows_per_shard % batch == 0
    assert layout.rows_per_shard == batch or layout.rows_per_shard * layout.row_bytes <= 64 * 2**20


def test_knn_after_layers_passes_the_training_images_alone(tiny: Tiny) -> None:
    assert command(layers(tiny))[0] == 0
    tiny.passes()
    assert command(tiny.eval(small_knn(tiny)))[0] == 0
    assert passes_after_first(tiny, batches("train")) == batches("train")
