"""Sparse volumes: voxels as rows, convolutions on them, with a pure torch and an spconv backend."""
