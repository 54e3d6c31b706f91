"""What one card does: read a block of images, predict, paste, commit. Knows no Ray.

Decoding runs ahead of the device and pasting behind it, each in threads of this process, so
pixels and masks stay here: only a committed file and a small summary leave. A bad image is a
recorded failure, never the end of the block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from raymrcnn.data.images import decode_annotated_image, decode_image
from raymrcnn.errors import DataError, RunError
from raymrcnn.infer.sink import commit_block, read_images
from raymrcnn.model.predictor import HostDetections, Predictor
from raymrcnn.structures import Detections, Failure, ImageRef


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
        decoding = [self._decoders.submit(_decoded, ref) for ref in refs]
        failures: list[Failure] = []
        pasting: list[Future[list[Detections]]] = []
        wait_s = device_s = 0.0
        for start in range(0, len(refs), self._batch_size):
            span = slice(start, start + self._batch_size)
            mark = time.perf_counter()
            images, good = _gather(decoding[span], refs[span], failures)
            decoding[span] = [Future() for _ in decoding[span]]  # lets go of the pixels
            wait_s += time.perf_counter() - mark
            if not good:
                continue
            with self._device:
                mark = time.perf_counter()
                found = _forward(self._predictor, images)
                device_s += time.perf_counter() - mark
            pasting.append(self._paster.submit(self._predictor.finish, found, good))
        detections = [one for batch in pasting for one in batch.result()]
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


def _decoded(ref: ImageRef) -> torch.Tensor:
    if ref.width and ref.height:
        return decode_annotated_image(ref.uri, ref.width, ref.height)
    return decode_image(ref.uri)


def _gather(
    decoding: Sequence[Future[torch.Tensor]], refs: Sequence[ImageRef], failures: list[Failure]
) -> tuple[list[torch.Tensor], list[ImageRef]]:
    images, good = [], []
    for pixels, ref in zip(decoding, refs, strict=True):
        try:
            images.append(pixels.result())
        except DataError as error:
            failures.append(
                Failure(image_id=ref.image_id, file_name=ref.file_name, error=error.what)
            )
        else:
            good.append(ref)
    return images, good


def _forward(predictor: Predictor, images: Sequence[torch.Tensor]) -> list[HostDetections]:
    try:
        return predictor.forward(images)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory on a batch of {len(images)} ({str(error).splitlines()[0]})",
            where=str(predictor.device),
            todo="give a smaller --batch-size; what is committed stays",
        ) from None
