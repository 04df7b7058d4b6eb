"""Images -> model -> codec -> store. Needs the extra `[torch]`, `[geo]` for rasters, and
`[dask]` for clusters."""

from nec.encode.encode import encode, encode_array
from nec.encode.fit import fit_codec, sample_array, sample_embeddings
from nec.encode.scene import encode_scene

__all__ = ["encode", "encode_array", "encode_scene", "fit_codec", "sample_array", "sample_embeddings"]
