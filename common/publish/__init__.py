"""A verdict as a folder that is ready to be pushed: the page, the scripts, the logs and what reviewers look for."""
