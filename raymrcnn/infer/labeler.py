"""What one card does: read a block of images, predict, paste, commit. Knows no Ray.

Fetching and decoding run ahead of the device and pasting behind it, each in threads of this
process, so pixels and masks stay here: only a committed file and a small summary leave. A bad
image is a recorded failure, never the end of the block; a batch that does not fit into the
device's memory is halved.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch

from raymrcnn.data.fetch import Fetcher
from raymrcnn.data.images import decode_annotated_image, decode_image
from raymrcnn.errors import DataError, RunError
from raymrcnn.infer.sink import Folder, commit_block, read_images
from raymrcnn.model.predictor import HostDetections, Predictor
from raymrcnn.structures import Detections, Failure, ImageRef

MOST_WAITING = 2  # batches of decoded images that wait for others of their size
# Single images that do not fit, before the device itself is held to be too small or too full.
MOST_TOO_LARGE = 8

Decode = Callable[[ImageRef], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class BlockSummary:
    """What is told of a committed block. Seconds of threads are added up."""

    block: int
    num_images: int
    num_failures: int
    num_detections: int
    seconds: float
    decode_s: float  # threads fetched and decoded
    device_s: float  # the device worked
    idle_s: float  # the device stood still, since the batch before, of whichever block
    paste_s: float  # masks became run lengths
    commit_s: float  # results were written
    num_ready: int  # decoded images that were at hand when the device was last free
    num_to_paste: int  # batches that waited for their masks then
    error: str  # of the first failure; "" for none
    note: str  # what people should know; "" for nothing


class BlockLabeler(Protocol):
    """Labels and commits blocks of one job."""

    def label_block(self, block: int, rows: range) -> BlockSummary:
        """Label and commit one block; may be called from several threads."""
        ...


class Decoder:
    """Images of a job as pixels; each `[3, H, W]` uint8, upright, RGB.

    Args:
        fetch: reads their bytes.
    """

    def __init__(self, fetch: Fetcher | None = None) -> None:
        self._fetch = fetch or Fetcher()

    def __call__(self, ref: ImageRef) -> torch.Tensor:
        """Read and decode one image.

        Raises:
            DataError: it cannot be read, or is no image.
        """
        data = self._fetch(ref)
        if ref.width and ref.height:
            return decode_annotated_image(data, ref.width, ref.height)
        return decode_image(data)


@dataclass
class _Clock:
    """Seconds of a block's stages; several threads add to it."""

    decode_s: float = 0.0
    device_s: float = 0.0
    idle_s: float = 0.0
    paste_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)


class Labeler:
    """Labels blocks of a predictions folder.

    Args:
        predictor: on its device.
        folder: of the predictions.
        batch_size: images the device takes at once, at most.
        decode_threads: that read and decode ahead.
        decode: an image to pixels.
    """

    def __init__(
        self,
        predictor: Predictor,
        folder: Folder,
        batch_size: int,
        decode_threads: int,
        decode: Decode | None = None,
    ) -> None:
        self._predictor = predictor
        self._folder = folder
        self._batch_size = batch_size
        self._decode = decode or Decoder()
        self._decode_threads = decode_threads
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._paster = ThreadPoolExecutor(1, "paste")
        # Blocks may be labelled from several threads, so that one decodes while another predicts.
        self._device = threading.Lock()
        self._freed_at: float | None = None  # when the device had nothing to do last
        self._num_too_large, self._fitted = 0, False
        self._note = ""

    def label_block(self, block: int, rows: range) -> BlockSummary:
        """Predict and commit one block.

        Raises:
            OutputError: the disk refuses; the block is not committed.
            RunError: no image fits into the device's memory.
        """
        began = time.perf_counter()
        clock = _Clock()
        refs = read_images(self._folder, rows)
        failures: list[Failure] = []
        pasting: list[Future[list[Detections]]] = []
        num_ready = num_to_paste = 0
        for images, good, ready in self._batches(refs, failures, clock):
            num_ready = ready
            num_to_paste = sum(not one.done() for one in pasting)
            found, fitting = self._on_device(images, good, failures, clock)
            pasting.append(self._paster.submit(self._pasted, found, fitting, clock))
        detections = [one for batch in pasting for one in batch.result()]
        place = {ref.image_id: k for k, ref in enumerate(refs)}
        detections.sort(key=lambda one: place[one.image_id])
        failures.sort(key=lambda one: place[one.image_id])
        mark = time.perf_counter()
        commit_block(self._folder, block, detections, failures)
        note, self._note = self._note, ""
        return BlockSummary(
            block=block,
            num_images=len(refs),
            num_failures=len(failures),
            num_detections=sum(len(one.scores) for one in detections),
            seconds=time.perf_counter() - began,
            decode_s=clock.decode_s,
            device_s=clock.device_s,
            idle_s=clock.idle_s,
            paste_s=clock.paste_s,
            commit_s=time.perf_counter() - mark,
            num_ready=num_ready,
            num_to_paste=num_to_paste,
            error=f"{failures[0].file_name}: {failures[0].error}" if failures else "",
            note=note,
        )

    def _batches(
        self, refs: Sequence[ImageRef], failures: list[Failure], clock: _Clock
    ) -> Iterator[tuple[list[torch.Tensor], list[ImageRef], int]]:
        """Decoded images, up to a batch that share a padded size; failures go into the list.

        Images of several sizes in one batch would change each other's detections, which would then
        depend on the size of batches and blocks. So images wait for others of their size, a few
        batches of them at a time. The number beside a batch is of images that are decoded by then.
        """
        waiting: dict[tuple[int, ...], tuple[list[torch.Tensor], list[ImageRef]]] = {}
        num_waiting = 0
        for ref, pixels, num_decoded in self._decoded_ahead(refs, clock):
            try:
                image = pixels.result()
            except DataError as error:
                failures.append(_failure(ref, error.what))
                continue
            size = self._predictor.padded_size(*image.shape[-2:])
            images, named = waiting.setdefault(size, ([], []))
            images.append(image)
            named.append(ref)
            num_waiting += 1
            if len(images) >= self._batch_size or num_waiting >= MOST_WAITING * self._batch_size:
                fullest = max(waiting, key=lambda key: len(waiting[key][1]))
                num_waiting -= len(waiting[fullest][1])
                yield *waiting.pop(fullest), num_waiting + num_decoded()
        while waiting:
            yield *waiting.pop(next(iter(waiting))), len(waiting)

    def _decoded_ahead(
        self, refs: Sequence[ImageRef], clock: _Clock
    ) -> Iterator[tuple[ImageRef, Future[torch.Tensor], Callable[[], int]]]:
        """Images in order, with the next ones being decoded, and how many of those are ready."""
        ahead: deque[tuple[ImageRef, Future[torch.Tensor]]] = deque()

        def num_decoded() -> int:
            return sum(pixels.done() for _, pixels in ahead)

        for ref in refs:
            ahead.append((ref, self._decoders.submit(self._decoded, ref, clock)))
            if len(ahead) > self._batch_size + self._decode_threads:
                yield *ahead.popleft(), num_decoded
        while ahead:
            yield *ahead.popleft(), num_decoded

    def _decoded(self, ref: ImageRef, clock: _Clock) -> torch.Tensor:
        mark = time.perf_counter()
        try:
            return self._decode(ref)
        finally:
            clock.add("decode_s", time.perf_counter() - mark)

    def _on_device(
        self,
        images: Sequence[torch.Tensor],
        refs: Sequence[ImageRef],
        failures: list[Failure],
        clock: _Clock,
    ) -> tuple[list[HostDetections], list[ImageRef]]:
        """What was found in the images that fit; the others go into the failures."""
        with self._device:
            mark = time.perf_counter()
            if self._freed_at is not None:
                clock.add("idle_s", mark - self._freed_at)
            found = self._forward(images)
            self._freed_at = time.perf_counter()
            clock.add("device_s", self._freed_at - mark)
        fitting = []
        for ref, one in zip(refs, found, strict=True):
            if one is None:
                failures.append(_failure(ref, "does not fit into the device's memory, even alone"))
            else:
                fitting.append(ref)
        return [one for one in found if one is not None], fitting

    def _forward(self, images: Sequence[torch.Tensor]) -> list[HostDetections | None]:
        """Detections; in halves where the device lacks memory, None for one that fits in no way."""
        try:
            found = self._predictor.forward(images)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        else:
            self._fitted = True
            return list(found)
        # Out of the `except`, or the error would hold on to the tensors of the failed try.
        _let_go_of_cache(self._predictor.device)
        if len(images) == 1:
            self._num_too_large += 1
            if not self._fitted and self._num_too_large >= MOST_TOO_LARGE:
                raise RunError(
                    f"out of memory on single images ({said})",
                    where=str(self._predictor.device),
                    todo="free the device, or use one with more memory; what is committed stays",
                )
            return [None]
        half = (len(images) + 1) // 2
        if half < self._batch_size:
            if not self._note:
                self._note = (
                    f"out of memory on a batch of {len(images)}: going on with batches of {half} "
                    f"({said})"
                )
            self._batch_size = half
        parts: list[HostDetections | None] = []
        rest = list(images)
        while rest:
            some = min(half, self._batch_size)  # which may have been halved again
            parts += self._forward(rest[:some])
            rest = rest[some:]
        return parts

    def _pasted(
        self, found: Sequence[HostDetections], refs: Sequence[ImageRef], clock: _Clock
    ) -> list[Detections]:
        mark = time.perf_counter()
        done = self._predictor.finish(found, refs)
        clock.add("paste_s", time.perf_counter() - mark)
        return done


def _failure(ref: ImageRef, error: str) -> Failure:
    return Failure(image_id=ref.image_id, file_name=ref.file_name, error=error)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return "not enough memory" in str(error) or "t allocate memory" in str(error)


def _let_go_of_cache(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
