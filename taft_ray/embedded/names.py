"""The name of the model that the package carries with it."""

EMBEDDED_NAME = "taft_vit_cifar"
