"A recipe of one small system, for tests that run, kill and resume it."

KEY = 'toy/net:paper@demo'
_RECIPE = """title = "Toy"
seeds = {seeds}
[systems.net]
label = "net"
notebook = ""
model = "erc.models.shift:ShiftNet"
data = "erc.studies.shapes:load_pairs"
encode = {{sentence = "text", previous = "previous"}}
encoder = "hashing"
features = ["sentence", "previous"]
target = "shift"
unit = "turn"
corpora = ["demo"]
as_printed = true
variants.paper = {{epochs = {epochs}, batch = 64, lr = [1e-3, 1e-2]}}
"""


def toy_recipe(epochs: int, seeds=5) -> str:
    "Return the text of the recipe."
    return _RECIPE.format(epochs=epochs, seeds=seeds)
