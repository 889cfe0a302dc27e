"""Games: what an environment is (spec.py), the published Atari wrappers, other Gymnasium ids, several at once."""
