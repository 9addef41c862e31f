"Packaging, read from settings.ini so that each fact is written once."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here / 'settings.ini', encoding='utf-8')
facts = ini['DEFAULT']
extras = {name: facts[f'{name}_requirements'].split() for name in ('run', 'minilm', 'book', 'dev')}
extras['dev'] = sorted(set().union(*extras.values()))
extras |= {name: facts[f'{name}_requirements'].split() for name in ('cluster', 'media')}

setup(
    name=facts['lib_name'],
    version=facts['version'],
    description=facts['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author=facts['author'],
    keywords=facts['keywords'],
    classifiers=[line.strip() for line in facts['classifiers'].split(';')],
    packages=find_packages(include=['erc', 'erc.*']),
    include_package_data=True,
    package_data={
        'erc': ['py.typed', 'recipes/*.toml', 'reference/*', 'report/templates/*', 'weights/*/*'],
    },
    python_requires='>=' + facts['min_python'],
    install_requires=facts['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': facts['console_scripts'].split()},
    zip_safe=False,
)
