"""vLLM's worker with a block pool of what the batch can need. Imported by vLLM, by its name."""

from __future__ import annotations

import psutil
from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_utils import get_kv_cache_groups

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

NULL_BLOCKS = 1


class FittingWorker(PlatformWorker):
    """Asks for the pool that all sequences need at full length, rather than for a share of RAM."""

    def determine_available_memory(self) -> int:
        """Bytes of the pool. Raises ``MemoryError`` where the machine has less left."""
        super().determine_available_memory()
        needed = self._needed_bytes()
        free = psutil.virtual_memory().available
        if current_platform.is_cpu() and needed > free:
            raise MemoryError(f"vLLM's cache pool takes {needed} bytes, {free} are free")
        return needed

    def _needed_bytes(self) -> int:
        """vLLM's own bound for a sequence of ``max_model_len``, times the batch."""
        groups = get_kv_cache_groups(self.vllm_config, self.get_kv_cache_spec())
        specs = [group.kv_cache_spec for group in groups]
        if not specs:
            return 0
        each = sum(
            -(-spec.max_memory_usage_bytes(self.vllm_config) // spec.page_size_bytes)
            for spec in specs
        )
        blocks = NULL_BLOCKS + each * self.vllm_config.scheduler_config.max_num_seqs
        block_bytes = max(
            len(group.layer_names) * group.kv_cache_spec.page_size_bytes for group in groups
        )
        return blocks * block_bytes
