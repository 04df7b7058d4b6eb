"""Scenes: rasters that are read window by window, and how they are cut into tiles. Needs the extra `[geo]`.

`open_scene("scene.tif")` opens GeoTIFF/COG (local, HTTP, S3), Sentinel-2 SAFE and STAC Items.
"""

from nec.scenes.opening import open_scene
from nec.scenes.scene import Band, Scene

__all__ = ["Band", "Scene", "open_scene"]
