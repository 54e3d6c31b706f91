"""Mask R-CNN, its conventions and its predictor."""
