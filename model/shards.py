"""Layers of the language model in shards: each worker keeps a part of every weight (FSDP2).

A layer's weights are gathered when it runs and let go of again; its gradients are summed where
their shard lies, and the moments are there alone. Shards are gathered by all workers together, so
that what is sharded must run equally often on all. The projector (not in a batch without images)
and the output head (once per chunk of answers) do not, and stay whole on every worker.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from model.backbone import Backbone


def shard_layers(backbone: Backbone, device: torch.device, *, workers: int, half: bool) -> None:
    """Leaves each worker its part of the language model's layers, on its device.

    Args:
        backbone: whole, and the same on all workers; best on the CPU, as it moves layer by layer.
        device: this worker's.
        workers: how many there are, in one process group.
        half: gather weights in bfloat16; shards, gradients and their sums stay in float32.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (workers,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast does: what flows between layers is as without shards
    )
    language = backbone.vlm.model.language_model
    for layer in language.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # The root owns no weight: it only lets a layer be gathered while the one before it runs.
    rest = {p for p in language.parameters() if not isinstance(p, DTensor)}
    fully_shard(language, mesh=mesh, mp_policy=policy, ignored_params=rest)
    for module in (language, *language.layers):
        # Losses are divided by the global batch's counts, so that gradients are sums already.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def apart(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those in shards and those that are whole, without an empty list: no kernel takes both."""
    every = list(parameters)
    groups = [[p for p in every if isinstance(p, DTensor) is kind] for kind in (True, False)]
    return [group for group in groups if group]


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scales the gradients to a norm of at most `most`, over all shards; returns what it was."""
    groups = apart(parameters)
    if len(groups) == 1 and not isinstance(groups[0][0], DTensor):
        return float(clip_grad_norm_(groups[0], most))
    norms = []
    for group in groups:
        norm = get_total_norm([p.grad for p in group if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    together = torch.stack(norms).norm()
    for group in groups:
        clip_grads_with_norm_(group, most, together)
    return float(together)
