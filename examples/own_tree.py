"""A tree of your own with three levels: does a Matryoshka SAE with a prefix for each level find its features?"""

import matryoshka_mixing as mm
from matryoshka_mixing import metrics

animal = mm.FeatureTree(0.3, (
    mm.FeatureTree(0.5, (mm.FeatureTree(0.4, id="poodle"), mm.FeatureTree(0.4, id="beagle")), True, id="dog"),
    mm.FeatureTree(0.3, id="cat"),
), mutually_exclusive_children=True, id="animal")  # fmt: skip
tree = mm.FeatureTree(1.0, (animal,), is_read_out=False)

# Latents follow the levels: first the animal, then dog and cat, then the breeds.
directions = mm.orthonormal_dictionary(tree.n_features, 20, seed=0)
config = mm.SAEConfig(20, widths=(1, 3, 5), l1=0.01)
start = mm.start_near(directions, range(16), noise=0.3, order=tree.by_level())
run = mm.train(mm.Setting(config, tree.states(), directions), start, mm.TrainConfig(8000))

reading = mm.read(run.sae[0], tree.states(), directions, tree.parents())
print(run.report())
# By what latents do: a feature that none stands for is -1 in `assigned`, and has no row in the table.
held = (reading.assigned >= 0).sum(0).tolist()
print("SAEs of 16 with a latent for", ", ".join(f"{name}: {n}" for name, n in zip(tree.names, held, strict=True)))
table = metrics.labelled(reading.decoder, reading.assigned, tree)
print(table.groupby(["stands_for", "relation"]).cosine.median().unstack().round(3))
