"""What is counted of a step: attention on the CPU as its plain products, recompute not at all."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from model.flops import Flops


def counted(call) -> int:
    with Flops() as counter:
        call()
    return counter.get_total_flops()


def attention(kernel: SDPBackend) -> tuple[int, int]:
    """Forward alone, and with the backward pass."""
    q, k, v = (torch.randn(2, 4, n, 16, requires_grad=True) for n in (10, 72, 72))
    with sdpa_kernel(kernel):
        forward = counted(lambda: scaled_dot_product_attention(q, k, v))
        return forward, counted(lambda: scaled_dot_product_attention(q, k, v).sum().backward())


def test_attention_counts_on_the_cpu_as_its_plain_products_do():
    forward = 2 * 2 * 2 * 4 * 10 * 72 * 16
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        assert attention(kernel) == (forward, 3 * forward)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_computed_a_second_time_is_not_counted(reentrant):
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU(), torch.nn.Linear(8, 8))
    rows = torch.randn(4, 8, requires_grad=True)
    once = counted(lambda: layer(rows).sum().backward())
    again = counted(lambda: checkpoint(layer, rows, use_reentrant=reentrant).sum().backward())
    assert once == again == 2 * 3 * 2 * 4 * 8 * 8
