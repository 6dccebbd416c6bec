"""The samplers since 2021 beside slow and obvious versions, and what must hold for any pool."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from synthnb import clip, recent, scores
from synthnb.data import ImageSetWriter
from synthnb.features import extractor, fit_probe, seen
from synthnb.recent import (TextScoring, ccs_sampler, class_prompts, cover_greedily, cover_order,
                            covariance_order, mean_confidence, message_order, middle_first,
                            order_classes, prompt_probability, stratified)
from synthnb.samplers import Scoring, get_sampler, make_scores, select
from synthnb.scores import column_record
from synthnb.shapes import SHAPES
from synthnb.train import PLAIN, Classifier, classifier_net

ORDERS = {'cov-match': lambda f: covariance_order(f, clouds(1, 80, f.shape[1])),
          'd2': lambda f: message_order(f, f[:, 0], 5), 'moderate': middle_first,
          'acs': cover_order}
NAMES = 'cov-match', 'clip-filter', 'alia-confidence', 'entropy', 'ccs', 'd2', 'moderate', 'acs'
fast = settings(max_examples=30, deadline=None)


def clouds(seed, n, d):
    "Features of a class: two clouds of different widths."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))*np.linspace(2, .5, d)
    x[n//2:] = 2 + x[n//2:]/3
    return x


# ---- orders: against the slow way ----------------------------------------------------------------
@pytest.mark.parametrize('dim', [3, 8])
def test_covariance_is_matched_as_by_forming_every_covariance(dim):
    f, real = clouds(0, 70, 6), clouds(1, 90, 6)
    values, vectors = np.linalg.eigh(np.cov(real.T))
    axes = vectors[:, np.argsort(-values)[:dim]]
    x, goal = (f - real.mean(0)) @ axes, np.cov((real @ axes).T)
    picks = [int(np.linalg.norm(x, axis=1).argmin())]
    while len(picks) < len(f):
        rest = [i for i in range(len(f)) if i not in picks]
        loss = [np.linalg.norm(np.cov(x[[*picks, i]].T) - goal) for i in rest]
        picks.append(rest[int(np.argmin(loss))])
    assert np.argsort(-covariance_order(f, real, dim))[:-1].tolist() == picks[:-1]


def test_messages_are_passed_as_on_a_table_of_all_pairs():
    f, easy, k = clouds(2, 60, 4), np.random.default_rng(0).normal(size=60), 5
    d = np.linalg.norm(f[:, None] - f[None], axis=2)
    near = np.zeros((60, 60), bool)
    for i in range(60):
        for j in np.argsort(d[i])[1:k + 1]: near[i, j] = near[j, i] = True
    w = np.where(near, np.exp(-np.log(k)*d/d[near].mean()), 0)
    hard = (easy.max() - easy)/np.ptp(easy)
    worth, picks = hard + w @ hard, []
    for _ in range(60):
        at = int(np.argmax(worth))
        picks.append(at)
        worth = worth - w[at]*worth[at]
        worth[picks] = -np.inf
    assert np.argsort(-message_order(f, easy, k)).tolist() == picks


def test_the_middle_is_what_official_pruning_leaves():
    f = clouds(3, 101, 5)
    distance = np.linalg.norm(f - np.median(f, axis=0), axis=1)
    for n in (11, 51, 101):
        low, high = round(101*(.5 - n/202)), round(101*(.5 + n/202))
        left = np.argsort(distance)[low:high]
        assert abs(len(left) - n) <= 1
        ours = set(np.argsort(-middle_first(f), kind='stable')[:len(left)])
        assert len(ours & set(left)) >= len(left) - 1 # at an even number one end is as near


def test_strata_are_those_of_the_official_code():
    rng = np.random.default_rng(0)
    for n, budget in ((300, 100), (300, 250), (40, 7)):
        score = rng.gamma(2, size=n)
        left = np.sort(score)[min(int(.2*n), n - budget):]
        low, high = left.min(), left.max()
        step = (high*1.0001 - low)/50
        there = np.array([((left >= low + i*step) & (left < low + (i + 1)*step)).sum()
                          for i in range(50)])
        asked, rest = np.zeros(50, int), budget
        for i, b in enumerate(np.argsort(there, kind='stable')):
            asked[b] = min(there[b], rest//(50 - i))
            rest -= asked[b]
        kept = score[stratified(score, budget, rng.permutation(n))]
        found = np.array([((kept >= low + i*step) & (kept < low + (i + 1)*step)).sum()
                          for i in range(50)])
        assert len(kept) == budget and kept.min() >= low
        assert np.abs(found - asked).sum() <= 6 # their last bin is a little wider


def test_cover_is_greedy_and_beats_chance():
    from scipy.sparse import csr_matrix
    rng = np.random.default_rng(0)
    table = rng.random((50, 50)) < .08
    np.fill_diagonal(table, True)
    kept, covered = cover_greedily(csr_matrix(table.astype(int)), 10)
    free, picks = np.ones(50, bool), []
    for _ in range(10):
        gain = (table & free).sum(1)
        gain[picks] = -1
        picks.append(int(gain.argmax()))
        free &= ~table[picks[-1]]
    assert kept == picks and (covered == ~free).all()
    assert cover_greedily(csr_matrix(table.astype(int)), 10, kept[:4])[0] == picks
    by_luck = [table[rng.permutation(50)[:10]].any(0).sum() for _ in range(200)]
    assert covered.sum() > np.max(by_luck)


def test_the_first_level_is_the_papers_for_its_budget():
    f = clouds(4, 128, 8)
    near, alike = recent.nearest_by_cosine(f, 58)
    ours = np.argsort(-cover_order(f))[:4].tolist()
    assert ours == recent.cover_level(near, alike, 4, [], .9)
    x = F.normalize(torch.tensor(f), dim=1).numpy()
    best = None
    for t in np.linspace(alike.min(), alike[:, 0].max(), 400): # every threshold, the slow way
        table = np.zeros((128, 128), bool)
        for i in range(128):
            others = np.argsort(-(x @ x[i]))[1:59]
            table[i, others[(x @ x[i])[others] >= t]] = table[i, i] = True
        free, picks = np.ones(128, bool), []
        for _ in range(4):
            gain = (table & free).sum(1)
            gain[picks] = -1
            picks.append(int(gain.argmax()))
            free &= ~table[picks[-1]]
        if free.mean() <= .1: best, covers = t, table[picks].any(0).mean()
    assert best is not None and covers >= .9
    kept = table_at(x, best)[ours].any(0).mean()
    assert kept > .8 # bisection has steps of a hundredth of the range


def table_at(x, t): return x @ x.T >= t


@pytest.mark.parametrize('levels', [2, 4, 8])
def test_an_order_for_all_budgets_loses_little(levels):
    f = clouds(5, 320, 8)
    k = 320//32*levels
    near, alike = recent.nearest_by_cosine(f, 58)
    alone = recent.cover_level(near, alike, k, [], .9)
    ours = np.argsort(-cover_order(f))[:k]
    x = F.normalize(torch.tensor(f), dim=1).numpy()
    worst = lambda rows: (x @ x[rows].T).max(1)
    assert np.quantile(worst(ours), .1) > np.quantile(worst(alone), .1) - .05


# ---- orders: what must hold ----------------------------------------------------------------------
@pytest.mark.parametrize('name', [*ORDERS])
@pytest.mark.parametrize('n', [1, 2, 3, 5, 40, 200])
def test_an_order_of_any_number_is_finite_and_whole(name, n):
    found = ORDERS[name](clouds(0, n, 4))
    assert found.shape == (n,) and np.isfinite(found).all()
    if name != 'moderate': assert sorted(found) == list(range(1 - n, 1))


@fast
@given(st.integers(0, 99), st.sampled_from(['cov-match', 'd2', 'moderate'])) # acs has ties
def test_an_order_does_not_depend_on_the_order_of_files(seed, name):
    f = clouds(seed, 90, 4)
    shuffled = np.random.default_rng(seed).permutation(90)
    assert np.allclose(ORDERS[name](f)[shuffled], ORDERS[name](f[shuffled]))


@pytest.mark.parametrize('name', [*ORDERS])
def test_images_that_are_all_alike_are_ranked_too(name):
    assert np.isfinite(ORDERS[name](np.ones((30, 4)))).all()


def test_near_duplicates_come_late():
    "Of 40 images and 10 copies of one, half of a kept set would be copies in proportion: 4 of 20."
    for seed in range(5):
        f = clouds(seed, 40, 6)
        f = np.concatenate([f, f[:1] + 1e-3*clouds(1, 10, 6)])
        easy = np.random.default_rng(seed).random(50)
        for order in (cover_order(f), message_order(f, easy, 10)):
            assert (np.argsort(-order)[:20] >= 40).sum() <= 2


# ---- ccs -----------------------------------------------------------------------------------------
@fast
@given(st.integers(1, 80), st.integers(0, 90), st.integers(0, 99))
def test_strata_keep_the_budget(n, budget, seed):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n).round(1)
    score[rng.random(n) < .1] = np.nan
    score[rng.random(n) < .1] = -np.inf
    labels = rng.integers(0, 3, n)
    kept = ccs_sampler(score, labels, budget, quota=None, seed=seed)
    ok = ~np.isnan(score)
    assert len(set(kept)) == len(kept) == min(budget, ok.sum()) and ok[kept].all()
    quota = [3, 0, 2]
    kept = ccs_sampler(score, labels, 5, quota=quota, seed=seed)
    assert (np.bincount(labels[kept], minlength=3)
            == np.minimum(quota, np.bincount(labels[ok], minlength=3))).all()
    assert (kept == ccs_sampler(score, labels, 5, quota=quota, seed=seed)).all()


def test_the_hardest_fifth_goes_unless_it_is_needed():
    score = np.linspace(0, 1, 100)
    kept = stratified(score, 50, np.arange(100))
    assert kept.min() >= 20
    assert len(stratified(score, 100, np.arange(100))) == 100


# ---- from a Scoring to a selection ---------------------------------------------------------------
def toy(folder, n, seed, k=3, classes='abc', counts=None):
    "12 px, where colour shows the class."
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k if counts is None else np.repeat(range(len(counts)), counts)
    x = rng.integers(0, 90, (len(labels), 12, 12, 3))
    x[np.arange(len(labels)), 2:10, 2:10, labels % 3] += 120
    w = ImageSetWriter(folder, len(labels), 12, list(classes))
    w.write(x.astype(np.uint8), labels, source=np.arange(len(labels)) % 60)
    return w.close()


class Colours(torch.nn.Module):
    "A text-image model of three words, whose pictures are their mean colour."
    fingerprint = 'colours'
    def embed_text(self, texts):
        words = 'red', 'green', 'blue'
        return torch.stack([torch.eye(3)[[i for i, w in enumerate(words) if w in t][0]]
                            for t in texts])
    def embed_image(self, x): return F.normalize(x.mean((2, 3)), dim=1)


SAID = dict(a='red', b=['green', 'a green thing'], c='blue')


@pytest.fixture
def scoring(tmp_path):
    torch.manual_seed(0)
    spec = dict(arch='resnet10', width=4, stem='small', stem_stride=2, in_channels=3)
    blind = Classifier(classifier_net(n_classes=3, **spec), list('abc'), 12, spec, **PLAIN)
    real, pool = toy(tmp_path/'real', 60, 0), toy(tmp_path/'pool', 240, 1)
    return TextScoring(pool, real, real, blind, device='cpu', text=Colours(), prompts=SAID,
                       recipe=dict(width=4, crop=12, augment='none', updates=10))


@pytest.mark.parametrize('name', NAMES)
def test_every_sampler_from_scoring_to_selection(name, scoring, capsys):
    column = make_scores(name, scoring)
    score = scoring.pool.column(column)
    assert score.shape == (240,) and np.isfinite(score).all()
    for budget in (0, 50, 240):
        chosen = select(name, scoring.pool, budget, column=column, seed=3)
        assert len(chosen) == len(set(chosen.indices)) == budget
        assert np.ptp(chosen.report.kept) <= 1
        again = select(name, scoring.pool, budget, column=column, seed=3)
        assert (again.indices == chosen.indices).all()
    capsys.readouterr()
    assert make_scores(name, scoring) == column
    assert 'images in' not in capsys.readouterr().out, 'made again, though it was there'
    assert get_sampler(name).source and get_sampler(name).how


@pytest.mark.parametrize('name', NAMES)
def test_one_image_and_none_of_a_class(name, scoring, tmp_path):
    pool = toy(tmp_path/'few', 0, 2, counts=[30, 0, 1])
    some = TextScoring(**vars(scoring) | dict(pool=pool))
    column = make_scores(name, some)
    assert np.isfinite(pool.column(column)).all()
    chosen = select(name, pool, 9, column=column, share='balanced')
    assert chosen.report.kept.tolist() == [8, 0, 1]


class Broken:
    "A classifier whose features are NaN for some images."
    net, classes = torch.nn.Linear(1, 1), list('abc')
    def to(self, device): return self
    def features(self, images):
        f = images.float().mean((1, 2))
        return torch.where(images[:, :1, 0, 0] < 20, torch.nan, f)


@pytest.mark.parametrize('order, real', [(middle_first, False), (cover_order, False)])
def test_features_that_are_nan_are_never_chosen(order, real, scoring):
    some = Scoring(scoring.pool, scoring.real, scoring.real, Broken(), device='cpu')
    column = order_classes(some, 'broken', order, real=real)
    bad = scoring.pool.images[:, 0, 0, 0] < 20
    assert bad.any() and (np.isnan(scoring.pool.column(column)) == bad).all()


def test_a_key_names_classifier_seed_and_what_stands_beside(scoring):
    keys = set()
    for seed in (0, 1):
        make_scores('moderate', Scoring(**{k: v for k, v in vars(scoring).items()
                                           if k not in ('text', 'prompts')} | dict(seed=seed)))
        keys.add(column_record(scoring.pool, 'moderate')['key'])
    make_scores('clip-filter', scoring)
    keys.add(column_record(scoring.pool, 'clip-filter')['key'])
    scoring.prompts = SAID | dict(a='some red')
    make_scores('clip-filter', scoring)
    keys.add(column_record(scoring.pool, 'clip-filter')['key'])
    assert len(keys) == 4


def test_scores_that_stream_go_on_where_they_were_killed(scoring, monkeypatch):
    whole = {}
    for name in ('entropy', 'alia-confidence', 'clip-filter'):
        whole[name] = scoring.pool.column(make_scores(name, scoring)).copy()
        (scoring.pool.folder/'columns'/f'{name}.json').unlink()
        (scoring.pool.folder/'columns'/f'{name}.npy').unlink()
    given, clock = scores.score_pool, iter(range(0, 10**6, 10))
    monkeypatch.setattr(scores.time, 'time', lambda: next(clock)) # every batch is written
    def small(pool, column, fn, **kw):
        calls = []
        def dies(images, labels, rows):
            calls.append(rows)
            if len(calls) == 3 and not resumed: raise KeyboardInterrupt
            return fn(images, labels, rows)
        dies.key = fn.key
        found = given(pool, column, dies, batch_size=50, **kw)
        assert calls[0][0] == 100 # two batches stood
        return found
    monkeypatch.setattr(recent, 'score_pool', small)
    for name in whole:
        resumed = False
        with pytest.raises(KeyboardInterrupt): make_scores(name, scoring)
        resumed = True
        assert np.allclose(scoring.pool.column(make_scores(name, scoring)), whole[name], atol=1e-6)


# ---- single scores -------------------------------------------------------------------------------
def test_words_find_wrong_labels(scoring, tmp_path):
    pool = toy(tmp_path/'wrong', 90, 4)
    wrong = np.arange(90) % 4 == 0
    labels = np.where(wrong, (pool.labels + 1) % 3, pool.labels)
    w = ImageSetWriter(tmp_path/'relabelled', 90, 12, list('abc'))
    w.write(pool.images, labels)
    score = prompt_probability(Colours(), list('abc'), SAID)
    p = score(torch.from_numpy(pool.images), torch.from_numpy(labels), None).numpy()
    assert p[~wrong].min() > p[wrong].max()


def test_a_text_image_model_of_the_book_reads_shapes(tmp_path):
    "Drawn shapes, a third with the label of another: the book's own model finds these."
    names = [*SHAPES]
    scenes = clip.sample_scenes(400, 'recent', kinds=['clean'])
    pictures = (255*clip.draw_scenes(scenes)).round().to(torch.uint8).permute(0, 2, 3, 1)
    shown = scenes['shape'].numpy()
    wrong = np.arange(400) % 3 == 0
    w = ImageSetWriter(tmp_path/'shapes', 400, 64, names)
    w.write(pictures.numpy(), np.where(wrong, (shown + 1 + np.arange(400) % 9) % 10, shown))
    pool = w.close()
    model = clip.fit_text_image(device='cpu')[0]
    some = TextScoring(pool, pool, pool, None, device='cpu', text=model,
                       prompts={n: [f'A {n}.', f'There is a {n}.'] for n in names})
    column = make_scores('clip-filter', some)
    assert roc_auc_score(~wrong, pool.column(column)) > .9
    kept = select('clip-filter', pool, 200, column=column).indices
    assert wrong[kept].mean() < .1


def test_a_classifier_that_is_sure_drops_what_it_is_sure_of():
    class Sure:
        classes = ['a', 'b']
        def to(self, device): return self
        def logits(self, x): return torch.stack([x[:, 0, 0, 0], 0*x[:, 0, 0, 0]], 1).float().log()
    class Two:
        labels = np.array([0, 0, 1])
        def batches(self, size):
            yield 0, torch.tensor([3., 1, 1])[:, None, None, None].expand(-1, 1, 1, 1) + 0
    class Logits(Sure):
        def logits(self, x):
            p = x[:, 0, 0, 0]/4
            return torch.stack([p, 1 - p], 1).log()
    assert np.allclose(mean_confidence(Logits(), Two(), 'cpu'), [.5, .75])
    Two.labels = np.array([0, 0, 0])
    assert mean_confidence(Logits(), Two(), 'cpu')[1] == 1


# ---- what is refused -----------------------------------------------------------------------------
def test_words_without_a_model_say_how_to_get_one(scoring, tmp_path):
    plain = Scoring(scoring.pool, scoring.real, scoring.real, scoring.classifier, device='cpu')
    for other in (plain, TextScoring(**vars(plain))):
        with pytest.raises(ValueError, match=r'TextScoring\(\.\.\., text=model'):
            make_scores('clip-filter', other)
    with pytest.raises(ValueError, match='has no embed_image'):
        make_scores('clip-filter', TextScoring(**vars(plain), text=object()))
    real = scoring.real
    features = seen(real, extractor(real=real, device='cpu'), 'cpu')
    probe = fit_probe(features.features, features.labels, features.classes)
    with pytest.raises(ValueError, match='looks at pictures'):
        make_scores('clip-filter', TextScoring(features, features, features, probe, device='cpu',
                                               text=Colours()))


@pytest.mark.parametrize('prompts, said', [(dict(a='x'), 'the pool has a, b'),
                                           (dict(a='x', b=[]), "prompts\\['b'\\] is empty")])
def test_prompts_are_checked(prompts, said):
    with pytest.raises(ValueError, match=said): class_prompts(['a', 'b'], prompts)
