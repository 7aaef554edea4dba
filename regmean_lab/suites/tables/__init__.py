"""Tables of texts: rows of files of any usual format or of data sets of the library ``datasets``, as examples."""
