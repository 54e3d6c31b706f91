"""What one card does: read a block of images, predict, paste, commit. Knows no Ray.

Fetching and decoding run ahead of the device and pasting behind it, each in threads of this
process, so pixels and masks stay here: only a committed file and a small summary leave. A bad
image is a recorded failure, never the end of the block; a batch that does not fit into the
device's memory is halved.
"""

from __future__ import annotations

import math
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
# Of decoded images, of all blocks of an actor; and how many are decoded before one's size is known.
MOST_DECODED_BYTES, FEW = 2 << 30, 4
# Single images that do not fit, before the device itself is held to be too small or too full.
MOST_TOO_LARGE = 8

_LACK_OF_MEMORY = ("not enough memory", "t allocate memory", "out of memory", "ALLOC_FAILED")

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
    num_ready: int  # decoded images that were at hand when the device was free, on average
    num_to_paste: int  # batches that waited for their masks then, likewise
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


class _Decoded:
    """Images that are decoded and were not on the device yet, of all blocks and threads."""

    def __init__(self) -> None:
        self._number = self._bytes = self._largest = 0
        self._lock = threading.Lock()

    def add(self, image: torch.Tensor) -> None:
        with self._lock:
            self._number += 1
            self._bytes += image.nbytes
            self._largest = max(self._largest, image.nbytes)

    def take(self, images: Sequence[torch.Tensor]) -> int:
        """Let go of a batch; how many are left."""
        with self._lock:
            self._number -= len(images)
            self._bytes -= sum(image.nbytes for image in images)
            return self._number

    def full(self, being_decoded: int = 0) -> bool:
        """Whether no more should come, given how many will."""
        if not self._largest:
            return being_decoded >= FEW
        return self._bytes + being_decoded * self._largest > MOST_DECODED_BYTES


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
        self._at_hand = _Decoded()
        self._num_too_large = 0
        self._fitted = (0, 0)  # the largest image that did: pixels as decoded, and padded
        self._note = ""

    def label_block(self, block: int, rows: range) -> BlockSummary:
        """Predict and commit one block.

        Raises:
            OutputError: the disk refuses; the block is not committed.
            RunError: no image fits into the device's memory, or one no longer does; or the host
                has no memory to decode one.
        """
        began = time.perf_counter()
        clock = _Clock()
        refs = read_images(self._folder, rows)
        failures: list[Failure] = []
        pasting: list[Future[list[Detections]]] = []
        ready: list[int] = []
        to_paste: list[int] = []
        for images, good in self._batches(refs, failures, clock):
            to_paste.append(sum(not one.done() for one in pasting))
            found, fitting, left = self._on_device(images, good, failures, clock)
            ready.append(left)
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
            num_ready=round(sum(ready) / max(len(ready), 1)),
            num_to_paste=round(sum(to_paste) / max(len(to_paste), 1)),
            error=f"{failures[0].file_name}: {failures[0].error}" if failures else "",
            note=note,
        )

    def _batches(
        self, refs: Sequence[ImageRef], failures: list[Failure], clock: _Clock
    ) -> Iterator[tuple[list[torch.Tensor], list[ImageRef]]]:
        """Decoded images, up to a batch that share a padded size; failures go into the list.

        Images of several sizes in one batch would change each other's detections, which would then
        depend on the size of batches and blocks. So images wait for others of their size, a few
        batches of them at a time, and fewer where they are large.
        """
        waiting: dict[tuple[int, ...], tuple[list[torch.Tensor], list[ImageRef]]] = {}
        num_waiting = 0
        for ref, pixels in self._decoded_ahead(refs, clock):
            try:
                image = pixels.result()
            except DataError as error:
                failures.append(_failure(ref, error.what))
                continue
            except MemoryError:
                raise RunError(
                    "the machine has too little memory to decode an image",
                    where=ref.file_name,
                    todo="fewer actors on it, or a smaller --batch-size; what is committed stays",
                ) from None
            size = self._predictor.padded_size(*image.shape[-2:])
            images, named = waiting.setdefault(size, ([], []))
            images.append(image)
            named.append(ref)
            num_waiting += 1
            if (
                len(images) >= self._batch_size
                or num_waiting >= MOST_WAITING * self._batch_size
                or self._at_hand.full()
            ):
                fullest = max(waiting, key=lambda key: len(waiting[key][1]))
                num_waiting -= len(waiting[fullest][1])
                yield waiting.pop(fullest)
        while waiting:  # nothing is held on to that was given away
            yield waiting.pop(next(iter(waiting)))

    def _decoded_ahead(
        self, refs: Sequence[ImageRef], clock: _Clock
    ) -> Iterator[tuple[ImageRef, Future[torch.Tensor]]]:
        """Images in order, with the next ones being decoded, as far as memory allows."""
        ahead: deque[tuple[ImageRef, Future[torch.Tensor]]] = deque()
        for ref in refs:
            while ahead and self._at_hand.full(sum(not pixels.done() for _, pixels in ahead)):
                yield ahead.popleft()
            ahead.append((ref, self._decoders.submit(self._decoded, ref, clock)))
            if len(ahead) > self._batch_size + self._decode_threads:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _decoded(self, ref: ImageRef, clock: _Clock) -> torch.Tensor:
        mark = time.perf_counter()
        try:
            image = self._decode(ref)
        finally:
            clock.add("decode_s", time.perf_counter() - mark)
        self._at_hand.add(image)
        return image

    def _on_device(
        self,
        images: Sequence[torch.Tensor],
        refs: Sequence[ImageRef],
        failures: list[Failure],
        clock: _Clock,
    ) -> tuple[list[HostDetections], list[ImageRef], int]:
        """What was found in the images that fit; the others go into the failures.

        Besides, how many decoded images were left when the device took these.
        """
        with self._device:
            mark = time.perf_counter()
            left = self._at_hand.take(images)
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
        return [one for one in found if one is not None], fitting, left

    def _forward(self, images: Sequence[torch.Tensor]) -> list[HostDetections | None]:
        """Detections; in halves where the device lacks memory, None for one that fits in no way."""
        try:
            found = self._predictor.forward(images)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        else:
            decoded, padded = zip(self._fitted, *map(self._size, images), strict=True)
            self._fitted = max(decoded), max(padded)
            return list(found)
        # Out of the `except`, or the error would hold on to the tensors of the failed try.
        _let_go_of_cache(self._predictor.device)
        if len(images) == 1:
            self._num_too_large += 1
            none_fits = not any(self._fitted) and self._num_too_large >= MOST_TOO_LARGE
            if none_fits or self._has_fitted(images[0]):  # another may have taken the memory
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

    def _has_fitted(self, image: torch.Tensor) -> bool:
        """Whether one that was no smaller did."""
        return all(a <= b for a, b in zip(self._size(image), self._fitted, strict=True))

    def _size(self, image: torch.Tensor) -> tuple[int, int]:
        """Pixels as decoded, and padded."""
        height, width = image.shape[-2:]
        return height * width, math.prod(self._predictor.padded_size(height, width))

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
    # The CPU's allocator, the drivers and their libraries raise a plain RuntimeError.
    text = str(error)
    return any(said in text for said in _LACK_OF_MEMORY)


def _let_go_of_cache(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
