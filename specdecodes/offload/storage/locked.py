"""Host memory that a device copies from without a detour, where the system allows it."""

from __future__ import annotations

import contextlib

import torch

from specdecodes.offload.storage.store import aligned_memory

_PORTABLE = 1  # for every device of the process


class HostMemory:
    """Host memory of an exact size: `memory` to read files into, `bytes` to copy from; `locked` says whether the
    system page-locked it, which copies that run on their own need."""

    def __init__(self, nbytes: int, device: torch.device, *, lock: bool = True) -> None:
        area = aligned_memory(nbytes)
        self.memory = memoryview(area)
        self.bytes = torch.frombuffer(area, dtype=torch.uint8)
        # torch's own pinned allocator rounds up to powers of two, which would break the host budget.
        self.locked = lock and int(torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), nbytes, _PORTABLE)) == 0
        if lock and not self.locked:
            # CUDA keeps the error for whoever asks next: a kernel that has nothing to do with it would report it.
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device=device)

    def release(self) -> None:
        """Unlocks it; no copy may be under way."""
        if self.locked:
            torch.cuda.cudart().cudaHostUnregister(self.bytes.data_ptr())
            self.locked = False
