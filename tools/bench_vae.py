"""A training step of the thesis's autoencoder against standard layers: eager, float32."""
import copy
from dataclasses import replace

import numpy as np
import torch
from stopwatch import seconds
from torch import nn

from synthnb.core import default_device, no_denormals
from synthnb.data import Images
from synthnb.vae import VAE, LatentTraining, UpConv, VAEConfig, vae_loss


class PlainUp(nn.Sequential):
    "Upsampling and a convolution as standard layers, for the benchmark and the tests."
    def __init__(self, up:UpConv):
        conv = nn.Conv2d(up.in_channels, up.out_channels, 3, padding=1)
        conv.load_state_dict(up.state_dict())
        super().__init__(nn.Upsample(scale_factor=2), conv)

def plain_vae(vae:VAE) -> VAE: # a copy in standard layers, contiguous
    "The same network and weights as a plain loop would have them."
    plain = copy.deepcopy(vae)
    for name, layer in list(plain.decoder.named_children()):
        if isinstance(layer, UpConv): plain.decoder[int(name)] = PlainUp(layer)
    return plain.to(vae.device, memory_format=torch.contiguous_format)


class PlainTraining(LatentTraining):
    "The same training in standard layers, contiguous, float32, eager, with plain Adam."
    def __init__(self, *args):
        super().__init__(*args)
        self.vae = plain_vae(self.vae).train()
        self.loss = vae_loss
        self.optimiser = torch.optim.Adam(self.vae.parameters(), self.config.lr, eps=1e-7)


def bench_vae(size:int=64, batch:int=16, # pixels, images a step
              repeats:int
              |None=None, # rounds, each a few steps both ways; None: 5 on a CPU, 20 on CUDA
              device='auto', # see core.default_device
              steps:int=4, # steps a round
             ) -> dict: # what, plain_ms, ours_ms, ratio, device
    "A training step of ours against the plain eager float32 loop, side by side in turn."
    device = default_device(str(device))
    cuda = device.type == 'cuda'
    table = Images(torch.randint(256, (4*batch, size, size, 3), dtype=torch.uint8),
                   torch.zeros(4*batch, dtype=torch.long), ['a', 'b'])
    ours = VAEConfig.preset('paper', size=size, batch_size=batch, epochs=10**6, precision='auto',
                            compile=cuda)
    args = lambda config: (table, table.subset(range(4)), 'none', config, 0, device)
    runs = dict(plain=PlainTraining(*args(replace(ours, compile=False, precision='float32'))),
                ours=LatentTraining(*args(ours)))
    for run in runs.values(): run.end_epoch = lambda started: None # no look at validation images
    def clock(run, n):
        return 1e3*seconds(lambda: [run.update() for _ in range(n)], device)/n
    with no_denormals():
        for run in runs.values(): clock(run, 10 if cuda else 2)
        rounds = [{k: clock(run, steps) for k, run in runs.items()}
                  for _ in range(repeats or (20 if cuda else 5))]
    mid = {f'{k}_ms': float(np.median([r[k] for r in rounds])) for k in runs}
    return dict(what=f'VAE at {size} px, batch {batch}', **mid,
                ratio=float(np.median([r['plain']/r['ours'] for r in rounds])),
                device=device.type)


def rows(device):
    "At the thesis's batch of 16."
    for size in (32, 64, 128):
        b = bench_vae(size=size, batch=16, device=device)
        yield f'VAE at {size} px, batch 16: plain eager loop, ms a step', b['plain_ms'], ''
        yield f'VAE at {size} px, batch 16: ours, ms a step', b['ours_ms'], ''
        yield f'VAE at {size} px: plain / ours', b['ratio'], 3. if device.type == 'cuda' else 1.3
