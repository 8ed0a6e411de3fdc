"""Without a GPU, Triton's kernels run in its interpreter, on the CPU: to be imported before anything imports Triton.

Triton asks for the setting when it is imported, and PyTorch imports it by the way.
"""

import os

import torch

# Counting the devices starts no driver, so a process may still be forked afterwards.
if "TRITON_INTERPRET" not in os.environ and torch.cuda.device_count() == 0:
    os.environ["TRITON_INTERPRET"] = "1"
