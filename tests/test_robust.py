"""Corruptions, their luck and their levels; calibration against loops by hand and known cases."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from synthnb.data import Images
from synthnb.drawn import drawn_set
from synthnb.robust import (CORRUPTIONS, calibration_numbers, classwise_ece, corrupted,
                            corrupted_sets, corruption_errors, ece, fit_temperature,
                            plot_corruptions, plot_reliability, plot_robustness, posed,
                            robust_numbers, robustness, with_temperature)

PLAIN = [name for name in CORRUPTIONS if name != 'pose']
LUCK = np.random.default_rng(0)
NOISE = LUCK.integers(0, 256, (130, 12, 16, 3), np.uint8)


@pytest.fixture(scope='module')
def faces(): return drawn_set(24, 36, 'balanced', 0, 'test-robust')


# ---- images --------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', PLAIN)
def test_an_image_has_its_own_luck(name):
    whole = corrupted(NOISE, name, 4, seed=3)
    for rows in ([0], [129, 63, 64], range(60, 70)):
        rows = list(rows)
        assert (corrupted(NOISE[rows], name, 4, seed=3, rows=rows) == whole[rows]).all()
    assert whole.shape == NOISE.shape and whole.dtype == np.uint8 and whole.flags.writeable


@pytest.mark.parametrize('name', ['gaussian_noise', 'occlusion', 'rotation'])
def test_another_seed_is_another_luck(name):
    assert (corrupted(NOISE, name, 4, seed=3) != corrupted(NOISE, name, 4, seed=4)).any()


def test_tables_arrays_and_tensors_are_the_same_images():
    table = Images(torch.from_numpy(NOISE), torch.zeros(len(NOISE)), ['a', 'b'])
    for other in (table, torch.from_numpy(NOISE)):
        assert (corrupted(other, 'jpeg', 2) == corrupted(NOISE, 'jpeg', 2)).all()


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_severity_zero_is_the_image(name):
    assert (corrupted(NOISE, name, 0) == NOISE).all()


def test_noise_has_the_deviation_that_it_says():
    grey = np.full((40, 36, 36, 3), 128, np.uint8)
    for severity, sd in enumerate(CORRUPTIONS['gaussian_noise'].levels, 1):
        assert corrupted(grey, 'gaussian_noise', severity).std()/255 == pytest.approx(sd, rel=.02)


def test_blur_is_of_32_pixels_and_keeps_the_mean():
    dot = np.zeros((1, 64, 64, 1), np.uint8)
    dot[0, 32, 32] = 255
    by_hand = ndimage.gaussian_filter(dot[0, :, :, 0].astype(float), 2, mode='nearest')
    assert np.abs(corrupted(dot, 'gaussian_blur', 5)[0, :, :, 0] - by_hand).max() <= .5 + 1e-4
    flat = np.full((1, 9, 9, 3), 77, np.uint8)
    assert (corrupted(flat, 'gaussian_blur', 5) == 77).all()


def test_contrast_stays_about_the_mean():
    out, mean = corrupted(NOISE, 'contrast', 2), NOISE.mean((1, 2), keepdims=True)
    assert np.abs(out - (NOISE - mean)*.5 - mean).max() <= .5 + 1e-3


def test_black_can_be_brightened():
    assert (corrupted(np.zeros((1, 4, 4, 3), np.uint8), 'brightness', 2) == round(25.5)).all()


def test_pixels_are_pillows():
    small = Image.fromarray(NOISE[0]).resize((int(16*.65), int(12*.65)), Image.BOX)
    assert (corrupted(NOISE[:1], 'pixelate', 5)[0] == np.asarray(small.resize((16, 12), Image.BOX))
            ).all()


def test_an_occlusion_lies_inside_and_is_as_large_as_it_says():
    white = np.full((2000, 20, 20, 3), 255, np.uint8)
    hidden = (corrupted(white, 'occlusion', 5) == 128).all(3)
    assert (hidden.sum((1, 2)) == 64).all() and hidden.any(0).all() # and everywhere by and by


def test_a_head_leans_to_both_sides():
    bar = np.zeros((64, 36, 36, 1), np.uint8)
    bar[:, :, 16:20] = 255
    top = (corrupted(bar, 'rotation', 5)[:, 2, :, 0]*np.arange(36.)).sum(1)
    top /= corrupted(bar, 'rotation', 5)[:, 2, :, 0].astype(float).sum(1)
    shift = math.tan(math.radians(30))*15.5
    assert np.abs(np.abs(top - 17.5) - shift).max() < 1 and len(set(top > 17.5)) == 2


def test_a_pose_is_the_same_face_turned(faces):
    x, clean = posed(faces, 1.1), faces.gather(range(24)).numpy()
    assert x.shape == clean.shape and 0 < np.abs(x.astype(float) - clean).mean() < 15
    assert (corrupted(faces, 'pose', 5, rows=[7]) == x[7:8]).all()


def test_all_sets_of_drawn_faces_and_of_others(faces):
    assert {n for n, _ in corrupted_sets(faces, severities=(5,))} == {'clean', *CORRUPTIONS}
    assert [*corrupted_sets(NOISE, 'jpeg', (1, 2))] == [('clean', 0), ('jpeg', 1), ('jpeg', 2)]


# ---- classifiers ---------------------------------------------------------------------------------
def by_light(x): # dark or light, as the mean says
    light = x.float().mean((1, 2, 3))/255
    return torch.stack([1 - light, light], 1)


def test_accuracy_by_hand_and_over_trainings():
    y = (NOISE.mean((1, 2, 3)) > 127.5).astype(int)
    inverse = lambda x: by_light(x).flip(1)
    table = robustness([by_light, inverse], NOISE, y, ['brightness', 'jpeg'], (1, 5))
    assert table.severity.tolist() == [0, 1, 5, 1, 5]
    for (name, severity), each in zip(table[['corruption', 'severity']].to_numpy(), table.each):
        x = NOISE if not severity else corrupted(NOISE, name, severity)
        hit = (x.mean((1, 2, 3)) > 127.5) == y
        by_hand = np.mean([hit[y == c].mean() for c in (0, 1)])
        assert each == pytest.approx([by_hand, 1 - by_hand])
    assert table.accuracy.tolist() == pytest.approx([.5]*5)
    numbers = json.loads(json.dumps(robust_numbers(table)))
    assert numbers['mean'] == pytest.approx(np.mean([numbers['brightness'], numbers['jpeg']]))
    assert len(numbers['each']) == 2 and numbers['clean'] == pytest.approx(.5)


def test_errors_as_the_paper_has_them():
    y = (NOISE.mean((1, 2, 3)) > 127.5).astype(int)
    def doubtful(x): # wrong on every tenth image
        p = by_light(x)
        p[::10] = p[::10].flip(1)
        return p
    a, b = (robustness(f, NOISE, y, 'brightness', (1, 5)) for f in (by_light, doubtful))
    e = corruption_errors(a, b).loc['brightness']
    assert e.CE == pytest.approx((2 - a.accuracy[1:].sum())/(2 - b.accuracy[1:].sum()))
    lost = [2*t.accuracy[0] - t.accuracy[1:].sum() for t in (a, b)]
    assert e['relative CE'] == pytest.approx(lost[0]/lost[1])


# ---- calibration ---------------------------------------------------------------------------------
def fair(n, k=4):
    p = LUCK.dirichlet(np.ones(k), n)
    return p, (p.cumsum(1) > LUCK.random((n, 1))).argmax(1)


@pytest.mark.parametrize('kind', ['width', 'mass', 'debiased'])
def test_the_fair_are_calibrated_and_the_sure_are_not(kind):
    p, y = fair(30_000)
    assert ece(p, y, kind=kind) < .015
    sure = np.eye(4)[p.argmax(1)]
    wrong = 1 - (p.argmax(1) == y).mean()
    assert ece(sure, y, kind=kind) == pytest.approx(wrong, abs=.01)
    assert ece(np.full((99, 4), .25), np.arange(99) % 4, kind=kind) < .1


def test_ece_by_hand_and_over_trainings():
    (p, y), (q, _) = fair(300), fair(300)
    def by_hand(p):
        out = 0
        for m in range(15):
            b = (p.max(1) > m/15) & (p.max(1) <= (m + 1)/15)
            if b.any(): out += b.sum()/300*abs((p.argmax(1) == y)[b].mean() - p.max(1)[b].mean())
        return out
    assert ece(p, y) == pytest.approx(by_hand(p))
    assert ece(np.stack([p, q]), y) == pytest.approx((by_hand(p) + by_hand(q))/2)


def test_classes_by_hand():
    p, y = fair(300)
    c2 = sum(b.sum()/300*abs((y == 2)[b].mean() - p[b, 2].mean()) for m in range(10)
             if (b := (p[:, 2] > m/10) & (p[:, 2] <= (m + 1)/10)).any())
    assert classwise_ece(p, y, bins=10)[2] == pytest.approx(c2)


@pytest.mark.parametrize('t', [.4, 1, 3])
def test_a_temperature_is_found_again(t):
    p, y = fair(8000)
    bent = with_temperature(p, 1/t)
    assert fit_temperature(bent, y)[0] == pytest.approx(t, rel=.08)
    logits = np.log(p)
    soft = np.exp(logits/t)/np.exp(logits/t).sum(1, keepdims=True)
    assert with_temperature(p, t) == pytest.approx(soft)


def test_numbers_are_json_and_a_temperature_mends():
    p, y = fair(4000)
    sharp = np.stack([with_temperature(p, .4), with_temperature(p, .6)])
    n = json.loads(json.dumps(calibration_numbers(sharp, y, sharp, y)))
    assert n['ece_tempered'] < .05 < n['ece'] == pytest.approx(np.mean(n['each']))
    assert n['temperature'] == pytest.approx([2.5, 1/.6], rel=.1) and n['overconfidence'] > .1
    assert 'temperature' not in calibration_numbers(p, y)
    assert calibration_numbers(p, y, sharp, y)['ece_tempered'] >= 0 # K of validation, one of test


def test_pictures(faces):
    y = np.array(faces.labels)
    table = robustness(lambda x: np.eye(8)[np.arange(len(x)) % 8], faces, y, ['jpeg'], (1,))
    for figure in (plot_corruptions(faces, 2), plot_corruptions(NOISE, 2, ['jpeg']),
                   plot_robustness(dict(a=table, b=table)),
                   plot_reliability(dict(a=np.full((24, 8), 1/8)), y)):
        assert figure.axes


# ---- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize('call, words', [
    (lambda: corrupted(NOISE, 'fog', 1), 'choose one of gaussian_noise'),
    (lambda: corrupted(NOISE, 'jpeg', 6), 'from 1, mild, to 5'),
    (lambda: corrupted(NOISE, 'jpeg', True), 'from 1, mild, to 5'),
    (lambda: corrupted(NOISE/255, 'jpeg', 1), 'data.to_uint8'),
    (lambda: corrupted(NOISE, 'jpeg', 1, rows=[1]), 'one for each'),
    (lambda: corrupted(NOISE, 'pose', 1), 'cannot be turned'),
    (lambda: robustness(by_light, NOISE, [0, 1], 'jpeg'), '130 images, but 2 labels'),
    (lambda: robustness(lambda x: np.ones((3, 2)), NOISE, [0]*130, 'jpeg'), 'a row an image'),
    (lambda: ece([[.5, np.nan]], [0]), 'expected probabilities'),
    (lambda: ece([[2., -1.]], [0]), 'expected probabilities'),
    (lambda: ece([[.5, .5]], [0], kind='bins'), 'choose one of width, mass, debiased'),
    (lambda: with_temperature([[.5, .5]], -1), 'above 0')])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words): call()
