"""`make .venv/.ready`: an environment with all that settings.ini names, and nbdev's hooks for git.

Run by the Python that the environment is made with, before anything is installed, as
`environment.py FOLDER GOAL`. It must also be readable to a Python that is too old, so that this one
is told so: no f-strings, no annotations.
"""
import os
import re
import subprocess
import sys

HERE = sys.executable


def check_python(goal):
    if sys.version_info >= (3, 10): return
    sys.exit('Python 3.10 or newer is needed, and {} is Python {}. Name a newer one:'
             ' make {} PYTHON=python3.12'.format(HERE, sys.version.split()[0], goal))


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


def install(venv):
    "pip, of which only the large downloads are shown; all that it says is in install.log."
    path, tail = os.path.join(venv, 'install.log'), []
    command = [os.path.join(venv, 'bin', 'python'), '-m', 'pip', 'install', '--no-input',
               '--progress-bar', 'off', '--editable', '.[dev]']
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


def hooks(venv):
    """nbdev's hooks, which merge notebooks cell by cell and trust what was pulled, in this clone.

    nbdev would also write to ~/.jupyter, hence HOME. They are named by their full path, so that
    they work where the environment is not active. A hook that somebody else wrote stays.
    """
    hook = os.path.join('.git', 'hooks', 'post-merge')
    if not os.path.isdir('.git') or os.environ.get('CI'): return
    if os.path.exists(hook):
        with open(hook) as f:
            if 'nbdev' not in f.read(): return
    venv = os.path.abspath(venv)
    binaries = os.path.join(venv, 'bin')
    env = dict(os.environ, HOME=venv, PATH=binaries + os.pathsep + os.environ.get('PATH', ''))
    try:
        subprocess.check_call([os.path.join(binaries, 'nbdev_install_hooks')], env=env,
                              stdout=subprocess.DEVNULL)
        subprocess.check_call(['git', 'config', '--local', 'merge.nbdev-merge.driver',
                               "'{}/nbdev_merge' %O %A %B %P".format(binaries)])
        with open(hook, 'w') as f: f.write('#!/bin/bash\n"{}/nbdev_trust"\n'.format(binaries))
    except (OSError, subprocess.CalledProcessError):
        sys.stderr.write("nbdev's git hooks could not be installed; everything else works without"
                         ' them.\n')


if __name__ == '__main__':
    folder, goals = sys.argv[1], ' '.join(sys.argv[2:]) or 'test'
    check_python(goals)
    try:
        make(folder)
        install(folder)
    except KeyboardInterrupt: sys.exit(130)
    hooks(folder)
    with open(os.path.join(folder, '.ready'), 'w'): pass
