"""The one pass: images -> FeatureBank and ClassStatistics, by one process or many, in memory or on disk."""
