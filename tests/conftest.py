"""What holds for all tests."""

import torch

# Two cores are shared by servers, workers and pytest itself; more threads only wait for each other.
torch.set_num_threads(1)
