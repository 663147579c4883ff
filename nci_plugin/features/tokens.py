"""Hidden states of a causal language model, batch by batch: what its last layer reads, and the token that came next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Union

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError
from nci_plugin.features.split import Chunk
from nci_plugin.networks.calling import watched
from nci_plugin.networks.head import LinearHead
from nci_plugin.networks.linear import linear_layer

Batch = Union[Tensor, Mapping[str, Tensor]]
"""Token ids (B, T), or ``input_ids`` with ``attention_mask`` (0 where padded), as a tokenizer of transformers gives."""


def output_layer(model: nn.Module) -> nn.Linear:
    """The layer from hidden states (n, P) to logits (n, K) of a causal model, as transformers' models name it.

    Raises PluginError where the model has no ``get_output_embeddings`` or that is no linear layer.
    """
    layer = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if module is layer:
            return linear_layer(model, name)
    raise PluginError(
        f"model {type(model).__name__}: needs get_output_embeddings() with the linear layer that gives its logits;"
        " pass a causal model of transformers (AutoModelForCausalLM), or give the module that method"
    )


def token_head(model: nn.Module) -> LinearHead:
    """W (K, P) and b (K,) of `output_layer`."""
    return LinearHead.from_linear(output_layer(model))


def hidden_states(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Chunk]:
    """For each batch of token ids features h_t (n, P), logits (n, K) and labels x_{t+1} (n,), in the batch's order.

    h_t is what the output layer reads at place t, in eval mode; its class is the token that comes next (Wu & Papyan
    2024). The last place of a row has none and is left out, as is a place that is padded or before padding. Logits are
    the model's own. Nothing is kept: memory is that of a batch. The model's mode is as before after the last batch.

    Raises PluginError on token ids that are not (B, T) with T >= 2, or out of range, or where the model's output layer
    does not run once a batch on (B, T, P).
    """
    layer, seen = output_layer(model), list[Tensor]()
    where, training = next(model.parameters()).device, model.training
    try:
        model.eval()
        for number, batch in enumerate(batches):
            ids, mask = _ids(batch, number, layer.out_features)
            seen.clear()
            with torch.no_grad(), watched({"": layer}, lambda _, given, output: seen.append(given)):
                output: Any = model(input_ids=ids.to(where), attention_mask=mask.to(where))
            logits = output.logits if hasattr(output, "logits") else output[0] if isinstance(output, tuple) else output
            if len(seen) != 1 or seen[0].shape[:-1] != ids.shape or logits.shape[:-1] != ids.shape:
                raise PluginError(
                    f"model {type(model).__name__}: expected its output layer to run once a batch on (B, T, P) with"
                    f" (B, T) = {tuple(ids.shape)}, got {[tuple(each.shape) for each in seen]} and logits of shape"
                    f" {tuple(logits.shape)}; pass a causal model that gives logits of every place"
                )
            follows = (mask[:, :-1] * mask[:, 1:]).bool()
            here = follows.to(where)
            yield Chunk(seen[0][:, :-1][here].float(), logits[:, :-1][here].float(), ids[:, 1:][follows])
    finally:
        model.train(training)


def _ids(batch: Batch, number: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    ids = batch if isinstance(batch, Tensor) else batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[1] < 2 or ids.is_floating_point():
        got = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise PluginError(f"tokens: batch {number} must be token ids (B, T), whole numbers with T >= 2, got {got}")
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        span = f"{int(ids.min())} to {int(ids.max())}" if len(ids) else "none"
        raise PluginError(f"tokens: batch {number}: ids must be in 0..{vocabulary - 1}, got {span}; use its tokenizer")
    mask = None if isinstance(batch, Tensor) else batch.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape:
        raise PluginError(f"tokens: batch {number}: attention_mask must be {tuple(ids.shape)}, got {tuple(mask.shape)}")
    return ids.long().cpu(), mask.long().cpu()
