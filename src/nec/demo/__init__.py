"""The demonstration: what ships, seen through."""
