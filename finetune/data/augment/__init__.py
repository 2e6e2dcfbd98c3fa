"""Augmentations of several operations: RandAugment, AugMix, and the operations that they draw from."""
