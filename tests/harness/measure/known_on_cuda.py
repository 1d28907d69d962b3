"""Implementations for CUDA whose time, memory and faults are known: tests name them by this file."""

import torch

from gqabench.attention_impls import PreparedAttention, get_impl

SLEEP_MS = 2.0
SCRATCH_BYTES = 50_000_001


def cycles_per_ms():
    """Of the kernel that sleeps, on this card and at its present clock: by events, over a long sleep."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(50_000_000)
    started.record()
    torch.cuda._sleep(100_000_000)
    ended.record()
    ended.synchronize()
    return 100_000_000 / started.elapsed_time(ended)


class Plain:
    name = "plain"

    def unsupported_reasons(self, problem):
        return []

    def prepare(self, problem, inputs):
        self.inner = get_impl("sdpa").prepare(problem, inputs)
        self.cycles = int(cycles_per_ms() * SLEEP_MS)
        self.inputs = inputs
        return PreparedAttention(self.run, self.inner.kv_cache_bytes)

    def run(self):
        return self.inner()


class SleepsAKnownTime(Plain):
    def run(self):
        torch.cuda._sleep(self.cycles)
        return self.inner()


class AllocatesAKnownScratch(Plain):
    def run(self):
        scratch = torch.empty(SCRATCH_BYTES, dtype=torch.uint8, device="cuda")
        del scratch
        return self.inner()


class FillsHalfOfTheMemory(Plain):
    """And a bit more."""

    def prepare(self, problem, inputs):
        _, total_bytes = torch.cuda.mem_get_info()
        self.filling = torch.empty(int(0.55 * total_bytes), dtype=torch.uint8, device="cuda")
        return super().prepare(problem, inputs)


class FillsHalfOfTheMemoryToo(FillsHalfOfTheMemory):
    pass


class ReturnsItsFirstOutput(Plain):
    def run(self):
        if not hasattr(self, "output"):
            self.output = self.inner().clone()
        return self.output


class MapsHeadsWrongly(Plain):
    """Head `h` reads `h % num_kv_heads`."""

    def run(self):
        groups = self.inputs.q.shape[1] // self.inputs.k.shape[1]
        k, v = (x.repeat(1, groups, 1, 1) for x in (self.inputs.k, self.inputs.v))
        return torch.nn.functional.scaled_dot_product_attention(self.inputs.q, k, v)


class ReadsBeyondTheEnd(Plain):
    """A device-side assertion fails, and with it all that is asked of the GPU in this process afterwards."""

    def run(self):
        beyond = torch.full((4,), 10**9, device="cuda")
        return self.inner() + self.inputs.q.view(-1)[beyond].sum()


class LeavesItsOwnStream(Plain):
    def run(self):
        torch.cuda.set_stream(torch.cuda.Stream())
        return self.inner()


class ReturnsACpuTensor(Plain):
    def run(self):
        return self.inner().cpu()


class Synchronises(Plain):
    def run(self):
        output = self.inner()
        torch.cuda.synchronize()
        return output


class LaunchesManyKernels(Plain):
    """Each long beside the gap after it, so that a graph, which has smaller gaps, takes about as long."""

    def prepare(self, problem, inputs):
        self.large = torch.ones(2**23, device="cuda")
        return super().prepare(problem, inputs)

    def run(self):
        for _ in range(100):
            self.large.mul_(1)
        return self.inner()
