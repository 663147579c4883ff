"""Which of pytorch-ood's detectors agree with OpenOOD's own on the same features, and by how much they differ.

    python scripts/bench/golden_agreement.py [--detectors NAME ...]

Reads tests/golden (features of a small CNN on digits and what OpenOOD v1.5's detectors answered), searches both sides'
own grids on the same validation splits, and prints a Markdown table of near / far AUROC in percent.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measuring import parser, publish

from nci_plugin import evaluate

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

COUNTERPARTS = {
    "msp": "msp",
    "mls": "mls",
    "ebo": "ebo",
    "nci": "nci",
    "knn": "knn",
    **{name: name for name in ("gen", "fdbd", "react", "scale", "dice", "klm", "nnguide", "vim")},
    "pytorch_ood:nci": "nci",
    "pytorch_ood:knn": "knn",
    "pytorch_ood:dice": "dice",
    "pytorch_ood:fdbd": "fdbd",
    "pytorch_ood:gen": "gen",
    "pytorch_ood:klmatching": "klm",
    "pytorch_ood:mahalanobis": "mds",
    "pytorch_ood:nnguide": "nnguide",
    "pytorch_ood:openmax": "openmax",
    "pytorch_ood:rmd": "rmds",
    "pytorch_ood:she": "she",
    "pytorch_ood:vim": "vim",
}


def main(arguments: list[str] | None = None) -> None:
    from golden_vectors import Golden

    made = parser(__doc__)
    made.add_argument("--detectors", nargs="+", default=[*COUNTERPARTS], choices=[*COUNTERPARTS], metavar="NAME")
    options = made.parse_args(arguments)
    differences: dict[str, float] = {}
    golden = Golden()
    evaluation = evaluate(golden.head, golden.benchmark(), options.detectors)
    print("| detector here | OpenOOD's | near / far here | near / far OpenOOD | largest difference |")
    print("|---|---|---|---|---|")
    for name in options.detectors:
        original = COUNTERPARTS[name]
        rows = {r.dataset: r.auroc for r in evaluation.results if (r.detector, r.setting) == (name, "ood")}
        if not rows:
            print(f"| `{name}` | `{original}` | {evaluation.failures[name]} | | |")
            continue
        here = [rows["near"], rows["far"]]
        there = [golden.tables[original]["ood"][row]["AUROC"] for row in ("near", "far")]
        difference = max(abs(a - b) for a, b in zip(here, there))
        differences[name] = difference
        cells = [" / ".join(f"{value:.2f}" for value in side) for side in (here, there)]
        print(f"| `{name}` | `{original}` | {cells[0]} | {cells[1]} | {difference:.2f} |")
    if options.json is not None:
        publish(
            {
                "detectors_compared": len(differences),
                "detectors_within_0.05_points_of_openood": sum(each < 0.05 for each in differences.values()),
                "failures": evaluation.failures,
                "largest_differences": differences,
            },
            options.json,
        )


if __name__ == "__main__":
    main()
