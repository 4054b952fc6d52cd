"""Floating-point operations of a piece of work: what the live counter and the benchmarks count by.

They are those of the model: what a backward pass computes a second time (recompute, and the scores
that fused attention does not keep) counts once. torch's own counter counts that twice, and has no
formula for its attention kernel of the CPU. FlashAttention 2's kernels stay uncounted, about 3 % of
a 7B's step.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

KERNELS = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")


class Flops(FlopCounterMode):
    """Operations of the products within it."""

    def __init__(self) -> None:
        formulas: dict[Any, Any] = {}
        for kernel in KERNELS:
            name = f"_scaled_dot_product_{kernel}"
            formulas[getattr(torch.ops.aten, name)] = _forward
            formulas[getattr(torch.ops.aten, f"{name}_backward")] = _backward
        super().__init__(display=False, custom_mapping=formulas)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if _recomputes():
            return out
        return super()._count_flops(func_packet, out, args, kwargs)


def _forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of the shapes [B, heads, N, width]: scores, and their sum over the values."""
    return int(sdpa_flop_count(query, key, value))


def _backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Each of the two products has two gradients."""
    return 2 * _forward(query, key, value)


def _recomputes() -> bool:
    """Whether this is a forward inside a backward pass: there alone a gradient is asked for."""
    return torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
