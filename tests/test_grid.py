"""The grid behind the tables: what is in it, a kill, failed runs, nothing to do, a real Slurm."""
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pandas as pd
import pytest
from apart import Apart, snakemake
from grid import check_tables
from PIL import Image
from snakemake.exceptions import WorkflowError

from synthnb.core import declared_parameters, run_name
from synthnb.data import data_digest

ROOT = Path(__file__).resolve().parent.parent
NONE, RANDOM, CL_SAM = ('07_affectnet/' + name for name in (
    'sampler=none,scale=smoke', 'sampler=random,ratio=2,scale=smoke,exposure=fixed',
    'ratio=2,scale=smoke,exposure=fixed'))
BAD = NONE + ',seed=-1' # a seed that the notebook refuses
SMOKE = ('--cores', '2', '--config', 'table=exposure', 'scale=smoke')


def start(runs, *args):
    "Snakemake in a process of its own, as `make tables` calls it but for its imports."
    return Apart(snakemake, *args, env=dict(SYNTHNB_RUNS=str(runs)))


def grid(runs, *args):
    "The same, waited for: (exit status, output)."
    process = start(runs, *args)
    output = process.communicate(timeout=600)[0]
    return process.returncode, output


def grid_of_slurm(runs, *args, **env):
    "The same in a new Python, which is what the jobs of a cluster begin with."
    done = subprocess.run([sys.executable, '-m', 'snakemake', *args], cwd=ROOT, text=True,
                          env=os.environ | dict(SYNTHNB_RUNS=str(runs)) | env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    return done.returncode, done.stdout


def wait_until(seen, process, patience=300):
    "Until `seen()` holds, while the process is alive."
    end = time.time() + patience
    while not seen():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < end, 'nothing was seen'
        time.sleep(.05)


def listed(runs, *config):
    "The runs that a dry run would make."
    status, output = grid(runs, '--cores', '1', '--dry-run', '--quiet', 'host', '--config', *config)
    assert status == 0, output[-3000:]
    return set(re.findall(r'output: (\S+)/metrics.json', output))


def faces(folder, shade=0):
    "A data set in AffectNet's layout, of one photograph in each of its two lists."
    for part in ('Manually_Annotated_file_lists', 'Manually_Annotated_Images/0'):
        (folder/part).mkdir(parents=True)
    for i, split in enumerate(('training', 'validation')):
        (folder/'Manually_Annotated_file_lists'/f'{split}.csv').write_text(
            f'0/{split}.jpg,0,0,8,8,,0,-2,-2\n')
        Image.new('RGB', (8, 8), (shade, i, 0)).save(
            folder/'Manually_Annotated_Images'/'0'/f'{split}.jpg')
    return folder


def age(runs, name): return (runs/name/'metrics.json').stat().st_mtime_ns


# ---- what is in it -------------------------------------------------------------------------------
@pytest.mark.long
@pytest.mark.ci
def test_every_table_is_its_samplers_ratios_and_seeds(tmp_path):
    root = faces(tmp_path/'nowhere'/'wildfaces')
    names = listed(tmp_path, 'table=affectnet,exposure,gpu,wildfaces', f'root={root}')
    others = ('aum', 'cl-cap', 'density', 'drs', 'gold', 'instance-selection',
              'k-centre', 'oracle', 'precision', 'rl')
    arms = [('none', 1), *((s, 1) for s in others), ('rl-top', 1), ('rl-top', 2)]
    arms += [(s, r) for s in ('random', 'cl-sam', 'cr-sam') for r in (1, 2, 5)]
    declared = declared_parameters(ROOT/'nbs'/'07_affectnet.ipynb') | dict(protocol='updates')
    wanted = [dict(sampler=s, ratio=r, seed=seed) for s, r in arms for seed in range(5)]
    wanted += [dict(sampler=s, ratio=2, seed=seed, exposure='fixed')
               for s in ('random', 'cl-sam') for seed in range(5)]
    gpu, wild = ({name for name in names if word in name}
                 for word in ('scale=gpu', 'root=wildfaces'))
    assert names - gpu - wild == {'07_affectnet/' + run_name(declared | w, declared)
                                  for w in wanted} and len(wanted) == 120
    assert len(gpu) == 3*(1 + 9 + 1) and len(wild) == 3*(2 + 2*12)
    assert (not any('oracle' in name for name in wild)
            and not any('nowhere' in name for name in names))
    content = data_digest('affectnet', root)
    assert (f'07_affectnet/data=affectnet,root=wildfaces-{content},'
            'classes=neutral+happiness+sadness+surprise+anger') in wild


def test_two_folders_of_one_name_are_two_data_sets_to_the_grid(tmp_path):
    one, two = (listed(tmp_path, 'table=wildfaces',
                       f"root={faces(tmp_path/name/'faces', shade)}", 'seeds=0')
                for name, shade in (('one', 10), ('two', 200)))
    assert len(one) == len(two) == 26 and not one & two
    for name in one:
        (tmp_path/name).mkdir(parents=True), (tmp_path/name/'metrics.json').write_text('{}')
    assert not listed(tmp_path, 'table=wildfaces', f"root={tmp_path/'one'/'faces'}", 'seeds=0')
    assert listed(tmp_path, 'table=wildfaces', f"root={tmp_path/'two'/'faces'}",
                  'seeds=0') == two, ('there is everything to be done')


def test_your_own_images_over_seeds_whatever_their_folder_is_called(tmp_path):
    place = tmp_path/"Anna's faces"
    for i in range(4):
        (place/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(place/'ab'[i % 2]/f'{i}.png')
    (place/'list.csv').write_text('path,label\n' + ''.join(
        f'{"ab"[i % 2]}/{i}.png,{"ab"[i % 2]}\n' for i in range(4)))
    for data, root in (('folder', place), ('csv', place/'list.csv')):
        names = listed(tmp_path, 'table=own', f'data={data}', f'root={root}', 'seeds=0,1')
        content, said = data_digest(data, root), re.sub(r'[^\w.+-]', '_', root.name)
        assert len(names) == 2*6 and all(
            f'data={data},root={said}-{content}' in n for n in names), names


def test_folds_are_named_by_who_is_who_too(tmp_path):
    root = faces(tmp_path/'faces')
    def names(): return listed(tmp_path, 'table=folds-wildfaces', f'root={root}', 'seeds=0')
    before, content = names(), data_digest('affectnet', root, 5)
    assert len(before) == 7 and all(f'root=faces-{content},' in n and 'folds=5' in n
                                    for n in before)
    (root/'identities.csv').write_text('subDirectory_filePath,identity\n')
    assert not names() & before and data_digest('affectnet', root) == content


def test_an_experiment_without_samplers_is_one_run_a_seed(tmp_path):
    names = listed(tmp_path, 'table=shapes,shapes-more,shapes-official')
    first = {'10_shapes/' + (f'seed={s}' if s else 'default') for s in range(5)}
    assert names == first | {f'10_shapes/seed={s},sweeps=0' for s in range(5, 10)} | {
        '10_shapes/preset=official,' + (f'seed={s},' if s else '') + 'sweeps=0' for s in range(5)}
    names = listed(tmp_path, 'table=when,when-gpu,when-wildfaces',
                   f"root={faces(tmp_path/'wild'/'wildfaces')}")
    kinds = [{n for n in names if 'root=' in n}, {n for n in names if 'scale=gpu' in n}]
    assert [len(kind) for kind in kinds] == [5, 3] and names - kinds[0] - kinds[1] == {
        '15_when/' + (f'seed={s}' if s else 'default') for s in range(20)}
    names = listed(tmp_path, 'table=yours') # its samplers stand in one run
    assert names == {'16_yours/' + (f'seed={s}' if s else 'default') for s in range(5)}
    names = listed(tmp_path, 'table=latent,overfitting,latent-wildfaces',
                   f"root={faces(tmp_path/'wildfaces')}")
    wild = {name for name in names if 'root=wildfaces' in name}
    assert names - wild == {f'{e}/' + (f'seed={s}' if s else 'default')
                            for e in ('12_latent', '13_overfitting') for s in range(5)}
    assert len(wild) == 5 and all(name.startswith('12_latent/data=affectnet') for name in wild)


@pytest.mark.parametrize('config, said', [
    (['table=wildfaces'], 'ROOT=folder'),
    (['table=wildfaces', 'root=nowhere'], 'nowhere does not exist'),
    (['table=tabel'], "unknown table 'tabel': choose from affectnet, exposure")])
def test_what_cannot_be_made_is_refused_with_advice(tmp_path, config, said):
    status, output = grid(tmp_path, '--cores', '1', '--config', *config)
    assert status != 0 and said in output, output


def tables(experiment='07_affectnet', seeds=(0, 1), default=('mine',), cores=1, **table):
    "A configuration of one table."
    need = dict(cores=cores, megabytes=1500, minutes=30, gpus=0)
    table = dict(experiment=experiment, seeds=list(seeds)) | table
    return dict(default=list(default), tables=dict(mine=table), needs=dict(smoke=need, laptop=need))


@pytest.mark.parametrize('change, said', [
    (dict(experiment='07_affect'), 'table mine: there is no nbs/07_affect.ipynb'),
    (dict(seeds=()), r'table mine: seeds must be as \[0, 1, 2\], and are \[\]'),
    (dict(samplers=['none']), r'table mine: samplers must be as \{random: \[1, 2\]\}'),
    (dict(samplers=dict(none=1)), r'table mine: none needs ratios as \[1, 2\], not 1'),
    (dict(exposur='fixed'), 'table mine: 07_affectnet has no parameter exposur; it has sampler,'),
    (dict(scale='gpu'), 'table mine: scale gpu has no needs; smoke, laptop have'),
    (dict(cores='many'), 'needs of smoke must be numbers of cores, gpus, megabytes, minutes'),
    (dict(default=()), 'default is empty or missing'),
    (dict(default=('yours',)), 'default names yours, and there is no such table')])
def test_a_table_that_cannot_be_meant_is_named(change, said):
    check_tables(tables(samplers=dict(none=[1])))
    with pytest.raises(WorkflowError, match=said): check_tables(tables(**change))


def test_a_table_of_ones_own_in_another_file(tmp_path):
    (tmp_path/'mine.yaml').write_text(
        'tables: {mine: {experiment: 07_affectnet, seeds: [3], samplers: {random: [2]}}}')
    names = listed(tmp_path, 'table=mine', '--configfile', tmp_path/'mine.yaml')
    assert names == {f'07_affectnet/sampler={s},seed=3' for s in ('none', 'random,ratio=2')}


@pytest.mark.skipif(not (ROOT/'nbs'/'08_celeba.ipynb').exists(), reason='there is no 08_celeba')
def test_table_4_is_its_samplers_ratios_and_seeds(tmp_path):
    assert len(listed(tmp_path, 'table=celeba')) == 5*(1 + 9)


def test_a_fresh_clone_makes_only_what_has_no_record(tmp_path):
    "Whatever the files' times: one record is older, one newer than what it needs, one is missing."
    for i, name in enumerate((RANDOM, NONE, CL_SAM.replace('ratio', 'seed=1,ratio'))):
        (tmp_path/name).mkdir(parents=True)
        (tmp_path/name/'metrics.json').write_text('{}')
        os.utime(tmp_path/name/'metrics.json', (i*1000, i*1000))
    assert listed(tmp_path, 'table=exposure', 'scale=smoke', 'seeds=0') == {CL_SAM}
    (tmp_path/NONE/'metrics.json').unlink()
    (tmp_path/CL_SAM).mkdir()
    (tmp_path/CL_SAM/'metrics.json').write_text('{}')
    assert listed(tmp_path, 'table=exposure', 'scale=smoke', 'seeds=0') == set()


# ---- how it goes, at smoke scale; the tests below share a folder and come one after the other ----
@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp('grid')


@pytest.mark.long
def test_killed_and_started_again_it_goes_on_past_failures(runs):
    process = start(runs, *SMOKE, 'seeds=0')
    wait_until((runs/'logs'/f'{RANDOM}.log').exists, process)
    assert 'is at work in' in grid(runs, *SMOKE, 'seeds=0')[1], 'two grids in one folder'
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family: member.kill()
    process.communicate()
    made = age(runs, NONE)
    assert not (runs/RANDOM/'metrics.json').exists()

    # where a folder should be, so that this run fails when its record is already written
    (runs/CL_SAM).mkdir(parents=True)
    (runs/CL_SAM/'tables').touch()
    status, output = grid(runs, *SMOKE, 'seeds=0,-1')
    assert status == 1 and '2 of 6 runs failed:' in output and '2 were not begun' in output, output
    said = output[output.index('2 of 6 runs failed:'):]
    assert (re.search(
        r'07_affectnet sampler=none scale=smoke seed=-1 protocol=updates\n'
        r' +ValueError: parameter seed=-1: expected an integer',
        said)), said
    assert re.search(
        r'07_affectnet ratio=2 scale=smoke protocol=updates exposure=fixed\n'
        r' +FileExistsError.*\n +/\S+\.log', said), said
    assert age(runs, NONE) == made, 'what was finished before the kill is not made again'
    assert 'arm_mean_class_accuracy' in (runs/RANDOM/'metrics.json').read_text()
    assert not (runs/CL_SAM/'metrics.json').exists() and not (runs/BAD/'metrics.json').exists()
    (runs/CL_SAM/'tables').unlink()


# ---- a real Slurm --------------------------------------------------------------------------------
SLURM_CONF = '''
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=3000
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
'''


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture
def slurm(tmp_path):
    "munged, a controller and a node on ports of their own, gone afterwards: how to reach them."
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    missing = [c for c in ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue')
               if not shutil.which(c, path=path)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here; on Debian and Ubuntu: apt-get "
                    "install slurm-wlm munge")
    host, user = socket.gethostname().split('.')[0], pwd.getpwuid(os.getuid()).pw_name
    for name in ('state', 'spool'): (tmp_path/name).mkdir()
    (tmp_path/'key').write_bytes(os.urandom(128))
    (tmp_path/'key').chmod(0o600)
    (tmp_path/'slurm.conf').write_text(
        SLURM_CONF.format(host=host, user=user, folder=tmp_path, cpus=os.cpu_count(),
                          ports=[free_port(), free_port()]))
    (tmp_path/'srun').write_text(f'#!/bin/sh\nSLURM_CONF={tmp_path}/slurm.conf exec '
                                 f'{shutil.which("srun", path=path)} "$@"\n')
    # for in a job Snakemake's plugin forgets where the configuration lies, if not in /etc
    (tmp_path/'srun').chmod(0o755)
    env, daemons = dict(PATH=f'{tmp_path}:{path}', SLURM_CONF=str(tmp_path/'slurm.conf')), []

    def daemon(*command):
        with open(tmp_path/f'{command[0]}.out', 'w') as out:
            daemons.append(subprocess.Popen(command, env=os.environ | env,
                                            stdout=out, stderr=subprocess.STDOUT))

    def comes_up(seen):
        end = time.time() + 20
        while not seen():
            dead = [d.args[0] for d in daemons if d.poll() is not None]
            if dead or time.time() > end:
                said = ''.join(p.read_text() for p in tmp_path.glob('*.out'))
                pytest.skip("Slurm does not start here: "
                            f"{', '.join(dead) or 'no idle node after 20 s'}: {said[-500:]}")
            time.sleep(.1)

    def idle():
        return subprocess.run(['sinfo', '-h', '-o', '%T'], env=os.environ | env,
                              capture_output=True, text=True).stdout.strip() == 'idle'

    try:
        daemon('munged', '--foreground', '--force', f'--socket={tmp_path}/munge.socket',
               f'--key-file={tmp_path}/key',
               f'--pid-file={tmp_path}/munge.pid', f'--log-file={tmp_path}/munge.log',
               f'--seed-file={tmp_path}/munge.seed')
        comes_up((tmp_path/'munge.socket').exists)
        daemon('slurmctld', '-D', '-c')
        daemon('slurmd', '-D', '-c', '-N', host)
        comes_up(idle)
        yield env
    finally:
        for d in reversed(daemons): d.terminate()
        for d in reversed(daemons):
            try: d.wait(10)
            except subprocess.TimeoutExpired: d.kill()


@pytest.mark.long
def test_on_slurm(runs, slurm):
    "What is left of the grid above, and a run that fails but has an older record, which must stay."
    (runs/BAD).mkdir(exist_ok=True)
    shutil.copy(runs/NONE/'metrics.json', runs/BAD)
    (runs/BAD/'params.json').write_text(
        (runs/NONE/'params.json').read_text().replace('"seed": 0', '"seed": -1'))
    older = (runs/BAD/'metrics.json').read_text()
    made = age(runs, RANDOM)
    status, output = grid_of_slurm(
        runs, '--profile', 'profiles/slurm', '--slurm-status-command', 'squeue',
        '--slurm-no-account', '--latency-wait', '5', '--slurm-init-seconds-before-status-checks',
        '2', '--seconds-between-status-checks', '2', '--forcerun', f'{CL_SAM}/metrics.json',
        f'{BAD}/metrics.json', *SMOKE[2:], 'seeds=0,-1', **slurm)
    assert len(re.findall('submitted with SLURM jobid', output)) == 2, output
    assert (status == 1 and '1 of 6 runs failed:' in output
            and 'ValueError: parameter seed=-1' in output), output
    assert ('arm_mean_class_accuracy' in (runs/CL_SAM/'metrics.json').read_text()
            and age(runs, RANDOM) == made)
    assert (runs/BAD/'metrics.json').read_text() == older
    assert subprocess.run(['squeue', '-h'], env=os.environ | slurm, capture_output=True,
                          text=True, check=True).stdout == ''


@pytest.mark.long
def test_nothing_to_do_is_quick_and_makes_the_tables(runs):
    if not (runs/CL_SAM/'metrics.json').exists(): assert grid(runs, *SMOKE, 'seeds=0')[0] == 0
    before = {p: p.stat().st_mtime_ns for p in runs.glob('07_affectnet/*/metrics.json')}
    assert len(before) >= 3
    began = time.time()
    done = subprocess.run(['make', 'tables', f'PY={sys.executable}', 'TABLE=exposure',
                           'SCALE=smoke', 'SEEDS=0'], cwd=ROOT, text=True,
                          env=os.environ | dict(SYNTHNB_RUNS=str(runs)),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert 'Nothing to be done' in done.stdout, done.stdout
    assert (time.time() - began < 120 and before
            == {p: p.stat().st_mtime_ns for p in runs.glob('07_affectnet/*/metrics.json')})
    if (ROOT/'nbs'/'14_verdict.ipynb').exists():
        verdict = runs/'14_verdict'/'scale=smoke'
        assert done.returncode == 0 and (verdict/'notebook.html').exists(), done.stdout[-3000:]
        claims = pd.read_csv(verdict/'tables'/'verdicts.csv')
        assert (len(claims) > 60 and (claims.seeds > 0).any()
                and not claims.verdict.str.startswith('reproduced').any())
