"""Sentences about drawn people are true, and a guide that hears is told from a deaf one."""
import numpy as np
import pandas as pd
import pytest
import torch
from here import as_alone

from synthnb.clip import TextImage
from synthnb.core import generator
from synthnb.people import DIM, draw_people, truth_of
from synthnb.words import (BROKEN, DAMAGES, MEASURES, OBJECTIVE, SENTENCES, damaged, facts_of,
                           fit_words, heard_table, people_pictures, sentence_of, sentences_of)

TINY = dict(size=32, width=4, dim=16, updates=3, batch_size=8, n_pictures=16)


def noise(n, name='words'): return torch.randn(n, DIM, generator=generator('test', name))


def test_each_word_is_true_of_its_person():
    truth = truth_of(noise(2000), even=True)
    f = pd.DataFrame(facts_of(truth))
    assert ((f.s == 'dark') == (truth.skin_tone >= 4.5)).all()
    middle = truth.feminine.between(.45, .55, inclusive='left')
    assert ((f.g == 'androgynous') == middle).mean() > .999
    assert ((f.a == '20') == (truth.age < .5)).all() and (f.y[f.a == '50'] == 'old').all()
    assert ((f.l == 'dim') == (truth.gain < .8)).all() and (f.d == 'clean').all()
    assert ((f.h == 'long') == (truth.hair_length > .5)).all()
    assert (truth.grey[f.c == 'grey'] > .3).all() and {*f.c} == {'black', 'brown', 'blond', 'grey'}
    assert (truth.valence[f.m == 'smiling'].min() > truth.valence[f.m == 'calm'].max() - 1e-9
            > truth.valence[f.m == 'sad'].max())


def test_sentences_say_only_what_the_facts_say():
    facts = facts_of(truth_of(noise(300), even=True))
    said = sentences_of(facts, 'test', k=3)
    assert len(said) == 900 and said == sentences_of(facts, 'test', k=3) and len({*said}) > 150
    for i, sentence in enumerate(said):
        f, words = facts[i % 300], sentence.split()
        if 'skin' in words: assert words[words.index('skin') - 1] == f['s']
        if 'light' in words and words[-1] == 'light': assert words[-2] == f['l']
        for other in {'feminine', 'masculine', 'androgynous'} - {f['g']}: assert other not in words
        assert '{' not in sentence and not sentence.startswith('A a')
    broken = facts_of(truth_of(noise(3)), np.array([1, 2, 3]))
    for f, name in zip(broken, DAMAGES[1:]):
        forms = {sentence_of(f, (.5, (i + .5)/len(SENTENCES['broken']), .9))
                 for i in range(len(SENTENCES['broken']))}
        assert len(forms) == len(SENTENCES['broken'])
        assert all(name in s or s == OBJECTIVE[1] for s in forms)


def test_damage_changes_those_that_it_names_and_no_others():
    x, kind = draw_people(noise(8), 32), torch.arange(8) % 4
    out = damaged(x, kind, 'test')
    changed = (out - x).abs().mean((1, 2, 3))
    assert (changed[kind == 0] == 0).all() and (changed[kind > 0] > .01).all()
    assert out.min() >= 0 and out.max() <= 1 and torch.equal(out, damaged(x, kind, 'test'))


def test_pictures_come_with_what_is_true_of_them():
    pixels, facts, values = people_pictures(600, 16, 'test')
    assert pixels.shape == (600, 3, 16, 16) and len(facts) == 600
    spoken = np.array([f['d'] == 'clean' for f in facts])
    assert (values.isfinite().all(1).numpy() == spoken).all(), 'of what is damaged nothing is read'
    assert (values.isnan().all(1).numpy() == ~spoken).all()
    feminine = np.array([f['g'] == 'feminine' for f in facts])[spoken]
    assert ((values[:, 0].numpy()[spoken] >= .55) == feminine).all()
    spoilt = np.mean([f['d'] != 'clean' for f in facts])
    assert abs(spoilt - BROKEN) < .06
    light = pixels.float().mean((1, 2, 3)).numpy()
    bright = np.array([f['l'] == 'bright' for f in facts]) & np.array(
        [f['d'] == 'clean' for f in facts])
    dim = np.array([f['l'] == 'dim' and f['d'] == 'clean' for f in facts])
    assert light[bright].mean() > 1.2*light[dim].mean()


def test_the_guide_of_the_book_hears_each_attribute_and_nothing_else():
    heard = heard_table(fit_words(device='cpu'), 800, seed='test').set_index('own')
    for own, row in heard.drop(columns='measure').astype(float).iterrows():
        assert row[own] > .96, own
        assert row.drop(own).between(.4, .6).all(), own


def test_the_guide_is_made_once_knows_the_papers_prompts_and_no_other_words(tmp_path):
    with as_alone(tmp_path) as said:
        one, two = fit_words(device='cpu', **TINY), fit_words(device='cpu', **TINY)
        assert one.fingerprint == two.fingerprint and 'reused' in said.getvalue()
        assert fit_words(1, 'cpu', **TINY).fingerprint != one.fingerprint
    e = one.embed_text([*OBJECTIVE, *sum(MEASURES, ())])
    assert e.shape == (10, 16) and torch.allclose(e.norm(dim=1), torch.ones(10), atol=1e-5)
    with pytest.raises(ValueError, match='zebra'): one.embed_text('A person with a zebra')
    again = TextImage.load(one.save(tmp_path/'guide.safetensors'), 'cpu')
    assert torch.equal(again.embed_text([*OBJECTIVE]), one.embed_text([*OBJECTIVE]))
    heard = heard_table(one, 200)
    assert heard.shape == (4, 8) and heard.own.tolist() == [*heard.columns[2:6]]
    assert heard.iloc[:, 2:].to_numpy().min() >= 0 and heard.iloc[:, 2:].to_numpy().max() <= 1


def test_a_guide_that_hears_is_told_from_one_that_is_deaf(monkeypatch):
    truth = truth_of(torch.randn(500, DIM, generator=generator(0, 'heard')), even=True)
    hears = {MEASURES[0]: truth.feminine, MEASURES[1]: -truth.skin_tone,
             MEASURES[2]: -truth.hair_length, MEASURES[3]: truth.gain} # the last hears the light
    place = {}
    def difference(guide, x, pair):
        at = place.get(pair, 0)
        place[pair] = at + len(x)
        return torch.tensor(hears[pair].to_numpy()[at:at + len(x)])
    monkeypatch.setattr('synthnb.words.prompt_difference', difference)
    class Guide: size, device = 16, 'cpu'
    t = heard_table(Guide, 500).set_index('own')
    assert t.feminine['feminine'] > .99 and t.light_skin['light_skin'] > .99
    assert t.short_hair['short_hair'] > .99 and t.bright['young'] > .99
    assert abs(t.young['young'] - .5) < .1 and abs(t.bright['light_skin'] - .5) < .1
