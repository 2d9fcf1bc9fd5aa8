"""VGGT for single images: tokens, camera and depth, under the parameter names of the public VGGT-1B file."""
