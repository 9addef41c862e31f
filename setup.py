"Packaging, read from settings.ini so that each fact stands once."

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
needs = {name: cfg[f'{name}_requirements'].split() for name in ('run', 'dev', 'minilm')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author=cfg['author'],
    keywords=cfg['keywords'],
    packages=find_packages(include=['erc', 'erc.*']),
    include_package_data=True,
    package_data={'erc': ['recipes/*.toml', 'reference/*', 'report/templates/*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={**needs, 'dev': needs['run'] + needs['dev']},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    zip_safe=False,
)
