"""From a fitted detector to a service: files, thresholds with a guarantee, one module with the network, drift."""
