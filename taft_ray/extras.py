"""Optional packages, and the extra of taft_ray that installs each."""

from __future__ import annotations

from importlib import import_module

EXTRAS = {
    "adlfs": "azure",
    "fastapi": "serve",
    "gcsfs": "gcs",
    "mlflow": "mlflow",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "starlette": "serve",
    "uvicorn": "serve",
}
_READS = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}  # of fsspec, by protocol


def needed(doing: str, package: str | None) -> str:
    """The sentence of an error where a package is not installed: what needs it, and the way out."""
    extra = EXTRAS.get((package or "").partition(".")[0])
    if extra is None:
        return f"{doing} needs {package or 'a package that is not installed'}; install it with pip"
    return f"{doing} needs {package}; pip install 'taft_ray[{extra}]'"


def unreadable(protocol: str, doing: str, error: Exception) -> str | None:
    """Why fsspec has no file system for an address, where a missing package is the reason; else None."""
    package = _READS.get(protocol)
    if package is not None and not _is_installed(package):  # fsspec does not know each protocol: then a ValueError
        return needed(doing, package)
    return f"{doing} needs a package that is not installed: {error}" if isinstance(error, ImportError) else None


def _is_installed(package: str) -> bool:
    try:
        import_module(package)
    except ImportError:
        return False
    return True
