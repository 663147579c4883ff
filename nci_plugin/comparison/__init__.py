"""How sure a difference between detectors is: paired tests and intervals on stored scores."""
