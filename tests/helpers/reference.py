"""What a run must give, from another reading of the YAML, lists and images that it read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twins
import yaml
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms


class Reference:
    """A benchmark as its files say, and a network with its weights."""

    def __init__(self, path: Path, data: Path, network: torch.nn.Module) -> None:
        self.benchmark, self.data, self.network = yaml.safe_load(path.read_text())["benchmark"], data, network.eval()
        groups = {"csid": self.benchmark.get("csid"), **{group: self.benchmark["ood"].get(group) for group in GROUPS}}
        self.sets = {
            group: [*dict.fromkeys((entries or {"datasets": []})["datasets"])] for group, entries in groups.items()
        }
        entries = {f"id/{name}": entry for name, entry in self.benchmark["id"].items()}
        entries.update({f"{group}/{name}": groups[group][name] for group, names in self.sets.items() for name in names})
        if not all(
            path.is_file() for name, entry in entries.items() if name.startswith("csid/") for path in self._files(entry)
        ):
            self.sets["csid"] = []  # costs the full spectrum only
        self.splits = {
            name: self._answers(entry)
            for name, entry in entries.items()
            if not name.startswith("csid/") or self.sets["csid"]
        }

    def _lines(self, entry: dict[str, Any]) -> list[list[str]]:
        # A mark of the byte order is none of the text; ends of lines are as Python reads text.
        with open(self.data / entry["imglist_path"], encoding="utf-8-sig") as file:
            parts = [line.strip().replace("\t", " ").rsplit(" ", 1) for line in file]
        return [[name.rstrip(), label] for name, label in parts]

    def _files(self, entry: dict[str, Any]) -> Iterator[Path]:
        yield self.data / entry["imglist_path"]
        yield from (self.data / entry["data_dir"] / name for name, _ in self._lines(entry))

    def _answers(self, entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, logits and labels."""
        preprocessing = {**self.benchmark["preprocessing"], **(entry.get("preprocessing") or {})}
        pairs = self._lines(entry)
        images = [self._image(self.data / entry["data_dir"] / name, preprocessing) for name, _ in pairs]
        features: list[torch.Tensor] = []
        hook = self.network.fc.register_forward_hook(lambda layer, given, _: features.append(given[0]))
        with torch.no_grad():
            logits = torch.cat([self.network(image[None]) for image in images])
        hook.remove()
        labels = np.array([int(label) for _, label in pairs])
        return torch.cat(features).double().numpy(), logits.double().numpy(), labels

    def _image(self, path: Path, preprocessing: dict[str, Any]) -> torch.Tensor:
        image = Image.open(path).convert("RGB")
        if preprocessing["pre_size"] is not None:
            mode = InterpolationMode(preprocessing.get("interpolation", "bilinear"))
            image = transforms.resize(image, preprocessing["pre_size"], mode)
        if preprocessing["img_size"] is not None:
            image = transforms.center_crop(image, preprocessing["img_size"])
        mean, deviation = (torch.tensor(row).float()[:, None, None] for row in preprocessing["normalization"])
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / deviation

    def assert_tables(self, output: Path) -> None:
        """Every score, row and table cell of a run is what the files say, and none is missing."""
        rows = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        accuracies = {name: z.argmax(1) == labels for name, (_, z, labels) in self.splits.items()}
        for detector in {row["detector"] for row in rows}:
            own = [row for row in rows if row["detector"] == detector]
            with np.load(output / "scores" / f"{detector}.npz") as arrays:
                scores = dict(arrays)
            assert set(scores) == set(self.splits) - {"id/train", "id/val"}
            for name, given in scores.items():
                np.testing.assert_allclose(given, self._twin(own[0], name), rtol=1e-4, atol=1e-4)
            id_names = ["id/test", *(f"csid/{name}" for name in self.sets["csid"])]
            settings = {"ood": id_names[:1], **({"fsood": id_names} if len(id_names) > 1 else {})}
            seen = {}
            for setting, names in settings.items():
                id_scores = np.concatenate([scores[name] for name in names])
                accuracy = 100 * np.concatenate([accuracies[name] for name in names]).mean()
                for group, data_sets in [(group, self.sets[group]) for group in GROUPS if self.sets[group]]:
                    found = [
                        (auroc(id_scores, scores[f"{group}/{name}"]), len(scores[f"{group}/{name}"]))
                        for name in data_sets
                    ]
                    for name, area, count in [
                        *((str(name), *each) for name, each in zip(data_sets, found)),
                        (f"{group}ood", float(np.mean([area for area, _ in found])), sum(count for _, count in found)),
                    ]:
                        seen[setting, name] = (round(area, 6), len(id_scores), count, round(accuracy, 6))
            assert seen == {
                (row["setting"], row["dataset"]): (
                    round(row["auroc"], 6),
                    row["n_id"],
                    row["n_ood"],
                    round(row["acc"], 6),
                )
                for row in own
            }
            for setting in settings:
                with open(output / setting / f"{detector}.csv", newline="") as file:
                    table = {line[""]: float(line["AUROC"]) for line in csv.DictReader(file)}
                expected = {name: each[0] for (of, name), each in seen.items() if of == setting}
                assert table == pytest.approx(expected, abs=0.0051)

    def _twin(self, row: dict[str, Any], split: str) -> np.ndarray:
        (train, _, labels), (h, z, _) = self.splits["id/train"], self.splits[split]
        head = [tensor.detach().double().numpy() for tensor in (self.network.fc.weight, self.network.fc.bias)]
        return getattr(twins, row["detector"])(h, z, train, head, labels=labels, **row["hyperparameters"])


GROUPS = ("near", "far")


def auroc(id_scores: np.ndarray, ood_scores: np.ndarray) -> float:
    """Share of the pairs in which the ID sample has the larger score, in percent."""
    difference = id_scores[:, None].astype(float) - ood_scores[None]
    return 100 * float(((difference > 0) + 0.5 * (difference == 0)).mean())
