"""What was typed after make, cut into words as a shell cuts it, and never shown to a shell.

`typed.py MODULE ARG...` runs a module of this Python with these arguments and those in ARGS.
"""
import os
import runpy
import shlex
import sys


def words(name): # of a variable -> list; processes that this one starts do not see it
    "A variable of make's, which puts what was typed into the environment."
    text = os.environ.pop(name, '')
    try: return shlex.split(text)
    except ValueError as e: sys.exit(f'{name}={text}: {e}')


if __name__ == '__main__':
    sys.argv[:] = [*sys.argv[1:], *words('ARGS')]
    sys.path[0] = ''
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
