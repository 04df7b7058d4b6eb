"""What consumers ask of compressed stores: more of the same, values at points, change, means of polygons.

The classes here are halves of `ImageStore` and `RasterStore`, which give them their bytes.
"""

from nec.search.images import Matches, SearchableImages
from nec.search.rasters import Change, ScoreMap, SearchableRaster

__all__ = ["Change", "Matches", "ScoreMap", "SearchableImages", "SearchableRaster"]
