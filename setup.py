"""Hands settings.ini, the one list of dependencies, to setuptools."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser()
config.read(Path(__file__).parent / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']

setup(
    version=settings['version'],
    description=settings['description'],
    keywords=settings['keywords'].split(),
    author=settings['author'],
    author_email=settings['author_email'],
    url=settings['git_url'],
    packages=[settings['lib_path']],
    package_data={settings['lib_path']: ['shipped/*.safetensors']},
    install_requires=settings['requirements'].split(),
    extras_require={extra: settings[f'{extra}_requirements'].split() for extra in ('dev', 'docs')},
)
