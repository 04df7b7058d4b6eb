"""What others read: STAC Items, GeoParquet, quick-looks. One file a format."""
