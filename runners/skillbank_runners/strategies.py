"""How several processes share the work: ddp and fsdp of Lightning, among processes the worker started."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    OptimStateKeyType,
    StateDictType,
)
from torch.nn.parallel import DistributedDataParallel

from skillbank_runners.checkpoints import read_checkpoint
from skillbank_runners.ranks import Rank

__all__ = ["Replicated", "Sharded", "ShardedPrecision", "StartedRanks"]


class StartedRanks(ClusterEnvironment):
    """Tells Lightning which process this is; nothing is read from the environment."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """True: Lightning starts none."""
        return True

    @property
    def main_address(self) -> str:
        """Where the processes meet."""
        return self._rank.address

    @property
    def main_port(self) -> int:
        """On which port."""
        return self._rank.port

    @staticmethod
    def detect() -> bool:
        """False: only used when given."""
        return False

    def world_size(self) -> int:
        """Processes on all nodes."""
        return self._rank.world

    def set_world_size(self, size: int) -> None:
        """Fixed by the worker."""

    def global_rank(self) -> int:
        """Number among all processes."""
        return self._rank.number

    def set_global_rank(self, rank: int) -> None:
        """Fixed by the worker."""

    def local_rank(self) -> int:
        """Number on this node."""
        return self._rank.local

    def node_rank(self) -> int:
        """Number of this node."""
        return self._rank.node


class Replicated(DDPStrategy):
    """ddp whose validation does not wait for the other processes, which may have fewer batches."""

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the module itself; the wrapper would exchange buffers batch by batch."""
        assert self.lightning_module is not None
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)

    def on_validation_start(self) -> None:
        """Bring buffers such as running means to what the first process has, and so the checkpoint."""
        super().on_validation_start()
        if isinstance(self.model, DistributedDataParallel):
            _share_buffers(self.model)


class ShardedPrecision(FSDPPrecision):
    """Mixed precision by autocast alone, as with ddp: parameters, buffers and batches stay as they are.

    Lightning's own would round them as well, which reaches the parts that leave autocast on purpose, such as
    losses, and is for CUDA only.

    Args:
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        device_type: where it runs.
    """

    def __init__(self, precision: Any, device_type: str) -> None:
        super().__init__(precision)
        self._device_type = device_type

    @property
    def mixed_precision_config(self) -> MixedPrecision:
        """Nothing is cast."""
        return MixedPrecision()

    def convert_input(self, data: Any) -> Any:
        """Batches stay as the data loader made them, whatever they consist of."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Autocast on the device of the job, with a mixed precision."""
        if self.precision == "32-true":
            return nullcontext()
        half = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self._device_type, dtype=half)


class Sharded(FSDPStrategy):
    """fsdp that saves one file for all processes, reads it without running code, and works on the CPU too."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, put together on the first process."""
        assert self.model is not None
        _share_buffers(self.model)
        with self._whole():
            found: dict[str, Any] = self.model.state_dict()
        return found

    def optimizer_state(self, optimizer: Any) -> dict[str, torch.Tensor]:
        """The whole state of an optimiser, numbered as an optimiser that is not split has it."""
        assert self.model is not None
        plain = getattr(optimizer, "_optimizer", optimizer)
        with self._whole():
            found = FullyShardedDataParallel.optim_state_dict(self.model, plain)
            if found:
                found = FullyShardedDataParallel.rekey_optim_state_dict(
                    found, OptimStateKeyType.PARAM_ID, self.model
                )
        return found

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads the file and keeps its share."""
        checkpoint = read_checkpoint(Path(checkpoint_path))
        assert self.model is not None
        with self._whole(everywhere=True):
            self.model.load_state_dict(checkpoint["state_dict"])
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
                named = FullyShardedDataParallel.rekey_optim_state_dict(
                    state, OptimStateKeyType.PARAM_NAME, self.model
                )
                own = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, named)
                optimizer.load_state_dict(own)
        return checkpoint

    def on_validation_start(self) -> None:
        """As in `Replicated`: validate what the checkpoint will hold."""
        super().on_validation_start()
        assert self.model is not None
        _share_buffers(self.model)

    def _whole(self, *, everywhere: bool = False) -> AbstractContextManager[Any]:
        """States in one piece inside the block, off the GPU; on the first process, or `everywhere`."""
        assert self.model is not None
        # what is on the CPU already must not be moved there: torch frees the original
        moves = self.root_device.type != "cpu"
        first_only = moves and not everywhere
        return FullyShardedDataParallel.state_dict_type(
            self.model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(offload_to_cpu=moves, rank0_only=first_only),
            FullOptimStateDictConfig(offload_to_cpu=moves, rank0_only=first_only),
        )

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """The same on the CPU, for which Lightning names no device."""
        if self.root_device.type != "cpu":
            return super()._setup_model(model)
        return FullyShardedDataParallel(
            model,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **self.kwargs,
        )

    def _determine_device_ids(self) -> list[int]:
        return [] if self.root_device.type == "cpu" else super()._determine_device_ids()


def _share_buffers(module: torch.nn.Module) -> None:
    """Bring buffers such as running means to what the first process has."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, src=0)
