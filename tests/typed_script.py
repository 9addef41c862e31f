"A user's script, checked by mypy against the types of the front door; never executed."

from pathlib import Path

import pandas as pd

import erc
from erc import Corpus, Interval, RunKey

corpus: Corpus = erc.load_corpus('demo')
names: tuple = corpus.classes
rows: pd.DataFrame = corpus.table
corpus = erc.encode(corpus, 'hashing', feature='words')

model = erc.train('context_gru', corpus, features=['words'], seeds=2)
score: Interval = model.score('test')
low: float = score.low
same = erc.compare(model, model)
again = erc.load(model.save('mine')).on(corpus)
names_of_classes: list = again.classes
shape: tuple = again.probabilities(corpus).shape
pairs: pd.DataFrame = erc.compare_systems(corpus, ['context_gru']).pairs
better: str = same.verdict

key: RunKey = RunKey.parse('shapes/gruarc:tuned@iemocap6')
record = erc.record(key)
text: str = f'{record.metric} {record.interval()}'

frames: list[pd.DataFrame] = [erc.records(), erc.systems('shapes'), erc.claims()]
papers: list[str] = erc.papers()
latex: str = erc.table('shapes', 'table4').to_latex()
home: Path = erc.root()
