"""Tests of hopstream, on the servers and the hardware that are there."""

import os

import torch

if not torch.cuda.is_available():
    # Decided when what is written in Triton is imported: without a GPU its interpreter does it, on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")
