"""Many classifiers at once (00g_plateau) against one after the other (00c_train), updates a second.

On a CPU they are processes, on CUDA one stack of networks whose updates are a captured graph.
"""
import time

import torch
from shipped import own_runs

from synthnb.data import Images
from synthnb.drawn import drawn_set
from synthnb.plateau import Arm, Job, PlateauConfig, PlateauTraining, cores, train_arms
from synthnb.train import ClassifierTraining, TrainConfig


def one_by_one(images, device, updates): # updates a second
    "The loop of 00c_train."
    training = ClassifierTraining(images, TrainConfig.of(updates=10**6), 0, device)
    for _ in range(20): training.update()
    training.loss.item()
    began = time.perf_counter()
    for _ in range(updates): training.update()
    training.loss.item()
    return updates/(time.perf_counter() - began)


def in_processes(sets, updates, many): # updates a second, of all together
    "Trainings of one arm, each in a process of its own; the first call starts their server."
    recipe = dict(augment='crops', look_every=updates, least=updates, most=updates)
    def clock(seed):
        arm = Arm([(sets['train'], None)], sets['valid'], sets['valid'], seed, recipe=recipe)
        began = time.perf_counter()
        train_arms([arm], many, 'cpu')
        return many*updates/(time.perf_counter() - began)
    clock(0)
    return clock(1)


def as_a_stack(images, device, many, updates): # updates a second, of all together
    "One stack of networks, its graph captured."
    rows, n = torch.arange(len(images)), len(images)
    jobs = [Job(rows, images.labels, rows[:min(n, 64)], ('bench', j)) for j in range(many)]
    training = PlateauTraining(images, jobs, PlateauConfig.of(augment='crops'), device)
    plan = training.plan(0)
    def run(first, last):
        for u in range(first, last):
            training.run_update({k: v[u % 100] for k, v in plan.items()}, u)
        training.sum.tolist()
    run(0, 20)
    began = time.perf_counter()
    run(20, 20 + updates)
    return many*updates/(time.perf_counter() - began)


def rows(device, updates=None, n=400): # timed updates of each, real images
    "resnet10, width 16, 32 px, batches of 64 of 400 images."
    threads = torch.get_num_threads()
    with own_runs():
        try: yield from compared(device, updates, n)
        finally: torch.set_num_threads(threads)


def compared(device, updates, n):
    "The rows, in a folder of runs of their own."
    sets = {name: drawn_set(m, 36, 'balanced', 0, f'bench-{name}')
            for name, m in (('train', n), ('valid', 64))}
    images, cuda = Images.from_sets((sets['train'], None)), device.type == 'cuda'
    if not cuda: torch.set_num_threads(1)
    alone = one_by_one(images, device, updates or (200 if cuda else 100))
    yield 'classifiers one after the other, updates/s', alone, ''
    many = 64 if cuda else 2*cores()
    together = (as_a_stack(images, device, many, updates or 200) if cuda
                else in_processes(sets, updates or 200, many))
    how = 'as one stack' if cuda else f'in {cores()} processes'
    yield f'{many} classifiers {how}, updates/s of all', together, ''
    wanted = 10. if cuda else 1.3
    yield f'{many} classifiers {how} / one after the other', together/alone, wanted
