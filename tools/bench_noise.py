"""A training step with AutoReLU at the first unit of each block against one with ReLU."""
import numpy as np
import torch
import torch.nn.functional as F
from stopwatch import seconds

from synthnb.core import default_device, generator, no_denormals
from synthnb.noise import NoiseConfig, coupled_optimiser, inject, set_signs
from synthnb.train import classifier_net


def bench_auto_relu(arch:str='resnet18', width:int=16, # see train.classifier_net
                    batch:int=64, size:int=32, # images, px
                    repeats:int=40, # steps of each that count
                    device='auto', # see core.default_device
                    w0:float=.1, # below 0: all signs are negative
                    gradient:str='exact', # see `AutoReLU`
                   ) -> dict: # what, relu_ms, auto_ms, overhead (.05 is 5%), device
    "A training step with AutoReLU against one with ReLU, step by step in turn. [ours]"
    device = default_device(str(device))
    x = torch.randn(batch, 3, size, size, generator=generator('bench'))
    x, y = (x.to(device, memory_format=torch.channels_last),
            torch.randint(8, (batch,), generator=generator('labels')).to(device))
    def contestant(auto):
        net = classifier_net(arch, 8, width).to(device).train()
        if auto:
            set_signs(inject(net, 'dynamic', w0=abs(w0), gradient=gradient), 1 if w0 > 0 else -1)
        return net, coupled_optimiser(net, 'dynamic', NoiseConfig.preset('laptop'), device)
    def step(net, opt):
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    def timed(side): return seconds(lambda: step(*side), device)
    relu, auto = contestant(False), contestant(True)
    with no_denormals(): pairs = [(timed(relu), timed(auto)) for _ in range(repeats + 3)][3:]
    what = f'{arch} x {width}, {size} px, batch {batch}, {gradient}, sign {"+" if w0 > 0 else "-"}1'
    a, b = (1e3*float(np.median(t)) for t in zip(*pairs))
    return dict(what=what, device=device.type, relu_ms=a, auto_ms=b,
                overhead=float(np.median([t/s for s, t in pairs])) - 1)


def rows(device):
    "ResNet-18, on CUDA at its full width."
    for width in ((64,) if device.type == 'cuda' else (8, 64)):
        b = bench_auto_relu(arch='resnet18', width=width, batch=64, device=device)
        yield f"{b['what']}: ReLU, ms a step", b['relu_ms'], ''
        yield f"{b['what']}: AutoReLU, ms a step", b['auto_ms'], ''
        yield f"{b['what']}: overhead of AutoReLU, %", 100*b['overhead'], '< 10'
