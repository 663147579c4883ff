"""OpenOOD v1.5 (Zhang et al. 2023): its checkout, its postprocessors and its scripts. The only importer of openood."""
