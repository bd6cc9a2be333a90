"""What all rooms stand on: paths, files that are written whole, provenance, checksums, typed configuration."""
