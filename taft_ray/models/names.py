"""How a model's name says where the model lies, beside timm's own names."""

HUB, FOLDER = "hf-hub:", "local-dir:"
