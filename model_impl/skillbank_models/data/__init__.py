"""Readers, augmentation, batches and results of image data."""
