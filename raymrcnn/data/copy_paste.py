"""Objects of one image pasted into another: simple copy-paste (Ghiasi et al. 2021).

Both images have been augmented to the same size before. Nothing is blended: the paper found that
it made no difference.
"""

from __future__ import annotations

import numpy as np
import torch

from raymrcnn.data.transforms import visible
from raymrcnn.structures import Target


def paste_objects(
    image: torch.Tensor,
    target: Target,
    donor_image: torch.Tensor,
    donor: Target,
    seed: np.random.SeedSequence,
) -> tuple[torch.Tensor, Target]:
    """A random subset of the donor's objects over the image; what they hide is cut away.

    Objects of which less than a pixel is left in height or width are dropped.

    Args:
        image: uint8 [3, height, width].
        target: what is in it.
        donor_image: uint8 of the same size.
        donor: what is in that.
        seed: decides which objects are pasted.
    """
    assert image.shape == donor_image.shape
    rng = np.random.Generator(np.random.PCG64(seed))
    pasted = torch.from_numpy(rng.random(len(donor.labels)) < 0.5)
    if not pasted.any():
        return image, target
    masks = donor.masks[pasted]
    cover = masks.bool().any(dim=0)  # of uint8 it would be uint8, and ~ another thing
    below = target.masks * ~cover
    # A box may be wider than its mask: only objects that something hides get a new one.
    hidden = (target.masks.bool() & cover).flatten(1).any(1)
    boxes, left = visible(target.boxes, below)
    boxes = torch.where(hidden[:, None], boxes, target.boxes)
    left |= ~hidden
    return (
        torch.where(cover, donor_image, image),
        Target(
            image_id=target.image_id,
            boxes=torch.cat((boxes[left], donor.boxes[pasted])),
            labels=torch.cat((target.labels[left], donor.labels[pasted])),
            masks=torch.cat((below[left], masks)),
        ),
    )
