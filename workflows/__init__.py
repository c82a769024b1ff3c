"""The workflow files, and the scripts that write them. Only the files are part of the installed pack."""
