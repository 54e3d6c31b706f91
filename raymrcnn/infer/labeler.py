"""What one card does: read a block of images, predict, paste, commit. Knows no Ray.

Decoding runs ahead of the device and pasting behind it, each in threads of this process, so
pixels and masks stay here: only a committed file and a small summary leave. A bad image is a
recorded failure, never the end of the block.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from raymrcnn.data.images import decode_annotated_image, decode_image
from raymrcnn.errors import DataError, RunError
from raymrcnn.infer.sink import commit_block, read_images
from raymrcnn.model.predictor import HostDetections, Predictor
from raymrcnn.structures import Detections, Failure, ImageRef

MOST_WAITING = 2  # batches of decoded images that wait for others of their size


@dataclass(frozen=True, kw_only=True)
class BlockSummary:
    """What is told of a committed block."""

    block: int
    num_images: int
    num_failures: int
    num_detections: int
    seconds: float
    wait_s: float  # the device waited this long for pixels
    device_s: float  # the device worked this long
    error: str  # of the first failure; "" for none


class Labeler:
    """Labels blocks of a predictions folder.

    Args:
        predictor: on its device.
        folder: of the predictions.
        batch_size: images the device takes at once.
        decode_threads: that read and decode ahead.
    """

    def __init__(
        self, predictor: Predictor, folder: Path, batch_size: int, decode_threads: int
    ) -> None:
        self._predictor = predictor
        self._folder = folder
        self._batch_size = batch_size
        self._decode_threads = decode_threads
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._paster = ThreadPoolExecutor(1, "paste")
        # Blocks may be labelled from several threads, so that one decodes while another predicts.
        self._device = threading.Lock()

    def label_block(self, block: int, rows: range) -> BlockSummary:
        """Predict and commit one block.

        Raises:
            OutputError: the disk refuses; the block is not committed.
            RunError: the device ran out of memory.
        """
        began = time.perf_counter()
        refs = read_images(self._folder, rows)
        failures: list[Failure] = []
        pasting: list[Future[list[Detections]]] = []
        wait_s = device_s = 0.0
        mark = time.perf_counter()
        for images, good in self._batches(refs, failures):
            wait_s += time.perf_counter() - mark
            with self._device:
                mark = time.perf_counter()
                found = _forward(self._predictor, images)
                device_s += time.perf_counter() - mark
            pasting.append(self._paster.submit(self._predictor.finish, found, good))
            mark = time.perf_counter()
        detections = [one for batch in pasting for one in batch.result()]
        place = {ref.image_id: k for k, ref in enumerate(refs)}
        detections.sort(key=lambda one: place[one.image_id])
        commit_block(self._folder, block, detections, failures)
        return BlockSummary(
            block=block,
            num_images=len(refs),
            num_failures=len(failures),
            num_detections=sum(len(one.scores) for one in detections),
            seconds=time.perf_counter() - began,
            wait_s=wait_s,
            device_s=device_s,
            error=f"{failures[0].file_name}: {failures[0].error}" if failures else "",
        )

    def _batches(
        self, refs: Sequence[ImageRef], failures: list[Failure]
    ) -> Iterator[tuple[list[torch.Tensor], list[ImageRef]]]:
        """Decoded images, up to a batch that share a padded size; failures go into the list.

        Images of several sizes in one batch would change each other's detections, which would then
        depend on the size of batches and blocks. So images wait for others of their size, a few
        batches of them at a time.
        """
        waiting: dict[tuple[int, int], tuple[list[torch.Tensor], list[ImageRef]]] = {}
        num_waiting = 0
        for ref, pixels in self._decoded_ahead(refs):
            try:
                image = pixels.result()
            except DataError as error:
                failures.append(
                    Failure(image_id=ref.image_id, file_name=ref.file_name, error=error.what)
                )
                continue
            size = self._predictor.padded_size(*image.shape[-2:])
            images, named = waiting.setdefault(size, ([], []))
            images.append(image)
            named.append(ref)
            num_waiting += 1
            if len(images) == self._batch_size or num_waiting == MOST_WAITING * self._batch_size:
                fullest = max(waiting, key=lambda key: len(waiting[key][1]))
                num_waiting -= len(waiting[fullest][1])
                yield waiting.pop(fullest)
        yield from waiting.values()

    def _decoded_ahead(
        self, refs: Sequence[ImageRef]
    ) -> Iterator[tuple[ImageRef, Future[torch.Tensor]]]:
        """Images in order, with the next ones being decoded."""
        ahead: deque[tuple[ImageRef, Future[torch.Tensor]]] = deque()
        for ref in refs:
            ahead.append((ref, self._decoders.submit(_decoded, ref)))
            if len(ahead) > self._batch_size + self._decode_threads:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()


def _decoded(ref: ImageRef) -> torch.Tensor:
    if not ref.uri:
        raise DataError("the image name does not stay inside the data root")
    if ref.width and ref.height:
        return decode_annotated_image(ref.uri, ref.width, ref.height)
    return decode_image(ref.uri)


def _forward(predictor: Predictor, images: Sequence[torch.Tensor]) -> list[HostDetections]:
    try:
        return predictor.forward(images)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory on a batch of {len(images)} ({str(error).splitlines()[0]})",
            where=str(predictor.device),
            todo="give a smaller --batch-size; what is committed stays",
        ) from None
