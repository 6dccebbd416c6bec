"""A training epoch against ImageFolder and DataLoader, the usual loop, on the same JPEG files."""
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms as T

from synthnb.core import default_device
from synthnb.data import Images
from synthnb.drawn import EXPRESSIONS, draw_images, expression_labels
from synthnb.train import PLAIN, ClassifierTraining, TrainConfig, classifier_net


def write_jpegs(images:Images, folder:Path): # one folder for each class, as ImageFolder wants it
    "Write images as JPEG files of quality 95."
    for k, name in enumerate(images.classes):
        (Path(folder)/f'{k}-{name}').mkdir(parents=True, exist_ok=True)
    for i, (x, y) in enumerate(zip(images.pixels.cpu().numpy(), images.labels.tolist())):
        Image.fromarray(x).save(Path(folder)/f'{y}-{images.classes[y]}'/f'{i:06d}.jpg', quality=95)

def one_of_five(crops): # what torchvision's FiveCrop returns
    "One of five crops at random."
    return crops[torch.randint(5, ()).item()]


def usual_epochs(folder:Path, # written by `write_jpegs`
                 stored:int, # pixels, before the crop
                 net:nn.Module, config:TrainConfig,
                 device:torch.device): # yields images trained on
    "The usual training loop on a folder of pictures, an epoch at a time."
    flips = [T.RandomHorizontalFlip()] if config.mirror else []
    look = T.Compose([T.Resize(stored), T.FiveCrop(config.crop), T.Lambda(one_of_five), *flips,
                      T.ToTensor(), T.Normalize(**PLAIN)])
    loader = DataLoader(datasets.ImageFolder(folder, look),
                        config.batch_size, shuffle=True, num_workers=2,
                        drop_last=True, persistent_workers=True, pin_memory=device.type == 'cuda')
    net, optimiser = net.to(device).train(), torch.optim.AdamW(net.parameters(), lr=1e-3)
    while True:
        for x, y in loader:
            loss = F.cross_entropy(net(x.to(device, non_blocking=True)),
                                   y.to(device, non_blocking=True))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        yield len(loader)*config.batch_size


def our_epochs(folder:Path, # written by `write_jpegs`
               stored:int, # pixels, before the crop
               config:TrainConfig, device:torch.device): # yields images trained on
    "The loop of 00c_train on the same pictures, decoded once; the first item comes when they are."
    files = datasets.ImageFolder(folder, T.Resize(stored))
    pixels = torch.stack([torch.from_numpy(np.array(x)) for x, _ in files])
    images = Images(pixels, torch.tensor(files.targets), files.classes)
    run = ClassifierTraining(images, config, 0, device)
    steps = len(pixels)//config.batch_size
    yield 0
    while True:
        for _ in range(steps): run.update()
        run.loss.item()
        yield steps*config.batch_size


def bench_train(images:Images, # square pictures, all of one size, to be written as JPEG files
                stored:int=36, # what they are resized to before the crop, pixels
                repeats:int=3, # epochs of each that count
                device='auto', # see core.default_device
                **settings, # the fields of TrainConfig: arch, width, stem, crop, batch_size
               ) -> dict: # images a second of both, their ratio, the seconds of decoding
    "An epoch of 00c_train's loop against one of ImageFolder and DataLoader, in turn."
    config, device = TrainConfig.of(**settings), default_device(device)
    net = classifier_net(config.arch, images.n_classes, config.width, config.stem,
                         stem_stride=config.stem_stride)
    def clock(epochs):
        start = time.perf_counter()
        n = next(epochs)
        return n, time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(images, folder)
        usual = usual_epochs(folder, stored,
                             net.to(memory_format=torch.contiguous_format), config, device)
        ours = our_epochs(folder, stored, config, device)
        decode = clock(ours)[1]
        pairs = [(clock(usual), clock(ours)) for _ in range(repeats + 1)][1:]
        usual.close()
        ours.close()
    theirs, own = (float(np.median([n/s for n, s in side])) for side in zip(*pairs))
    return dict(usual_per_s=theirs, ours_per_s=own, ratio=own/theirs, decode_s=decode)


def rows(device):
    "Files of the stored size, the hardest case for ours, and larger ones."
    cuda = device.type == 'cuda'
    stored, crop, arch, width, n = ((72, 64, 'resnet18', 64, 4096) if cuda else
                                    (36, 32, 'resnet10', 16, 2560))
    y = expression_labels(n, 'downsampled', seed=0)
    for file in (stored, 128):
        pictures = Images(draw_images(y, file, 0, device=device)[0], y, EXPRESSIONS)
        b = bench_train(pictures, stored=stored, device=device, arch=arch, width=width, crop=crop)
        name = f'{arch}, width {width}, JPEG files of {file} px'
        yield f'epoch of ImageFolder + DataLoader, images/s ({name})', b['usual_per_s'], ''
        yield f'epoch of ours, images/s ({name})', b['ours_per_s'], ''
        yield f'training epoch: ours / ImageFolder + DataLoader ({name})', b['ratio'], 2.
