"""64 random seeds, each with its own directions, start and batches; then one of them is saved, and its seed said."""

import matryoshka_mixing as mm

tree, seeds = mm.family(parent_probability=0.3, child_probability=0.4, n_children=2), range(64)
dictionaries = mm.orthonormal_dictionaries(tree.n_features, 20, seeds)
config = mm.SAEConfig(20, widths=(1, 3), l1=0.03)
setting = mm.Setting(config, tree, dictionaries)
run = mm.train(setting, mm.random_start(config, seeds), mm.TrainConfig(2000, batch_size=200), threads=2, progress=True)

reading = mm.read(run.sae[0], tree.states(), dictionaries, tree.parents())
live = reading.all_live
print(f"{int(live.sum())} of 64 SAEs have no dead latent")
print(f"their parent's latent leans {reading.mixing.parent_to_child[live].median():.3f} toward a child (the truth: 0)")
print(f"they absorb {reading.absorption[live].nanmean():.0%} of the parent beside a child")
chosen = int(live.int().argmax())
run.sae[0, chosen].save("one_sae.safetensors")
print(f"one_sae.safetensors holds that of seed {seeds[chosen]}")
