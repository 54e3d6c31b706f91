"""Data sets: index, images, augmentation, order, loading."""
