"""`make lock`: requirements.lock, the versions of all that this environment has for the project.

It holds what settings.ini names and whatever that needs, as pip reads it with --constraint: of a
package that another system does not need there, the line has no effect. So `make test LOCK=1` in a
fresh clone, or `pip install --editable '.[dev]' --constraint requirements.lock`, installs what was
tested. There are no hashes: a version has another file for each system, and here there is one.

`lock.py audit`, or `make audit`, asks pip-audit whether one of them is known to be unsafe. It needs
the network, and `pip install pip-audit` in any environment that is on your PATH.
"""
import configparser
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1]
LOCK = PROJECT/'requirements.lock'


def named(path=PROJECT/'settings.ini'): # list of Requirement
    "What settings.ini asks for, the tools of development among it."
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(path)
    return [Requirement(r) for key in ('requirements', 'dev_requirements')
            for r in settings['DEFAULT'][key].split()]


def wanted(requirement, extras): # bool
    "Whether it is needed here, for one of these extras or without any."
    marker = requirement.marker
    return marker is None or any(marker.evaluate({'extra': e}) for e in ('', *extras))


def closure(requirements): # name -> version
    "Packages and all that they need, as they are installed here; one that is missing ends it."
    found, todo = {}, [(r, ()) for r in requirements]
    while todo:
        r, extras = todo.pop()
        key = canonicalize_name(r.name), *sorted(r.extras)
        if key in found or not wanted(r, extras): continue
        try: about = metadata.distribution(r.name)
        except metadata.PackageNotFoundError: sys.exit(
            f'{r.name} is not installed in {sys.prefix}: bring it in line with settings.ini first')
        found[key] = Version(about.version).public # without +cpu, which no registry has
        todo += [(Requirement(n), r.extras) for n in about.requires or ()]
    return {name: version for (name, *_), version in found.items()}


def write(path=LOCK):
    versions = closure(named())
    head = f'# make lock, with Python {platform.python_version()}: {len(versions)} packages.'
    lines = [f'{name}=={versions[name]}' for name in sorted(versions)]
    path.write_text('\n'.join([head, *lines]) + '\n')
    print(f'{path.name}: {len(lines)} packages')


def audit(path=LOCK): # exit status
    "What pip-audit says about the locked versions."
    if not (tool := shutil.which('pip-audit')): sys.exit(
        'There is no pip-audit on the PATH: pip install pip-audit, in an environment of its own')
    return subprocess.call([tool, '--requirement', path, '--no-deps', '--disable-pip',
                            '--strict']) # one that cannot be asked about is no "safe"


if __name__ == '__main__': sys.exit(audit() if sys.argv[1:] == ['audit'] else write())
