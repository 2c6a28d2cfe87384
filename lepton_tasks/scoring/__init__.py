"""Files of samples in, files of answers out, without a server."""
