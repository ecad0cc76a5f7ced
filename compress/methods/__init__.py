"""Methods: artifact(s) in, artifact out; each file is one sub-command of `compress`."""
