"""Stand-ins. A package, so that pytest does not put this folder, and torch_mlu, on sys.path."""
