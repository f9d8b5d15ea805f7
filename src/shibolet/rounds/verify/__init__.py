"""`shibolet verify`: whether this model, on this machine, is read, heard, trained and saved as it should be."""
