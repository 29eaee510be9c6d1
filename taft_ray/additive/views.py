"""Views of a picture: itself, and middles of it that are nested. Vectors that are the mean over views see an object at several sizes.

View k leaves out k sixteenths of each side at every edge, and is enlarged to the whole size again. Legend: n pictures.
"""

from __future__ import annotations

from torch import Tensor, nn

from taft_ray.additive.options import check_views
from taft_ray.errors import UsageError

PARTS = 16  # of a side


def check_views_of(height: int, width: int, views: int) -> None:
    """UsageError for a number of views that pictures of this size cannot have."""
    check_views(views)
    if views > 1 and min(height, width) < PARTS:
        raise UsageError(
            f"views={views}: pictures of {height} x {width} are smaller than {PARTS} x {PARTS}, and have one view; "
            "leave --views out, or raise --image-size"
        )


def view(images: Tensor, number: int) -> Tensor:
    """View ``number`` (0 is the picture) of images (n, 3, H, W): as large, by bilinear interpolation.

    Guarantees: a picture's view does not depend on its neighbours in the batch.
    """
    if number == 0:
        return images
    height, width = images.shape[-2:]
    top, left = number * height // PARTS, number * width // PARTS
    middle = images[..., top : height - top, left : width - left]
    return nn.functional.interpolate(middle, (height, width), mode="bilinear", align_corners=False)
