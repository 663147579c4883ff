"""Linguistic collapse along the training of a tiny character model, and the memory of a vocabulary of 50,000.

    python scripts/study/language.py
    python scripts/study/language.py --memory

Needs transformers (the extra "text"). The text is Python's own help on the language, the topics of ``help()`` that its
standard library ships (`pydoc_data.topics`): characters are the tokens, 103 in Python 3.11, of sizes from 1 to tens of
thousands, far more than the P = 16 features. A GPT-2 of two layers, its output layer not tied to its embedding, is
trained by AdamW on windows of 64 characters of the first nine tenths. NC1, GNC2, UNC3 and NC4 (Wu & Papyan 2024) are
measured on 64,512 places of that text, of characters that come 5 times there, the loss on the last tenth. A metric is
better after training where Student's 95 % interval of its paired difference over seeds does not hold 0.

``--memory`` passes 50,257 tokens, each once or twice, through a GPT-2 of one layer of random weights and prints what
the measurement adds to the memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr, t
from torch import Tensor
from torch.nn import functional

from nci_plugin.collapse.tokens import TokenCollapse, measure_tokens

WINDOW, BATCH, WIDTH, LAYERS = 64, 32, 16, 2
STEPS = (0, 30, 100, 300, 1000)
RATE, DECAY = 3e-3, 0.1
PLACES, MIN_COUNT = 1024, 5
"""Windows that are measured, and how often a character must come in them."""

DOWN = ("validation loss", "CDNV", "GNC2 variation", "UNC3 variation")
"""What falls with collapse, by Wu & Papyan (2024); the others rise."""


def text() -> tuple[Tensor, int]:
    """Ids of all characters (n,), and how many there are."""
    whole = "".join(topics[name] for name in sorted(topics))
    characters = {character: index for index, character in enumerate(sorted(set(whole)))}
    return torch.tensor([characters[each] for each in whole]), len(characters)


def make_model(vocabulary: int, width: int = WIDTH, layers: int = LAYERS, window: int = WINDOW) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_positions=window, n_embd=width, n_layer=layers, n_head=2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def windows(ids: Tensor, starts: Tensor) -> Tensor:
    return ids[starts[:, None] + torch.arange(WINDOW)]


def loss_of(model: Any, batch: Tensor) -> Tensor:
    logits = model(input_ids=batch[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def trained(seed: int, steps: Sequence[int] = STEPS) -> Iterator[tuple[int, Any]]:
    """The model after each of ``steps``."""
    ids, vocabulary = text()
    torch.manual_seed(seed)
    model = make_model(vocabulary)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps))
    last = len(ids) * 9 // 10 - WINDOW
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, model.eval()
            model.train()
        optimiser.zero_grad()
        loss_of(model, windows(ids, torch.randint(last, (BATCH,)))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def measured(model: Any, count: int = PLACES) -> dict[str, float]:
    """The loss on the last tenth and collapse on windows spread over the rest."""
    ids, _ = text()
    last = len(ids) * 9 // 10
    spread = torch.linspace(0, last - WINDOW, count).long()
    found = measure_tokens(model, windows(ids, spread).split(64), MIN_COUNT)
    with torch.no_grad():
        held_out = windows(ids, torch.arange(last, len(ids) - WINDOW, WINDOW))
        loss = float(loss_of(model, held_out))
    return {"validation loss": loss, **numbers(found)}


def numbers(found: TokenCollapse) -> dict[str, float]:
    geometry = found.geometry
    return {
        "CDNV": float(geometry.cdnv or np.nan),
        "GNC2 mean": geometry.log_mean,
        "GNC2 variation": geometry.log_variation,
        "cos(w, mu)": geometry.cosine_mean,
        "UNC3 variation": geometry.cosine_variation,
        "NC4": found.nc4.agreement,
        "nearest mean right": found.nc4.accuracy,
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of Student's 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def tables(runs: Sequence[Sequence[dict[str, float]]], steps: Sequence[int]) -> Iterator[str]:
    """Every metric by step; and its change from the first trained step to the last, with a verdict."""
    yield f"| metric | {' | '.join(f'step {step}' for step in steps)} | last less first, 95 % | with loss | verdict |"
    yield f"|---|{'---|' * len(steps)}---|---|---|"
    losses = [[row["validation loss"] for row in run] for run in runs]
    for name in runs[0][0]:
        columns = [np.mean([run[place][name] for run in runs]) for place in range(len(steps))]
        mean, half = interval([run[-1][name] - run[0][name] for run in runs])
        down = name in DOWN
        better = mean + half < 0 if down else mean - half > 0
        worse = mean - half > 0 if down else mean + half < 0
        verdict = "-" if name == "GNC2 mean" else "as collapse" if better else "the opposite" if worse else "undecided"
        ranks = [spearmanr([row[name] for row in run], loss)[0] for run, loss in zip(runs, losses)]
        cells = [name, *(f"{value:.3g}" for value in columns), f"{mean:+.3g} ± {half:.2g}", f"{np.mean(ranks):+.2f}"]
        yield f"| {' | '.join([*cells, verdict])} |"


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def memory(vocabulary: int, width: int, window: int = 128) -> Iterator[str]:
    """What `measure_tokens` adds to a model in memory, MB, and its seconds."""
    torch.manual_seed(0)
    model = make_model(vocabulary, width, layers=1, window=window)
    order = torch.randperm(vocabulary)
    ids = torch.cat([order, order[:window]]).unfold(0, window, window - 1)  # a row begins with the last one's end
    before, start = peak(), time.perf_counter()
    found = measure_tokens(model, ids.split(4))
    once = vocabulary * width * 8 / 2**20
    yield f"vocabulary {vocabulary}, P = {width}: {found.geometry.tokens} tokens compared, {found.samples} places"
    yield f"class means: K P x 8 bytes = {once:.0f} MB; a matrix of all pairs: {vocabulary**2 * 8 / 2**30:.1f} GB"
    more = peak() - before
    yield f"peak: {more:.0f} MB beyond the process with the model ({before:.0f} MB), {more / once:.1f} times the means"
    yield f"seconds: {time.perf_counter() - start:.0f} on {torch.get_num_threads()} thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="models, at least 2")
    parser.add_argument("--memory", action="store_true", help="measure the memory of a large vocabulary instead")
    parser.add_argument("--vocabulary", type=int, default=50257, help="of --memory")
    parser.add_argument("--width", type=int, default=128, help="P of --memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print("\n".join(memory(options.vocabulary, options.width)))
        return
    ids, vocabulary = text()
    counts = torch.bincount(ids)
    print(f"text of {len(ids)} characters, {vocabulary} different, {int(counts.min())} to {int(counts.max())} each")
    print(f"P = {WIDTH}, {options.seeds} seeds; collapse on {PLACES * (WINDOW - 1)} places\n")
    runs = [[measured(model) for _, model in trained(seed)] for seed in range(options.seeds)]
    print("\n".join(tables(runs, STEPS)))


if __name__ == "__main__":
    main()
