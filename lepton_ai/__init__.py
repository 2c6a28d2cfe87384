"""The Python face of Lepton."""
