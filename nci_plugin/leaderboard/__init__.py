"""OpenOOD's leaderboard: rows from Results, their place among the published ones, and a checkout that takes them."""
