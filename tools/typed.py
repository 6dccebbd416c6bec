"What was typed after make, cut into words as a shell cuts it, and never shown to a shell."
import os
import shlex
import sys


def words(name): # of a variable -> list; processes that this one starts do not see it
    "A variable of make's, which puts what was typed into the environment."
    text = os.environ.pop(name, '')
    try: return shlex.split(text)
    except ValueError as e: sys.exit(f'{name}={text}: {e}')
