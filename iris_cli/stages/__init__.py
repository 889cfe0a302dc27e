"""The verbs of the toolkit, one a file: a settings dataclass and a function that returns a Report."""
