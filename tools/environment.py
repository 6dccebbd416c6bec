"""`make .venv/.ready`: an environment with all that settings.ini names, and nbdev's hooks for git.

Run by the Python that the environment is made with, before anything is installed, as
`environment.py FOLDER GOAL`. It must also be readable to a Python that is too old, so that this one
is told so: no f-strings, no annotations. Run by an environment's Python as `environment.py --docs
FOLDER` it adds what `make docs` needs, and as `environment.py --hooks` only the hooks for git.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = sys.executable


def check_python(goal):
    if sys.version_info >= (3, 10): return
    sys.exit('Python 3.10 or newer is needed, and {} is Python {}. Name a newer one:'
             ' make {} PYTHON=python3.12'.format(HERE, sys.version.split()[0], goal))


def check_place(venv):
    "Nothing is begun where the environment could not be written."
    place = os.path.abspath(venv)
    while not os.path.isdir(place): place = os.path.dirname(place)
    if not os.access(place, os.W_OK): sys.exit(
        '{} cannot be made: {} may only be read. Give yourself the right to write there, or name '
        'the Python of an environment that has all in settings.ini: make PY=/path/to/python'.format(
            venv, place))


def make(venv):
    "A virtual environment, if there is none."
    if os.access(os.path.join(venv, 'bin', 'pip'), os.X_OK):
        print('Bringing {} in line with settings.ini.'.format(venv))
        return
    print('Making {} with Python {}. PyTorch and its companions are up to 5 GB: 3 to 20 minutes, '
          'once.'.format(venv, sys.version.split()[0]))
    sys.stdout.flush()
    if subprocess.call([HERE, '-m', 'venv', venv]):
        sys.exit('{} could not make a virtual environment. On Debian and Ubuntu: '
                 'apt install python3-venv'.format(HERE))


def install(venv, what='.[dev]'):
    "pip, of which only the large downloads are shown; all that it says is in install.log."
    path, tail = os.path.join(venv, 'install.log'), []
    command = [os.path.join(venv, 'bin', 'python'), '-m', 'pip', 'install', '--no-input',
               '--progress-bar', 'off', '--editable', what]
    if os.environ.get('LOCK'): command += ['--constraint', 'requirements.lock'] # see lock.py
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           universal_newlines=True, errors='replace')
    with open(path, 'w', encoding='utf-8') as log:
        for line in pip.stdout:
            log.write(line)
            log.flush()
            tail = (tail + [line])[-20:]
            large = re.search(r'Downloading (.*\([\d.]+ [MG]B\))', line)
            if large: print('  ' + large.group(1))
            elif line.startswith('Installing collected'): print('  installing')
            sys.stdout.flush()
    if pip.wait():
        sys.stderr.write(''.join(tail))
        sys.exit('The installation failed; all that pip said is in {}.'.format(path))


def driver():
    "The program that merges notebooks in this clone, or ''."
    git = subprocess.Popen(['git', 'config', '--get', 'merge.nbdev-merge.driver'],
                           stdout=subprocess.PIPE, universal_newlines=True)
    return git.communicate()[0].partition("' ")[0].strip("'\n")


def hooks(binaries):
    """nbdev's hooks, which merge notebooks cell by cell and trust what was pulled, in this clone.

    nbdev would also write to ~/.jupyter, hence HOME. They are named by their full path, so that
    they work where the environment is not active. A hook that somebody else wrote stays.
    """
    hook = os.path.join('.git', 'hooks', 'post-merge')
    if not os.path.isdir('.git') or os.environ.get('CI'): return
    if os.path.exists(hook):
        with open(hook) as f:
            if 'nbdev' not in f.read(): return
    home = tempfile.mkdtemp()
    env = dict(os.environ, HOME=home, PATH=binaries + os.pathsep + os.environ.get('PATH', ''))
    try:
        subprocess.check_call([os.path.join(binaries, 'nbdev_install_hooks')], env=env,
                              stdout=subprocess.DEVNULL)
        subprocess.check_call(['git', 'config', '--local', 'merge.nbdev-merge.driver',
                               "'{}/nbdev_merge' %O %A %B %P".format(binaries)])
        with open(hook, 'w') as f: f.write('#!/bin/bash\n"{}/nbdev_trust"\n'.format(binaries))
    except (OSError, subprocess.CalledProcessError):
        sys.stderr.write("nbdev's git hooks could not be installed; everything else works without"
                         ' them.\n')
    finally: shutil.rmtree(home, ignore_errors=True)


def hooks_here():
    "The hooks by this Python's nbdev, where it has one and no other works already."
    binaries = os.path.dirname(HERE)
    try: missing = not os.access(driver(), os.X_OK)
    except OSError: return # no git here
    if missing and os.access(os.path.join(binaries, 'nbdev_merge'), os.X_OK): hooks(binaries)


def ready(venv, goals):
    "The environment, as `make` wants it."
    check_python(goals)
    check_place(venv)
    try:
        make(venv)
        install(venv)
    except KeyboardInterrupt: sys.exit(130)
    hooks(os.path.join(os.path.abspath(venv), 'bin'))
    with open(os.path.join(venv, '.ready'), 'w'): pass


def docs(venv):
    "Jupyter Book, too."
    check_place(venv)
    print('Adding Jupyter Book to {}, for the site: 10 MB, once.'.format(venv))
    sys.stdout.flush()
    try: install(venv, '.[docs]')
    except KeyboardInterrupt: sys.exit(130)
    with open(os.path.join(venv, '.docs'), 'w'): pass


if __name__ == '__main__':
    if sys.argv[1] == '--hooks': hooks_here()
    elif sys.argv[1] == '--docs': docs(sys.argv[2])
    else: ready(sys.argv[1], ' '.join(sys.argv[2:]) or 'test')
