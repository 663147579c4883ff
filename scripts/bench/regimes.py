"""Which of several ways to train collapses more, and which detects better: stored diagnoses side by side.

    nci-ood diagnose digits
    nci-ood train digits --regime overfit
    nci-ood diagnose digits --ckpt-path results/digits_resnet18_32x32_w16_base_e12_lr0.03_default_overfit
    python scripts/bench/regimes.py results/digits_resnet18_32x32_w16_base_e12_lr0.03_default*

Prints a Markdown table (mean ± population standard deviation over the networks of each results directory), and the
sentences about all networks together, with rank correlations where there are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from measuring import parser, publish

from nci_plugin.diagnosis.explanation import GROUPS, explain, over_networks
from nci_plugin.diagnosis.record import DiagnosisRecord
from nci_plugin.report.diagnosis_files import has_diagnosis, read_diagnoses

METRICS = {
    "NC1 Tr(Sigma_W) / Tr(Sigma_B)": "nc1_quotient",
    "NC1 CDNV": "nc1_cdnv",
    "NC2 equinorm, means": "nc2_equinorm_means",
    "NC2 equiangular, means": "nc2_equiangular_means",
    "NC2 ETF error": "nc2_etf_error",
    "NC3 self-duality": "nc3_self_duality",
    "NC3 mean cosine": "nc3_cosine_mean",
    "imbalance": "imbalance_ratio",
    "GOF slope, weights": "gof_slope_weights",
    "minority cosine, weights": "minority_cosine_weights",
    "smallest angle of weights": "smallest_angle_weights",
}


def cells(by_directory: Sequence[Sequence[float | None]], form: str) -> list[str]:
    return [over_networks(values, form) for values in by_directory]


def rows(records: Sequence[Sequence[DiagnosisRecord]]) -> dict[str, list[str]]:
    """The table: a row for each metric, a cell for each results directory."""
    table = {"networks": [str(len(each)) for each in records]}
    for name, field in METRICS.items():
        table[name] = cells([[record.collapse.values[field] for record in each] for each in records], ".3g")
    test = [[record.nc4["id/test"] for record in each] for each in records]
    table["NC4 agreement, ID test"] = cells([[nc4.agreement for nc4 in each] for each in test], ".4f")
    accuracy = cells([[nc4.accuracy for nc4 in each] for each in test], ".4f")
    table["nearest-class-centre accuracy, ID test"] = accuracy
    for score in dict.fromkeys(score for each in records for record in each for score in record.auroc):
        for group in GROUPS:
            values = [[record.auroc.get(score, {}).get(group) for record in each] for each in records]
            table[f"AUROC {score}, {group}-OOD (%)"] = cells(values, ".2f")
    return table


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("results", nargs="+", type=Path)
    options = made.parse_args(arguments)
    directories = [path for path in options.results if has_diagnosis(path)]
    records: list[list[DiagnosisRecord]] = [[each.record for each in read_diagnoses(path)] for path in directories]
    table = rows(records)
    sentences = explain([record for each in records for record in each]).sentences
    print(f"| | {' | '.join(path.name for path in directories)} |")
    print("|---|" + "---|" * len(directories))
    for name, values in table.items():
        print(f"| {name} | {' | '.join(values)} |")
    print("\nAll networks together:")
    for sentence in sentences:
        print(f"- {sentence}")
    if options.json is not None:
        publish({"results": [str(path) for path in directories], "rows": table, "sentences": sentences}, options.json)


if __name__ == "__main__":
    main()
