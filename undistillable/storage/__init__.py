"""Files that are whole or not there, who holds a run, paths of users."""
