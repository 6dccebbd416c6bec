"""Under `official` each algorithm does as the official code; what is decoded was judged so."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from synthnb import qdgs
from synthnb.core import generator
from synthnb.qdgs import (ALGORITHMS, DEAD, DETAILED, OBJECTIVES, Guide, Illumination,
                          LatentStatistics, Search, SearchConfig, SphereGuide, check_guide,
                          decode_all, fit_qdgs, latent_penalty)

TOY = SphereGuide()


def still(*layers):
    "Layers whose weights depend on nothing that was drawn before"
    net, gen = nn.Sequential(*layers).eval(), generator('still')
    for p in net.parameters(): p.data.normal_(std=p[0].numel()**-.5, generator=gen)
    return net


class Decoder(nn.Module):
    latent_dim, size, scale = 3, 8, 1.

    def __init__(self):
        super().__init__()
        last = nn.Linear(8, 192), nn.Unflatten(1, (3, 8, 8))
        self.net = still(nn.Linear(3, 8), nn.BatchNorm1d(8), *last)

    def decode(self, z): return torch.sigmoid(self.scale*self.net(z))
    def prior(self, n, gen): return torch.randn(n, 3, generator=gen)


class TextImage(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = still(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 5))

    def embed_image(self, x): return F.normalize(self.net(x - .5), dim=1)

    def embed_text(self, texts):
        drawn = [torch.randn(5, generator=generator(t)) for t in texts]
        return F.normalize(torch.stack(drawn), dim=1)


def guide(**more):
    return Guide(Decoder(), TextImage(), OBJECTIVES['splatters'], DETAILED, device='cpu', **more)


def official(algorithm): # the sphere has no angles
    config = SearchConfig.preset('official', algorithm=algorithm, form='cosine', dims=(20, 20))
    return Search(TOY, config, 5)


def best_start():
    drawn = official('random').draw(512, 'start')
    return drawn[TOY.evaluate(drawn).objective.argmax()]


@pytest.mark.parametrize('algorithm', ALGORITHMS[:-1])
def test_start_archive_and_batch_are_the_official_ones(algorithm):
    search = official(algorithm)
    emitter, = search.scheduler.emitters
    archive = search.scheduler.archive
    np.testing.assert_array_equal(emitter.x0, best_start())
    expected = (.02, 0.) if algorithm == 'cma-maega' else (1., -np.inf)
    assert (archive.learning_rate, archive.threshold_min) == expected
    assert (search.passive.learning_rate, search.passive.threshold_min) == (1., -np.inf)
    search.update()
    assert search.counts['evaluations'] == search.per_iteration == 4


@pytest.mark.parametrize('algorithm, rule, ranker', [
    ('cma-maega', 'basic', 'ImprovementRanker'),
    ('cma-mega', 'no_improvement', 'TwoStageImprovementRanker')])
def test_gradient_emitters_are_the_official_ones(algorithm, rule, ranker):
    e, = official(algorithm).scheduler.emitters
    assert (e._restart_rule, type(e._ranker).__name__, e.batch_size) == (rule, ranker, 3)
    assert (e._sigma0, e._grad_opt._lr) == (.5, .5)
    assert (e._selection_rule, e._normalize_grads) == ('filter', True)


@pytest.mark.parametrize('algorithm, steps', [
    ('map-elites', dict(sigma=.1)), ('map-elites-line', dict(iso_sigma=.1, line_sigma=.2))])
def test_map_elites_are_the_official_ones(algorithm, steps):
    emitter, = official(algorithm).scheduler.emitters
    assert {k: float(getattr(emitter, k)) for k in steps} == pytest.approx(steps)
    assert emitter.batch_size == 4 and emitter.initial_solutions is None
    around = np.stack([emitter.ask() for _ in range(100)]) - best_start() # the archive being empty
    assert around.std() == pytest.approx(.1, abs=.01)


@pytest.mark.parametrize('preset', ['laptop', 'paper'])
def test_elsewhere_map_elites_starts_with_prior_samples(preset):
    for algorithm in ('map-elites', 'map-elites-line'):
        search = Search(TOY, SearchConfig.preset(preset, algorithm=algorithm, ranges=(-9, 9)))
        emitter = search.scheduler.emitters[0]
        assert emitter.x0 is None and emitter.initial_solutions.shape == (33, 20)


def test_an_algorithm_that_ours_lacks_is_refused():
    for name in ('cma-me', 'cma-mae', 'cma_mega'):
        with pytest.raises(ValueError, match='choose one of'):
            SearchConfig.preset('official', algorithm=name)


def moments(monkeypatch, algorithm, form, **more):
    "What two iterations put into the memory, in their order; and the memory"
    kept, remember = [], Search.remember

    def watched(self, e, f, *moment):
        was = self.guide.memory
        remember(self, e, f, *moment)
        if self.guide.memory is not was: kept.append(moment[0] if moment else 'branches')
    monkeypatch.setattr(Search, 'remember', watched)
    g = guide(form=form, margin_weight=.2)
    changes = dict(algorithm=algorithm, form=form, dims=(9, 9), margin_weight=.2) | more
    search = Search(g, SearchConfig.preset('official', **changes), 1)
    for _ in range(2): search.update()
    return kept, g.memory


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_the_memory_is_filled_when_the_official_code_fills_it(algorithm, monkeypatch):
    kept, memory = moments(monkeypatch, algorithm, 'angle')
    each = ['theta', 'branches'] if algorithm.startswith('cma') else ['branches']
    assert kept == ['start']*(0 if algorithm == 'random' else 32) + each*2
    assert len(memory) == len(kept)


def test_the_papers_memory_is_filled_once_an_iteration(monkeypatch):
    assert moments(monkeypatch, 'cma-mega', 'cosine', threshold_min=-9.)[0] == ['branches']*2


def test_the_memory_forgets(monkeypatch):
    assert len(moments(monkeypatch, 'cma-maega', 'angle', memory=5)[1]) == 5


def test_the_memory_takes_what_has_a_loss_below_one():
    g = guide(form='angle', margin_weight=.2)
    search = Search(g, SearchConfig.preset('official', dims=(9, 9), margin_weight=.2), 1)
    g.memory, e = None, g.evaluate(np.zeros((3, 3))).embeddings
    search.remember(e, np.array([50., 49., np.nan]))
    assert g.memory is None
    search.remember(e, np.array([1., 50.1, DEAD]))
    assert torch.equal(g.memory, e[1:2])


def test_what_the_margin_needs_marks_the_checkpoint():
    for margin in (0., .2):
        g = guide(form='angle', margin_weight=margin)
        identity = lambda a: qdgs.search_identity(g, SearchConfig.preset('official', algorithm=a), 0)
        of = {a: identity(a) for a in ALGORITHMS}
        as_before = {a for a, said in of.items() if said['format'] == 1}
        assert as_before == (set() if margin else {'cma-maega', 'cma-mega', 'random'})


def test_a_pool_is_decoded_as_the_guide_saw_it():
    net, z = Decoder(), torch.randn(9, 3, generator=generator('z')).numpy()
    evaluated, mean = decode_all(net, z), net.net[1].running_mean.clone()
    seen = guide().generator.decode(torch.tensor(z)).detach().permute(0, 2, 3, 1).numpy()
    assert np.abs(evaluated/255 - seen).max() < 1/255
    net.train()
    np.testing.assert_array_equal(decode_all(net, z), evaluated)
    assert torch.equal(net.net[1].running_mean, mean) and net.training and net.net[1].training
    net.scale = np.nan # which would be black
    with pytest.raises(ValueError, match='9 of 9 latents decode to NaN'): decode_all(net, z)


def test_a_saved_archive_decodes_and_is_judged_the_same(tmp_path):
    g = guide(regulariser_weight=.2)
    config = SearchConfig.preset(evaluations=200, emitters=1, batch_size=8, dims=(9, 9))
    found = qdgs.qdgs(g, config)
    again = Illumination.load(found.save(tmp_path))
    torch.manual_seed(99) # whatever was drawn before, a guide made anew has the same statistics
    anew = guide(regulariser_weight=.2)
    fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in again.statistics.items()}
    saved = LatentStatistics(**fixed)
    assert saved == anew.statistics == g.statistics
    images = [decode_all(Decoder(), a.solutions) for a in (again, found)]
    np.testing.assert_array_equal(*images)
    z = torch.from_numpy(again.solutions)
    penalty = latent_penalty(z, saved)
    assert torch.equal(penalty, latent_penalty(z, g.statistics)) and penalty.max() > 0
    np.testing.assert_allclose(anew.evaluate(z).objective, found.objective, atol=1e-5)


def test_what_a_ready_made_guide_would_not_heed_is_refused():
    g = guide(regulariser_weight=.2)
    check_guide(g, SearchConfig.preset())
    far = dict(regulariser_weight=.2, rho=2.)
    for wrong in (dict(margin_weight=.1), dict(regulariser_weight=.1), far):
        with pytest.raises(ValueError, match='make the guide with that'):
            check_guide(g, SearchConfig.preset(**wrong))
    for call in (qdgs.qdgs, fit_qdgs):
        with pytest.raises(ValueError, match='the guide has 0'):
            call(TOY, SearchConfig.preset(margin_weight=.1))
