"""The version of this toolkit, in one place that setuptools and `iris --version` both read."""

VERSION = "0.1.0"
