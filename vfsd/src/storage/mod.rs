//! Durable bytes: the log, atomic files, the data directory.
