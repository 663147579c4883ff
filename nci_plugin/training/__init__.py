"""The small trainings behind the digits benchmark and the study of collapse along training."""
