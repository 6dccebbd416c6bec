"""What an image may become is one word, `augment`: it reaches all training, and the record."""
import json
import re
from pathlib import Path

import pytest
from execute import cells
from here import as_alone
from test_experiment import ROOT, run
from test_yours import digits

from synthnb.core import declared_parameters, load_json
from synthnb.drawn import drawn_set
from synthnb.gan import StarGANConfig
from synthnb.generators import Order, generated
from synthnb.train import AUGMENTS, mirror_verdict

EXPERIMENTS = ('07_affectnet', '08_celeba', '09_emotions', '12_latent', '13_overfitting',
               '15_when', '16_yours')


def made(runs, stage):
    "The parameters of all artefacts of a stage"
    return [load_json(p)['params'] for p in Path(runs).glob(f'artefacts/{stage}/*/artefact.json')]


def test_the_parameter_is_the_same_everywhere():
    lines = set()
    for name in EXPERIMENTS:
        text = ''.join(''.join(c['source']) + '\n'
                       for c in load_json(ROOT/'nbs'/f'{name}.ipynb')['cells'])
        lines |= set(re.findall(r'((?:^#.*\n)+)augment = ', text, re.M)) # the comment above it
        # 13's paper names no augmentation, and its records have none
        assert declared_parameters(ROOT/'nbs'/f'{name}.ipynb')['augment'] == (
            'none' if name[:2] == '13' else 'crops+mirror')
    assert len(lines) == 1 and all(a in lines.copy().pop() for a in AUGMENTS)


@pytest.mark.long
def test_no_mirror_image_where_mirrors_are_off(tmp_path):
    status, output = run(tmp_path, '-p', 'augment', 'crops')
    assert status == 0 and 'mirrors are off' in output, output[-3000:]
    gan, = made(tmp_path, 'gan')
    recipes = [p['recipe'] for p in made(tmp_path, 'classifier')]
    assert gan['config']['flips'] is False
    assert len(recipes) >= 5 and not any(r['mirror'] for r in recipes), (
        'baseline, arm, two scorers and the oracle')
    assert {r['augment'] for r in recipes} == {'crops', 'shifts'}, 'the oracle crops anywhere'
    record = tmp_path/'07_affectnet'/'scale=smoke,augment=crops'
    assert 'mirror_fall' not in load_json(record/'metrics.json')['metrics']


@pytest.mark.long
def test_the_test_of_mirrors_is_in_the_record_and_runs_of_another_augmentation_are_not(tmp_path):
    "Runs with another word are not averaged, nor with a record that has no such parameter."
    status, output = run(tmp_path)
    assert status == 0 and re.search('mirror images .* held-out images|cannot be told',
                                     output), (output[-3000:])
    assert output.index('held-out images') < output.index('gan  '), (
        'it is said before the GAN is trained')
    gan, = made(tmp_path, 'gan')
    assert gan['config']['flips'] is True
    judge = [p['recipe'] for p in made(tmp_path, 'classifier') if not p['recipe']['mirror']]
    assert len(judge) == 1 and judge[0]['validations'] == 1
    record = tmp_path/'07_affectnet'/'scale=smoke'
    found = load_json(record/'metrics.json')['metrics']
    assert list(found['mirror_fall']) == list(found['mirror_p']) == [*found['classes'], 'all']
    params = load_json(record/'params.json')
    assert params.pop('augment') == 'crops+mirror'
    # as it was written before there was the parameter
    (record/'params.json').write_text(json.dumps(params))
    for more, n in ((['-p', 'seed', '1'], 2), (['-p', 'augment', 'none'], 1)):
        status, output = run(tmp_path, *more)
        assert status == 0, output[-3000:]
        name = 'scale=smoke,' + '='.join(more[1:])
        table = (tmp_path/'07_affectnet'/name/'tables'/'over_seeds.csv').read_text().splitlines()
        columns = table[0].split(',')
        assert columns.index('seeds') >= 0 and {line.split(',')[columns.index('seeds')]
                                                for line in table[1:]} == {str(n)}, table


@pytest.mark.parametrize('notebook', EXPERIMENTS)
def test_an_unknown_word_is_refused(tmp_path, notebook):
    status, output = run(tmp_path, '-p', 'augment', 'flips', notebook=notebook)
    assert status != 0 and 'choose one of crops+mirror, crops, none' in output, output[-2000:]
    assert not list(tmp_path.glob('artefacts/*/*'))


@pytest.mark.long
@pytest.mark.ci
def test_thirteen_asks_where_it_mirrors(tmp_path):
    status, output = run(tmp_path, '-p', 'augment', 'crops+mirror', '-p', 'sweeps',
                         'False', notebook='13_overfitting')
    assert status == 0 and 'held-out images' in output, output[-3000:]
    configs = [p['config'] for p in made(tmp_path, 'noise')]
    assert configs and all(c['mirror'] and c['augment'] == 'crops' for c in configs)


def test_nine_asks_before_its_gans():
    code = ''.join(''.join(c['source']) for c in load_json(ROOT/'nbs'/'09_emotions.ipynb')['cells']
                   if c['cell_type'] == 'code')
    asked = code.index("mirror_test(real, sets['valid']")
    assert asked < code.index('print(mirror_verdict(mirrors))') < code.index('= fit_dcgan(')


@pytest.mark.parametrize('augment, said', [
    ('crops+mirror', 'held-out images|cannot be told'), ('crops', 'mirrors are off')])
def test_fifteen_mirrors_photographs_only_where_it_may(tmp_path, augment, said):
    "All cells but the trainings."
    root, names = digits(tmp_path/'digits', slice(0, 500)), {'__name__': '__main__'}
    given = dict(data='folder', root=str(root), scale='smoke', augment=augment)
    with as_alone(tmp_path/'runs') as heard:
        for source in cells(ROOT/'nbs'/'15_when.ipynb', given):
            before, training, _ = source.partition('trained = train_arms')
            exec(before, names)
            if training: break
    mirrored = augment == 'crops+mirror'
    assert training and re.search(said, heard.getvalue()), heard.getvalue()[-2000:]
    assert names['config'].mirror is mirrored and (names['mirrors'] is not None) is mirrored
    assert names['arms'] and all(a.recipe.get('mirror', True) is mirrored for a in names['arms'])
    # no name of what was made before there was the parameter may change
    assert not mirrored or 'mirror' not in names['settings']


def test_what_is_off_is_not_tested():
    assert mirror_verdict(None).startswith('mirrors are off')


@pytest.mark.parametrize('generator', ['dcgan', 'diffusion'])
def test_other_generators_mirror_only_where_the_stargan_may(tmp_path, monkeypatch, generator):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    real = drawn_set(16, 36, 'balanced', seed=0, name='train')
    for flips in (True, False):
        gan = StarGANConfig.preset('laptop', flips=flips)
        generated(generator, Order(real, None, gan, 2, 0, 'cpu', 'smoke', {}))
    assert {p['config']['flips'] for p in made(tmp_path, generator)} == {True, False}
