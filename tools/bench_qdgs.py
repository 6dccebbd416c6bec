"""A quality-diversity search against a plain loop: one emitter, and one pass a gradient."""
from dataclasses import replace

import numpy as np
import torch

from synthnb.clip import fit_text_image
from synthnb.core import no_denormals
from synthnb.metrics import paired_seeds
from synthnb.qdgs import DETAILED, OBJECTIVES, Guide, PlainGuide, Search, SearchConfig, settle
from synthnb.shapevae import fit_shape_vae


def bench_qdgs(generator, objective, measures, text_image,
               config:SearchConfig|str='laptop', # as for `qdgs`
               evaluations:int=7_920, seeds=range(5), # of each search; which
               device='auto'): # yields measure, value, wanted
    "A plain loop and the search with one emitter and with all, in turn: rate, and what is found."
    config = replace(SearchConfig.preset(config) if isinstance(config, str) else config,
                     evaluations=evaluations)
    guides = [kind(generator, text_image, objective, measures, device, form=config.form)
              for kind in (PlainGuide, Guide, Guide)]
    settled, runs, turn = settle(config, guides[1]), [], config.emitters*(config.batch_size + 1)
    with no_denormals():
        for seed in seeds:
            three = [Search(g, replace(config, emitters=e), seed, settled)
                     for g, e in zip(guides, (1, 1, config.emitters))]
            for s in three: s.guide.evaluate(s.draw(s.config.emitters, 'warm'), jacobian=True)
            # equal numbers of images in each turn
            for mark in range(turn, turn*three[2].iterations + 1, turn):
                for s in three:
                    while s.counts['evaluations'] < mark: s.update()
            runs.append([s.result().stats for s in three])
    return bench_table(runs, config.emitters, torch.device(guides[0].device).type)


def bench_table(runs:list, # of three stats each: the plain loop, ours with one emitter, with all
                emitters:int, device:str): # yields measure, value, wanted
    "What the timing says; coverage and score as differences from the plain loop, over seeds."
    of = lambda name: np.array([[s[name] for s in three] for three in runs])
    names = 'plain loop', 'ours, 1 emitter', f'ours, {emitters} emitters'
    rates = of('evaluations_per_second')
    for name, r in zip(names, np.median(rates, 0)): yield f'{name}, evaluations/s', r, ''
    for i in (1, 2):
        wanted = ('>= 1.6' if device == 'cpu' else '>= 8.0') if i == 2 else ''
        yield f'{names[i]} / plain loop', np.median(rates[:, i]/rates[:, 0]), wanted
    for what, both in (('coverage', of('coverage')), ('QD score a cell', of('norm_qd_score'))):
        yield f'{what}, plain loop', both[:, 0].mean(), ''
        for i in (1, 2):
            d = paired_seeds(both[:, 0], both[:, i])
            yield f'{what}, {names[i]} - plain loop', d.difference, 'not below'


def rows(device):
    "On the shapes of chapter 10; missing models are made first."
    vae, clip = fit_shape_vae(device=device)[0].to(device), fit_text_image(device=device)[0]
    few = range(3 if device.type == 'cuda' else 5)
    return bench_qdgs(vae, OBJECTIVES['splatters'], DETAILED, clip, seeds=few, device=device)
