"""From features to Results: the search for hyper-parameters, scores, and rows that know what they came from."""
