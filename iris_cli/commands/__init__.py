"""The commands by what they are for: a name, options, one sentence, an example and one call each.

All that is heavy is imported inside them, so that help comes at once.
"""
