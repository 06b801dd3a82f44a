"""Judging kernels without a GPU: compile for one that is not there, and read the machine code."""
