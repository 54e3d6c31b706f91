"""The process-group backend "cncl", carried by Gloo through host memory.

Every collective is finished when the call returns. When a peer dies, a rank waits for ever as
the real one does, unless TORCH_CNCL_ASYNC_ERROR_HANDLING (or an alias) is above 0.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

version = (1, 25, 0)
calls: Counter[str] = Counter()
ERROR_HANDLING = (
    "TORCH_CNCL_ASYNC_ERROR_HANDLING",
    "CNCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "NCCL_ASYNC_ERROR_HANDLING",
)
Tensors = list[torch.Tensor]


def handles_errors() -> bool:
    """Whether a failed collective raises. The first variable that is set decides."""
    found = (os.environ[name] for name in ERROR_HANDLING if name in os.environ)
    return next(found, "0") != "0"


class Done(dist._Work):
    """Work that is over."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.value = result
        self.future: torch.futures.Future[Any] = torch.futures.Future()
        self.future.set_result(result)

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def result(self) -> Any:
        return self.value

    def get_future(self) -> torch.futures.Future[Any]:
        return self.future


def carried(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host, in the type that CNCL moves it in: double as float, bool as uint8."""
    if tensor.device.type != "mlu" or tensor.layout != torch.strided:
        raise RuntimeError(f"Tensors must be MLU and dense, not {tensor.device} {tensor.layout}")
    kinds = {torch.float64: torch.float32, torch.bool: torch.uint8}
    return tensor.detach().cpu().to(kinds.get(tensor.dtype, tensor.dtype)).contiguous()


def flat(lists: list[Tensors]) -> Tensors:
    """The tensors of every list, in order."""
    return [tensor for one in lists for tensor in one]


class ProcessGroupCNCL(dist.ProcessGroup):
    """Collectives over tensors of one MLU device a rank."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), rank, size, timeout)
        # torch asks the group which devices it serves, to place pickled objects.
        kind = dist.ProcessGroup.BackendType.CUSTOM
        self._register_backend(torch.device("mlu"), kind, self.gloo)

    def getBackendName(self) -> str:  # noqa: N802  (torch's own spelling)
        return "cncl"

    def _run(self, name: str, work: Callable[[], Any]) -> None:
        calls[name] += 1
        try:
            work().wait()
        except RuntimeError as error:
            if handles_errors():
                raise dist.DistBackendError(f"CNCL: {name} failed: {error}") from error
            while True:
                time.sleep(3600)

    def _over(self, name: str, tensors: Tensors, work: Callable[[Tensors], Any]) -> Done:
        """Runs `work` on host copies of `tensors`, then brings them back."""
        copies = [carried(tensor) for tensor in tensors]
        self._run(name, lambda: work(copies))
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.detach().copy_(copy)
        return Done(tensors)

    def allreduce(self, tensors: Tensors, opts: Any = None) -> Done:
        opts = opts or dist.AllreduceOptions()
        if opts.reduceOp == dist.ReduceOp.AVG:
            opts.reduceOp = dist.ReduceOp.SUM
            done = self._over("allreduce", tensors, lambda c: self.gloo.allreduce(c, opts))
            for tensor in tensors:
                tensor.div_(self.size())
            return done
        return self._over("allreduce", tensors, lambda c: self.gloo.allreduce(c, opts))

    def broadcast(self, tensors: Tensors, opts: Any) -> Done:
        return self._over("broadcast", tensors, lambda c: self.gloo.broadcast(c, opts))

    def reduce(self, tensors: Tensors, opts: Any) -> Done:
        return self._over("reduce", tensors, lambda c: self.gloo.reduce(c, opts))

    def allgather(self, outputs: list[Tensors], inputs: Tensors, opts: Any = None) -> Done:
        source = [carried(tensor) for tensor in inputs]
        width = len(outputs[0])

        def work(copies: Tensors) -> Any:
            rows = [copies[i : i + width] for i in range(0, len(copies), width)]
            return self.gloo.allgather(rows, source)

        self._over("allgather", flat(outputs), work)
        return Done(outputs)

    def _allgather_base(self, output: torch.Tensor, source: torch.Tensor, opts: Any = None) -> Done:
        parts = list(output.view(self.size(), -1).unbind(0))
        self.allgather([parts], [source.reshape(-1)])
        return Done([output])

    def reduce_scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any = None) -> Done:
        sums = [tensor.clone() for tensor in flat(inputs)]
        options = dist.AllreduceOptions()
        if opts is not None:
            options.reduceOp = opts.reduceOp
        self._over("reduce_scatter", sums, lambda c: self._each(c, options))
        width = len(inputs[0])
        for row, output in enumerate(outputs):
            output.copy_(sums[row * width + self.rank()])
        return Done(outputs)

    def _each(self, copies: Tensors, options: Any) -> Any:
        for copy in copies:
            work = self.gloo.allreduce([copy], options)
            work.wait()
        return work

    def _reduce_scatter_base(self, output: torch.Tensor, source: torch.Tensor, opts: Any) -> Done:
        parts = list(source.reshape(self.size(), *output.shape).unbind(0))
        return self.reduce_scatter([output], [parts], opts)

    def gather(self, outputs: list[Tensors], inputs: Tensors, opts: Any) -> Done:
        source = [carried(tensor) for tensor in inputs]
        work = lambda c: self.gloo.gather([c] if c else [], source, opts)  # noqa: E731
        self._over("gather", flat(outputs), work)
        return Done(outputs)

    def scatter(self, outputs: Tensors, inputs: list[Tensors], opts: Any) -> Done:
        source = [[carried(tensor) for tensor in one] for one in inputs]
        return self._over("scatter", outputs, lambda c: self.gloo.scatter(c, source, opts))

    def send(self, tensors: Tensors, to: int, tag: int) -> Done:
        return self._over("send", tensors, lambda c: self.gloo.send(c, to, tag))

    def recv(self, tensors: Tensors, source: int, tag: int) -> Done:
        return self._over("recv", tensors, lambda c: self.gloo.recv(c, source, tag))

    def barrier(self, opts: Any = None) -> Done:
        self._run("barrier", lambda: self.gloo.barrier())
        return Done(None)

    def shutdown(self) -> None:
        """Nothing is pending."""

    def abort(self) -> None:
        """Nothing is pending."""


def create(store: Any, rank: int, size: int, timeout: Any) -> ProcessGroupCNCL:
    """What torch.distributed calls for backend "cncl"."""
    torch.empty(0, device="mlu")  # the communicator needs a device
    return ProcessGroupCNCL(store, rank, size, timeout)


dist.Backend.register_backend("cncl", create, devices=["mlu"])
