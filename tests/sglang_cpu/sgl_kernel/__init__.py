"""The part of SGLang's kernels that a dense model needs on a CPU, in torch. PyPI has only the GPU build."""

from typing import Any

import torch

__version__ = "0.0.0"


def assign_req_to_token_pool_cpu(
    requests: torch.Tensor,
    table: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    slots: torch.Tensor,
    _width: int,
) -> None:
    """Write each request's next ``slots`` into its row of ``table`` ``[request, position]``."""
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        table[row, start:end] = slots[taken : taken + count].to(table.dtype)
        taken += count


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_arguments: Any, **_options: Any) -> None:
        raise NotImplementedError(f"the test environment has no kernel {name}")

    return absent
