"""How makespan and the driver's time grow with trials, workers and data."""
