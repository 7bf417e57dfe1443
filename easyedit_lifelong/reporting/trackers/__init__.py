"""Result trackers: tables in the run's folder, and services that are installed apart."""
