"""Directional collapse of a shallow ReLU network: from small weights, directions collapse and lengths do not.

    python scripts/study/shallow.py

One hidden layer of 64 ReLUs and one output without biases, f(x) = v . relu(W x), learn two classes by gradient descent
on the logistic loss. The inputs are orthogonally separable: x . x' > 0 within a class, at most 0 across. From small
weights every neuron then ends on one of two directions, one for each class (Phuong & Lampert 2021, after Maennel et
al. 2018), so the hidden features of a class are one vector times w . x: their cosine within the class goes to 1, while
their lengths vary as the inputs' do, and NC1 stays above 0.

The known answer: with all neurons on two directions a feature is relu(w_+ . x) a for the one class and relu(w_- . x) a'
for the other, so NC1 is that of two lines whose positions are w . x; it is computed from the network's own directions.
With large weights neurons hardly turn (lazy training), and the cosine stays where it began.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn import functional

from nci_plugin import ClassStatistics
from nci_plugin.collapse.progressive import Directions
from nci_plugin.collapse.variability import nc1_quotient

SAMPLES, INPUTS, NEURONS = 60, 10, 64
SCALES = (1e-3, 1e-1, 1.0)
STEPS, RATE = 6000, 0.2


def separable(seed: int, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Inputs (n, INPUTS) in float64, in the positive orthant for class 1 and in the negative one for class 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    size = torch.rand(samples, INPUTS, generator=generator, dtype=torch.float64) + 0.1
    return size * (2 * labels - 1)[:, None], labels


def train(scale: float, seed: int, steps: int = STEPS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, labels, W (NEURONS, INPUTS) at the start and at the end; |v_j| = ||w_j|| at the start, as it stays."""
    inputs, labels = separable(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    weight = torch.randn(NEURONS, INPUTS, generator=generator, dtype=torch.float64) * scale / INPUTS**0.5
    signs = torch.where(torch.rand(NEURONS, generator=generator) < 0.5, -1.0, 1.0).double()
    start, output = weight.clone(), signs * weight.norm(dim=1)
    weight.requires_grad_()
    output.requires_grad_()
    targets = labels.double()
    for _ in range(steps):
        logits = functional.relu(inputs @ weight.T) @ output
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        gradients = torch.autograd.grad(loss, (weight, output))
        with torch.no_grad():
            for parameter, gradient in zip((weight, output), gradients):
                parameter -= RATE * gradient
    return inputs, labels, start, weight.detach()


def measured(inputs: Tensor, labels: Tensor, weight: Tensor) -> dict[str, float]:
    """Cosine within classes and NC1 of the hidden features, and NC1 where all neurons lie on two directions."""
    features = functional.relu(inputs @ weight.T)
    return {
        "cosine within classes": Directions(2, len(weight)).update(features, labels).mean_cosine(),
        "NC1": nc1(features, labels),
        "NC1 of two lines": nc1(on_two_lines(inputs, weight), labels),
    }


def on_two_lines(inputs: Tensor, weight: Tensor) -> Tensor:
    """The features that the network would have with every neuron turned to the mean direction of its group."""
    groups = (weight.sum(dim=1) > 0).long()  # towards the positive orthant, or the negative one
    turned = torch.zeros_like(weight)
    for group in (0, 1):
        mine = groups == group
        if mine.any():
            direction = functional.normalize(weight[mine].sum(dim=0), dim=0)
            turned[mine] = weight[mine].norm(dim=1, keepdim=True) * direction
    return functional.relu(inputs @ turned.T)


def nc1(features: Tensor, labels: Tensor) -> float:
    return nc1_quotient(ClassStatistics(2, features.shape[1]).update(features, labels))


def interval(values: Sequence[float]) -> str:
    """Mean ± half of Student's 95 % interval."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4g} ± {half:.2g}"


def table(seeds: int, steps: int = STEPS) -> Iterator[str]:
    yield "| scale of weights | | cosine within classes | NC1 | NC1 of two lines |\n|---|---|---|---|---|"
    for scale in SCALES:
        runs = [train(scale, seed, steps) for seed in range(seeds)]
        for place, when in ((2, "before"), (3, "after")):
            rows = [measured(run[0], run[1], run[place]) for run in runs]
            yield f"| {scale:g} | {when} | {' | '.join(interval([row[name] for row in rows]) for name in rows[0])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="data sets and networks, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"n = {SAMPLES}, {INPUTS} inputs, {NEURONS} neurons, {options.seeds} seeds\n")
    print("\n".join(table(options.seeds)))


if __name__ == "__main__":
    main()
