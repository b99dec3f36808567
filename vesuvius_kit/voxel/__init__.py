"""Kernels over voxels: NumPy and numba only."""
