"""A StarGAN training iteration against the official code's way: a plain eager float32 loop."""
from dataclasses import replace

import numpy as np
import torch
from stopwatch import seconds
from torch import nn

from synthnb.core import default_device
from synthnb.data import Images
from synthnb.gan import (InstanceNorm, StarGANConfig, StarGANTraining, classification,
                         plain_critic_loss)


class PlainTraining(StarGANTraining):
    "The same networks trained the official code's way. [yunjey/stargan, solver.py]"
    def __init__(self, train, config, seed, device):
        super().__init__(train, replace(config, precision='float32', compile=False), seed, device)
        c = self.config
        self.D.requires_grad_(True)
        self.G.to(memory_format=torch.contiguous_format)
        for m in self.G.modules():
            if isinstance(m, InstanceNorm): m.__class__ = nn.InstanceNorm2d
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (c.beta1, c.beta2))
                                  for net, lr in ((self.G, c.lr_g), (self.D, c.lr_d)))

    def update(self):
        real, y, t, alpha = self.batch()
        c = self.config
        real = real.contiguous()
        loss = plain_critic_loss(self.D, real, self.G(real, t).detach(), y, t, alpha, c)
        self.opt_g.zero_grad()
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()
        self.step += 1
        if self.step % c.n_critic: return {}
        fake = self.G(real, t)
        out, logits = self.D(fake)
        loss = c.cls_weight_g*classification(logits, t, c.multi_label) - out.mean()
        loss = loss + c.rec_weight*(self.G(fake, y) - real).abs().mean()
        self.opt_g.zero_grad()
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_g.step()
        return {}


def bench_stargan(
    size:int=64, batch:int=16, conv_dim:int=64, # pixels, images, channels of the first layers
    cycles:int=1, device='auto', **changes, # timed cycles, after a warm-up; fields of StarGANConfig
   ) -> dict: # seconds an update of D (its share of G's included) both ways, and their ratio
    "A training iteration of ours against the plain eager float32 loop, side by side."
    device = default_device(device) if isinstance(device, str) else device
    shape = dict(conv_dim=conv_dim, critic_dim=conv_dim,
                 critic_repeats=min(6, int(np.log2(size))), batch=batch)
    ours = StarGANConfig.of(**shape | dict(compile=device.type == 'cuda') | changes)
    pixels = torch.randint(256, (4*batch, size, size, 3), dtype=torch.uint8)
    images = Images(pixels, torch.arange(4*batch) % 8, [*'01234567'])
    def cycle(run, updates=ours.n_critic):
        return seconds(lambda: [run.update() for _ in range(updates)], device)/ours.n_critic
    runs = dict(plain=PlainTraining(images, ours, 0, device),
                ours=StarGANTraining(images, ours, 0, device))
    for run in runs.values(): cycle(run, 2*ours.n_critic if device.type == 'cuda' else 1)
    rounds = [{name: cycle(run) for name, run in runs.items()} for _ in range(cycles)]
    mid = {name: float(np.median([r[name] for r in rounds])) for name in runs}
    return dict(size=size, batch=batch, conv_dim=conv_dim,
                **{f'{n}_seconds': v for n, v in mid.items()},
                ratio=float(np.median([r['plain']/r['ours'] for r in rounds])))


def rows(device):
    "At the official widths."
    cuda = device.type == 'cuda'
    for size in (64, 128):
        b = bench_stargan(size, 16, 64, cycles=20 if cuda else 1, device=device)
        at = f'StarGAN at {size} px'
        full = f'{at}, width 64, batch 16'
        yield f'{full}: plain eager loop, ms an update', 1e3*b['plain_seconds'], ''
        yield f'{full}: ours, ms an update', 1e3*b['ours_seconds'], ''
        yield f'{at}: plain / ours', b['ratio'], 3. if cuda else 1.3
