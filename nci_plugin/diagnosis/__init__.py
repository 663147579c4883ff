"""What has collapsed in a network, layer by layer, and what its collapse says of ID and OOD samples."""
