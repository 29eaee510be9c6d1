"""The version of the package; specs and exported models name it."""

VERSION = "1.0.0rc1"
