"""How long something takes on a device that answers before it has finished."""
import time

import torch


def seconds(work, device):
    "What `work` takes, from an idle device to an idle device."
    wait = torch.cuda.synchronize if device.type == 'cuda' else (lambda: None)
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began
