"""What lies in files: tensors, archives, manifests, and every check that keeps a bad file from being believed."""
