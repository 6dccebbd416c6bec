"""Whatever a person types for a parameter of an experiment is taken or refused by its name.

Each notebook's own check is run, as it stands in the notebook, with values that hypothesis makes.
"""
import ast
import contextlib
import io
import math
import os

import pytest
from execute import cells
from here import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthnb.core import Run, as_changes, as_pairs, declared_parameters, name_list, number

NOTEBOOKS = sorted(p.stem for p in (ROOT/'nbs').glob('*.ipynb')
                   if 'params = check_parameters(' in p.read_text(encoding='utf-8')
                   and p.stem >= '07')
WORDS = st.one_of(st.text(max_size=20), st.sampled_from(
    ['', ' ', 'nan', '-inf', '1e400', '0x10', 'True', 'None', "a'b", 'x=', 'a=1,a=2', 'b=(1, 2',
     '../..', '\x00', '🙂', '$x_1^', 'smoke ', 'Laptop', '9'*5000, '('*500]))
SINGLE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS)
VALUES = st.one_of(SINGLE, st.lists(SINGLE, max_size=3),
                   st.dictionaries(st.text(max_size=3), SINGLE, max_size=2), st.binary(max_size=4))
EXAMPLES = int(os.environ.get('SYNTHNB_EXAMPLES') or 40) # for each test; a campaign has thousands
LONG = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[
    HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def ready(stem): # the namespace before the check, and the check
    "A notebook's imports and names, and the statement that checks its parameters."
    space = {}
    for source in cells(ROOT/'nbs'/f'{stem}.ipynb', {}):
        body = ast.parse(source).body
        at = next((i for i, n in enumerate(body) if 'check_parameters' in ast.unparse(n)
                   and isinstance(n, ast.Assign)), None)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(ast.Module(body if at is None else body[:at], []), stem, 'exec'), space)
        if at is not None: return space, compile(ast.Module([body[at]], []), stem, 'exec')
    raise AssertionError(f'{stem} checks nothing')


@pytest.fixture(scope='module', params=NOTEBOOKS)
def checked(request):
    space, check = ready(request.param)
    return request.param, space, check


def test_every_experiment_checks_its_parameters():
    assert len(NOTEBOOKS) >= 10
    for stem in NOTEBOOKS: assert declared_parameters(ROOT/'nbs'/f'{stem}.ipynb')


@LONG
@given(data=st.data())
def test_a_value_is_taken_or_refused_by_its_name(checked, data):
    stem, space, check = checked
    declared = space['declared']
    name = data.draw(st.sampled_from(sorted(declared)))
    value = data.draw(st.one_of(VALUES, st.just(declared[name])))
    trial = space | {name: value}
    try: exec(check, trial)
    except ValueError as e:
        assert not isinstance(e, UnicodeError) and f'parameter {name}=' in str(e), (name, value, e)
        assert value != declared[name] or value != value or type(value) is not type(declared[name])
        return
    taken = trial['params'][name]
    assert set(trial['params']) == set(declared)
    if isinstance(declared[name], str) and name not in ('classes', 'mapping'):
        assert isinstance(taken, str), (name, value, taken)
    if isinstance(declared[name], (int, float)): assert math.isfinite(taken), (name, value, taken)
    # what is taken is taken again, as itself
    again = space | {name: taken}
    exec(check, again)
    assert again['params'][name] == taken, (name, value)


@LONG
@given(name=st.text(min_size=1, max_size=12))
def test_a_misspelt_name_is_refused(checked, name):
    stem, space, check = checked
    if name in space or name.startswith('_'): return
    with pytest.raises(ValueError) as e: exec(check, space | {name: 1})
    assert f'unknown parameter {name}' in str(e.value)


@LONG
@given(VALUES)
def test_a_rule_returns_or_raises_a_value_error_that_says_something(value):
    for rule in (as_changes, name_list, number(), number(0, 1), number(above=0), number(kind=int)):
        try: rule(value)
        except ValueError as e: assert str(e).strip() and not isinstance(e, UnicodeError)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
PAIRS = st.dictionaries(
    st.from_regex(r'[a-z][a-z_]{0,6}(\.[a-z]{1,4})?', fullmatch=True), max_size=4,
    values=st.one_of(st.integers(), FINITE, st.booleans(), st.none(),
                     st.tuples(st.integers(), st.integers())))


@LONG
@given(PAIRS, st.randoms(use_true_random=False))
def test_changes_have_one_spelling_whatever_their_order(pairs, luck):
    given, spaced = [*pairs.items()], ' , '
    luck.shuffle(given)
    text = as_changes(spaced.join(f'{k} = {v!r}' for k, v in given))
    assert text == as_changes(','.join(f'{k}={v!r}' for k, v in pairs.items())) == as_changes(text)
    assert as_pairs(text) == pairs


@LONG
@given(st.dictionaries(st.from_regex('[a-z]{1,6}', fullmatch=True), st.one_of(
    st.integers(-10**6, 10**6), WORDS.filter(lambda t: '\x00' not in t)), max_size=3))
def test_a_run_has_a_folder_of_its_own_inside_runs(tmp_path_factory, params):
    "No value of a parameter leads a record out of its experiment's folder."
    runs = tmp_path_factory.getbasetemp()/'runs'
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SYNTHNB_RUNS', str(runs))
        try: path = Run('99_none', params, dict.fromkeys(params)).folder
        except ValueError as e:
            assert 'is the record of another run' in str(e)
            return
    assert path.parent == runs/'99_none' and '..' not in path.parts, path
    assert len(path.name.encode()) < 256, path
