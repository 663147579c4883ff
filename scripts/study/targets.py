"""Collapse of regression and of ordinal regression: on free features, and on networks trained on scikit-learn's data.

    python scripts/study/targets.py

Free features H, W and b are minimised by L-BFGS in float64,

    (1/N) sum_i loss(W h_i + b, y_i) + (lambda_w / 2) ||W||_F^2 + (lambda_h / 2N) ||H||_F^2,

with half the squared error, whose minimum has
W W^T = sqrt(lambda_h / lambda_w) (Sigma^(1/2) - sqrt(lambda_h lambda_w) I)
(Andriopoulos et al. 2024), or with the negative log likelihood of a cumulative logit model with fixed thresholds, whose
latents go to the middles of their intervals as the decay goes to 0 (Ma et al. 2025).

Networks: three blood values of the diabetes data (442 patients; s1, s2, s3) from its other seven columns; the digits
0 to 9 (1,797 images) as grades of a scale. Each is an MLP of two hidden layers, trained by Adam on all samples at once,
with and without weight decay. A metric is better after training where Student's 95 % interval of its paired difference
over seeds does not hold 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import t
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional

from nci_plugin import ClassStatistics
from nci_plugin.collapse.ordinal import onc1, onc2, onc3
from nci_plugin.collapse.regression import nrc1, nrc2, nrc3

WIDTH, STEPS, RATE, DECAY = 64, 2000, 3e-3, 3e-2
BLOOD = ("s1", "s2", "s3")

Loss = Callable[[Tensor, Tensor], Tensor]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """||z - y||^2 / 2, mean over samples."""
    return (outputs - targets).square().sum(dim=1).mean() / 2


def cumulative(thresholds: Tensor) -> Loss:
    """Mean negative log likelihood of P(y <= q) = sigmoid(b_q - z): log(sigmoid(b_y - z) - sigmoid(b_{y-1} - z))."""
    edges = functional.pad(thresholds, (1, 1), value=torch.inf)
    edges[0] = -torch.inf
    widths = (edges[1:] - edges[:-1])[1:-1]

    def loss(outputs: Tensor, grades: Tensor) -> Tensor:
        z, last = outputs[:, 0], len(thresholds)
        upper = thresholds[grades.clamp(max=last - 1)] - z
        lower = thresholds[(grades - 1).clamp(min=0)] - z
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), of which an end grade has one factor.
        inner = (grades > 0) & (grades < last)
        gap = torch.log(-torch.expm1(-torch.where(inner, widths[(grades - 1).clamp(0, last - 2)], 1.0)))
        log = torch.where(grades < last, functional.logsigmoid(upper), 0.0)
        log = log + torch.where(grades > 0, functional.logsigmoid(-lower), 0.0) + torch.where(inner, gap, 0.0)
        return -log.mean()

    return loss


def free_minimum(
    loss: Loss, targets: Tensor, outputs: int, width: int, decay: tuple[float, float], bias: bool, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Features (N, P) and weight (outputs, P) at the minimum; ``decay`` is lambda_w and lambda_h."""
    count = len(targets)
    sizes = np.cumsum([count * width, outputs * width, outputs])

    def parts(flat: Tensor) -> list[Tensor]:
        features, weight, offset = flat.tensor_split(sizes[:-1].tolist())
        return [features.reshape(count, width), weight.reshape(outputs, width), offset * float(bias)]

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.tensor(point, requires_grad=True)
        features, weight, offset = parts(flat)
        held = (decay[0] * weight.square().sum() + decay[1] * features.square().sum() / count) / 2
        value = loss(features @ weight.T + offset, targets) + held
        value.backward()
        assert flat.grad is not None
        return value.item(), flat.grad.numpy()

    start = np.random.default_rng(seed).normal(size=sizes[-1]) * 0.3
    options = {"maxiter": 30000, "maxfun": 60000, "ftol": 0, "gtol": 1e-10, "maxcor": 30}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    features, weight, _ = parts(torch.tensor(found.x))
    return features, weight


def trained(
    inputs: Tensor, targets: Tensor, loss: Loss, outputs: int, bias: bool, decay: float, seed: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features of the second hidden layer and the head's weight, before and after training."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(
        nn.Linear(inputs.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
    )  # fmt: skip
    head = nn.Linear(WIDTH, outputs, bias=bias)
    parameters = [*trunk.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.no_grad():
        yield trunk(inputs), head.weight.clone()
    for _ in range(steps):
        optimiser.zero_grad()
        held = decay / 2 * sum(parameter.square().sum() for parameter in parameters)
        (loss(head(trunk(inputs)), targets) + held).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        yield trunk(inputs), head.weight.clone()


def standard(values: np.ndarray) -> Tensor:
    """Columns of mean 0 and standard deviation 1; a constant column is 0."""
    spread = values.std(axis=0)
    return torch.tensor((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), dtype=torch.float32)


def regression(seed: int, decay: float = DECAY, steps: int = STEPS) -> list[dict[str, float]]:
    """NRC1 to NRC3 before and after training on the diabetes data."""
    data = load_diabetes()
    chosen = [data.feature_names.index(name) for name in BLOOD]
    targets, inputs = standard(data.data[:, chosen]), standard(np.delete(data.data, chosen, axis=1))
    return [
        {"NRC1": nrc1(features, len(BLOOD)), "NRC2": nrc2(features, weight), "NRC3": nrc3(targets, weight)}
        for features, weight in trained(inputs, targets, squared, len(BLOOD), True, decay, seed, steps)
    ]


def ordinal(seed: int, decay: float = DECAY, steps: int = STEPS) -> list[dict[str, float]]:
    """ONC1 to ONC3 before and after training on digits as grades; thresholds are fixed, 2 apart."""
    images, labels = load_digits(return_X_y=True)
    inputs, grades, cuts = standard(images), torch.tensor(labels), torch.arange(9.0) * 2 - 8
    rows = []
    for features, weight in trained(inputs, grades, cumulative(cuts), 1, False, decay, seed, steps):
        statistics = ClassStatistics(10, WIDTH).update(features, grades)
        order = onc3(statistics, weight[0], cuts)
        values = {"ONC1": onc1(statistics), "ONC2": onc2(statistics, weight[0])}
        rows.append({**values, "ONC3 in order": order.in_order, "ONC3 centring": order.centring})
    return rows


def compare(runs: Sequence[Sequence[Mapping[str, float]]]) -> Iterator[tuple[str, float, float, float, float]]:
    """Metric, mean before, mean after, and the 95 % interval of the difference (Student, paired over seeds)."""
    for name in runs[0][0]:
        before, after = (np.array([run[place][name] for run in runs]) for place in (0, 1))
        gain = after - before
        half = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
        yield name, before.mean(), after.mean(), gain.mean() - half, gain.mean() + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind, at least 2")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| data | weight decay | metric | before | after | difference, 95 % | verdict |\n|---|---|---|---|---|---|---|"
    )
    for data, experiment in (("diabetes, 3 targets", regression), ("digits, 10 grades", ordinal)):
        for decay in (DECAY, 0.0):
            runs = [experiment(seed, decay, options.steps) for seed in range(options.seeds)]
            for name, before, after, low, high in compare(runs):
                fell, rose = high < 0, low > 0
                better, worse = (rose, fell) if name == "ONC3 in order" else (fell, rose)
                verdict = "collapses" if better else "the opposite" if worse else "undecided"
                cells = [
                    data,
                    f"{decay:g}",
                    name,
                    f"{before:.3g}",
                    f"{after:.3g}",
                    f"{low:+.3g} to {high:+.3g}",
                    verdict,
                ]
                print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
