"""Families planted in real activations, and the diagnosis of SAEs trained on them and on the bare activations."""
