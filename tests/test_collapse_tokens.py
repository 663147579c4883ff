"""Linguistic collapse: streamed hidden states, and GNC2, UNC3 and NC4 over tokens against what is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nci_plugin import ClassStatistics, LinearHead
from nci_plugin.checks import PluginError
from nci_plugin.collapse import Undefined, measure, nearest_centre
from nci_plugin.collapse.tokens import NearestToken, measure_tokens, token_geometry
from nci_plugin.features.split import Chunk, FeatureSplit
from nci_plugin.features.tokens import hidden_states, token_head

TOKENS, WIDTH = 40, 6


def random_statistics(tokens: int = TOKENS, width: int = WIDTH, count: int = 600) -> tuple[ClassStatistics, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(count, generator=generator) ** 2 * tokens).long()  # unequal sizes, the last ones few
    centres = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    rows = centres[labels] + torch.randn(count, width, generator=generator, dtype=torch.float64) + 3
    weight = centres + torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    return ClassStatistics(tokens, width).update(rows, labels), weight


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("mean", ["classes", "samples"])
def test_blocks_give_what_all_pairs_give(block: int, mean: str) -> None:
    statistics, weight = random_statistics()
    found = token_geometry(statistics, weight, mean=mean, block=block)
    known = measure(statistics, LinearHead(weight, torch.zeros(TOKENS)), mean=mean)
    assert found.tokens == int((statistics.counts > 0).sum())
    assert found.cdnv == pytest.approx(known.nc1_cdnv, rel=1e-9)
    assert found.log_mean == pytest.approx(known.gnc2_log_mean, rel=1e-9)
    assert found.log_variation == pytest.approx(known.gnc2_log_variance**0.5 / abs(known.gnc2_log_mean), rel=1e-9)
    assert found.cosine_mean == pytest.approx(known.nc3_cosine_mean, rel=1e-9)
    assert found.cosine_variation == pytest.approx(known.nc3_cosine_std / abs(known.nc3_cosine_mean), rel=1e-9)


def test_a_simplex_is_uniform_and_dual() -> None:
    """K = P + 1 vertices, each token of another size: -0.5 log(2K / (K-1)) for every pair, cosine 1 for every token."""
    count = 5
    vertices = torch.eye(count, dtype=torch.float64) - 1 / count
    labels = torch.arange(count).repeat_interleave(torch.tensor([9, 1, 4, 2, 7]))
    statistics = ClassStatistics(count, count).update(vertices[labels] * 3 + 8, labels)
    found = token_geometry(statistics, vertices)
    assert found.log_mean == pytest.approx(-0.5 * math.log(2 * count / (count - 1)))
    assert found.log_variation == pytest.approx(0, abs=1e-9)
    assert found.cosine_mean == pytest.approx(1)
    assert found.cosine_variation == pytest.approx(0, abs=1e-9)
    assert found.cdnv == pytest.approx(0, abs=1e-12)


def test_rare_tokens_are_masked_from_the_mean_too() -> None:
    statistics, weight = random_statistics()
    often = statistics.counts >= 12
    kept = ClassStatistics.from_state_dict(
        {n: t if n == "within_scatter" else t[often] for n, t in statistics.state_dict().items()}
    )
    found, expected = token_geometry(statistics, weight, min_count=12), token_geometry(kept, weight[often])
    assert 3 < found.tokens < TOKENS
    assert found.tokens == expected.tokens
    assert found.log_mean == pytest.approx(expected.log_mean, rel=1e-12)
    assert found.cosine_mean == pytest.approx(expected.cosine_mean, rel=1e-12)


def test_nearest_tokens_are_nearest_centres() -> None:
    statistics, weight = random_statistics()
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(100, WIDTH, generator=generator) * 2 + 3
    chunk = Chunk(rows, rows @ weight.float().T, torch.arange(100) % TOKENS)
    found = NearestToken(statistics).update(chunk.rows(0, 60), block=7).update(chunk.rows(60, 100)).result()
    assert found == nearest_centre(FeatureSplit([chunk]), statistics)
    assert 0 < found.agreement < 1


def test_what_has_no_value_is_refused() -> None:
    statistics, weight = random_statistics()
    with pytest.raises(Undefined, match="need three tokens that came 9999 times, got 0"):
        token_geometry(statistics, weight, min_count=9999)
    with pytest.raises(PluginError, match="the weight has 39 rows, the statistics 40 tokens"):
        token_geometry(statistics, weight[1:])
    with pytest.raises(PluginError, match="tokens: mean: must be one of"):
        token_geometry(statistics, weight, mean="all")
    with pytest.raises(Undefined, match="a row of the weight is zero"):
        token_geometry(statistics, torch.zeros_like(weight))
    twins = ClassStatistics(3, 2).update(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.arange(3))
    with pytest.raises(Undefined, match="same mean direction"):
        token_geometry(twins, torch.ones(3, 2))
    with pytest.raises(Undefined, match="got none"):
        NearestToken(statistics).result()


# ---------------------------------------------------------------- a model


class Successor(nn.Module):
    """Predicts token x + 1 after x: its hidden state is one-hot of the next token, times the place + 1."""

    def __init__(self, vocabulary: int = 5) -> None:
        super().__init__()
        self.out = nn.Linear(vocabulary, vocabulary, bias=False)
        nn.init.eye_(self.out.weight)
        self.dropout = nn.Dropout(0.5)

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        size = self.out.in_features
        states = nn.functional.one_hot((input_ids + 1) % size, size).float()
        states = states * (1 + torch.arange(input_ids.shape[1]))[None, :, None]
        return SimpleNamespace(logits=self.out(self.dropout(states)))


def test_states_stand_before_the_token_that_came_next() -> None:
    """Eval mode, the last place left out, padding and what stands before it too."""
    model = Successor().train()
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    (chunk,) = hidden_states(model, [{"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}])
    assert chunk.labels.tolist() == [1, 2, 4]
    assert chunk.features.argmax(dim=1).tolist() == [1, 2, 4]
    assert chunk.features.amax(dim=1).tolist() == [1, 2, 1]
    assert torch.equal(chunk.logits, chunk.features)
    assert model.training
    assert token_head(model).num_classes == 5


def test_a_model_that_knows_the_next_token_agrees_with_its_means() -> None:
    """Each token comes once at each place 1 to 5: means are 3 e_k, v_k = 2; cos(e_k, e_k - mean) is sqrt(4/5)."""
    ids = (torch.arange(5)[:, None] + torch.arange(6)) % 5
    found = measure_tokens(Successor(), [ids[:2], ids[2:]])
    assert found.samples == 5 * 5
    assert found.geometry.tokens == 5
    assert (found.nc4.agreement, found.nc4.accuracy) == (1, 1)
    assert found.geometry.cdnv == pytest.approx(2 / 18)
    assert found.geometry.log_mean == pytest.approx(-0.5 * math.log(2 * 5 / 4))
    assert found.geometry.cosine_mean == pytest.approx(math.sqrt(4 / 5))
    assert found.geometry.cosine_variation == pytest.approx(0, abs=1e-12)


def test_bad_tokens_and_models_are_refused() -> None:
    model = Successor()
    good = torch.zeros(1, 3, dtype=torch.long)
    for batch, message in (
        (torch.zeros(3), "batch 0 must be token ids"),
        (torch.zeros(1, 1, dtype=torch.long), "T >= 2, got \\(1, 1\\)"),
        (good + 5, r"ids must be in 0\.\.4, got 5 to 5"),
        ({"tokens": good}, "got NoneType"),
        ({"input_ids": good, "attention_mask": good[:, :2]}, r"attention_mask must be \(1, 3\), got \(1, 2\)"),
    ):
        with pytest.raises(PluginError, match=message):
            list(hidden_states(model, [batch]))  # type: ignore[list-item]
    with pytest.raises(PluginError, match="needs get_output_embeddings"):
        list(hidden_states(nn.Linear(2, 2), [good]))
    with pytest.raises(PluginError, match="gone through twice, got none or an iterator"):
        measure_tokens(model, iter([good]))  # type: ignore[arg-type]
    model.forward = lambda input_ids, attention_mask: torch.zeros(1, 3, 5)  # type: ignore[method-assign]
    with pytest.raises(PluginError, match="expected its output layer to run once a batch"):
        list(hidden_states(model, [good]))
    assert not model.out._forward_pre_hooks


def test_a_causal_model_of_transformers() -> None:
    """Hidden states times the output layer are the model's own logits; tied or not."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common = {"vocab_size": 30, "bos_token_id": 0, "eos_token_id": 0}
    small = transformers.GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2, **common)
    other = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **common
    )
    for model in (transformers.GPT2LMHeadModel(small), transformers.LlamaForCausalLM(other)):
        ids = torch.randint(30, (3, 16))
        (chunk,) = hidden_states(model, [ids])
        assert chunk.features.shape == (45, 8)
        assert torch.allclose(token_head(model).logits(chunk.features), chunk.logits, atol=1e-5)
        found = measure_tokens(model, [ids] * 4)
        assert found.samples == 180
        assert 0 <= found.nc4.agreement <= 1
