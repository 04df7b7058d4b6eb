"""Images -> model -> codec -> store. Needs the extra `[torch]`, and `[geo]` for GeoTIFFs."""

from nec.pipeline.encode import encode, encode_array
from nec.pipeline.fit import fit_codec, sample_array, sample_embeddings

__all__ = ["encode", "encode_array", "fit_codec", "sample_array", "sample_embeddings"]
