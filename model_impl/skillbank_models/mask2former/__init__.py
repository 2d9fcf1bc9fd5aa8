"""Mask2Former: semantic, instance and panoptic segmentation."""
