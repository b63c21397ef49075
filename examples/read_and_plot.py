"""Read an SAE that was saved, and draw what its latents hold: read_and_plot.py [FILE [SEED of its directions]]."""

import sys

import numpy as np

import matryoshka_mixing as mm
from matryoshka_mixing import figures

name, seed = [*sys.argv[1:], *("one_sae.safetensors", "0")[len(sys.argv) - 1 :]]
sae = mm.SAE.load(name)
tree = mm.family(0.3, 0.4)
# Its directions, as a NumPy array, which is taken as well as a tensor.
directions = np.asarray(mm.orthonormal_dictionary(tree.n_features, sae.config.d_in, int(seed)))
setting = mm.Setting(sae.config, tree.states(), directions)
reading = mm.read(sae, tree.states(), setting.dictionary, tree.parents())
figures.use_style()
panels = {"decoder": reading.decoder.numpy(), "encoder": reading.encoder.numpy()}
figures.heatmaps(panels, tree.names).savefig("one_sae.png")
print(f"{sae.config.d_sae} latents of widths {sae.config.widths}; drawn into one_sae.png")
