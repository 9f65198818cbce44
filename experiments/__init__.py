"""The measuring side: pictures, campaigns and their evaluation."""
