"""One process or several: who I am, how sums are shared, and how a module is spread.

Knows nothing of losses or data. Several processes come from `accelerate launch` or `torchrun`; one
alone needs neither accelerate nor a process group.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snello.config.retrofit import RetrofitConfig


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one run. Invariant: `accelerator` is None exactly where there is one."""

    rank: int
    count: int
    device: torch.device
    accelerator: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def spread(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Copy or shard a module over the processes, and its optimizer with it."""
        if self.accelerator is None:
            return module, optimizer
        module, optimizer = self.accelerator.prepare(module, optimizer)
        return module, optimizer

    def add_up(self, values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the sum over all processes, without gradient."""
        values = values.detach().clone()
        if self.accelerator is not None:
            torch.distributed.all_reduce(values)
        return values

    def accumulating(self, module: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
        """Put off the exchange of gradients until the last forward pass of a step."""
        if self.accelerator is None or is_last:
            return contextlib.nullcontext()
        held: AbstractContextManager[Any] = self.accelerator.no_sync(module)
        return held

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Run the backward pass."""
        if self.accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> float:
        """Scale gradients down to a norm, and return the norm that they had."""
        if self.accelerator is None:
            return float(nn.utils.clip_grad_norm_(parameters, norm))
        before = self.accelerator.clip_grad_norm_(parameters, norm)
        return float(before.full_tensor() if hasattr(before, "full_tensor") else before)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def count_processes() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join_processes(config: RetrofitConfig) -> Iterator[Processes]:
    """Join the other processes of this run, if the launcher started several; leave them at the end.

    Raises:
        ValueError: several processes without accelerate, or a device that is not there.
    """
    device = _choose_device(config.device)
    if count_processes() == 1:
        yield Processes(0, 1, device)
        return
    try:
        from accelerate import Accelerator
    except ModuleNotFoundError:
        raise ValueError(
            "several processes need the package accelerate; pip install 'snello[retrofit]'."
        ) from None
    on_cpu = device.type == "cpu"
    shards = config.parallel == "shard" or (config.parallel == "auto" and not on_cpu)
    if shards and config.body_dtype != "float32":
        raise ValueError(
            f"body_dtype is {config.body_dtype}, but shards mix it with the decision's float32; "
            "use --body-dtype float32 (products still run in bfloat16) or --parallel replicate."
        )
    if shards and config.variant == "borrowed":
        raise ValueError(
            "borrowed neurons are single rows, which shards cannot fade; use --parallel replicate."
        )
    accelerator = Accelerator(
        cpu=on_cpu, mixed_precision="no", fsdp_plugin=_plan_shards() if shards else None
    )
    try:
        yield Processes(
            accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator
        )
    finally:
        accelerator.end_training()


def _plan_shards() -> Any:
    """FSDP2, one shard group for each decoder layer; autocast is ours, so no policy of its own."""
    from accelerate import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["DecoderLayer"],
        reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )


def _choose_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be cpu, cuda or cuda:<number>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no CUDA here; use --device cpu.")
    return device
