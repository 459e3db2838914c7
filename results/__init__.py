"""The only contract between training and analysis: the record, its store, its provenance."""
