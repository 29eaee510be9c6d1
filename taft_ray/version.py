"""The version of the package; specs and exported models name it."""

VERSION = "0.2.0"
