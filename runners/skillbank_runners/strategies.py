"""How several processes share the work: ddp and fsdp of Lightning, among processes the worker started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from torch.nn.parallel import DistributedDataParallel

from skillbank_runners.checkpoints import read_checkpoint
from skillbank_runners.ranks import Rank

__all__ = ["Replicated", "Sharded", "StartedRanks"]


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
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)


class Sharded(FSDPStrategy):
    """fsdp that saves one file for all processes and reads it without running code from it."""

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Let the file pass the safe reader first: Lightning's own reader of such files is not one."""
        if self.is_global_zero:
            read_checkpoint(Path(checkpoint_path))
        self.barrier()
        return super().load_checkpoint(checkpoint_path, weights_only=True)

    def _determine_device_ids(self) -> list[int]:
        return [] if self.root_device.type == "cpu" else super()._determine_device_ids()
