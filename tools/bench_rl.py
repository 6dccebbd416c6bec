"""The reinforcement learner's children, several in a batch against one at a time."""
import numpy as np
import torch
from stopwatch import seconds

from synthnb.core import default_device, generator, no_denormals
from synthnb.rl import ChildTask, RLConfig, stack_nets


def bench_children(children:int=8, n_real:int=640, k:int=8,
                   size:int=36, # children at once, real images, classes, pixels
                   repeats:int=3, device='auto'): # yields measure, value, wanted
    "Episodes (children trained) a second, in a batch and one at a time, in turn on one pool."
    device, luck = default_device(str(device)), generator('bench children')
    pixels = torch.randint(0, 256, (9*n_real, size, size, 3), dtype=torch.uint8, generator=luck)
    config = RLConfig(reward='sign', children=children, child_passes=1, crop=size*8//9)
    task = ChildTask(pixels, torch.arange(len(pixels)) % k,
                     (pixels[:256], torch.arange(256) % k), n_real, k, config, device)
    keep = (torch.rand(children, 8*n_real, generator=luck) < .5).float().to(device)
    def apart():
        [task.train_one(net, keep[j], generator(0)) for j, net in enumerate(task.starts('bench'))]
    def together(): task.train(stack_nets(task.starts('bench')), keep, generator(0))
    def rate(work): return children/seconds(work, device)
    with no_denormals(): rates = np.array([(rate(apart), rate(together)) for _ in range(repeats)])
    (one, many), ratio = np.median(rates, 0), np.median(rates[:, 1]/rates[:, 0])
    yield f'children of {9*n_real:,} images one at a time, episodes/s', one, ''
    yield f'{children} children in a batch, episodes/s', many, ''
    yield 'in a batch / one at a time', ratio, '>= 1.3'


def rows(device): return bench_children(device=device)
