"""`splitbed model ...`: a model looked at, cut and proven, without a run."""
